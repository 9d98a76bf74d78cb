"""Which group stands where: train, val or test, and in which fold. Pure arithmetic on names, sizes and a seed.

A group (all views of one car, all frames of one sequence) is never divided. Where there are several classes, their
pixels are dealt out too, so that a rare class stands on both sides if its groups allow.
"""

import math
from collections.abc import Mapping, Sequence

from distseg.data.manifest import SPLITS, Split
from distseg.data.order import permutation
from distseg.errors import DataError

_SPLIT, _FOLDS = 0, 1  # so that the two shuffles of one seed differ


ClassPixels = Mapping[str, Mapping[int, int]]
"""Of each group, how many pixels each label has; labels without pixels may be left out."""


def check_fractions(groups: int, val_fraction: float, test_fraction: float) -> int:
    """How many parts the fractions make; DataError when they leave nothing for train or there are too few groups."""
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise DataError(
            f"val fraction {val_fraction} and test fraction {test_fraction}: want both at least 0 and their sum below 1"
        )
    parts = 1 + (val_fraction > 0) + (test_fraction > 0)
    if groups < parts:
        raise DataError(
            f"{groups} group(s) cannot make {parts} parts, and groups are never divided; "
            "add groups, or set the fraction of a part to 0"
        )
    return parts


def check_folds(groups: int, folds: int) -> None:
    """DataError unless 2 <= folds <= groups."""
    if not 2 <= folds <= groups:
        raise DataError(f"{folds} folds of {groups} groups: want at least 2 folds, and a group for each")


def split_groups(
    samples: Mapping[str, int],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    class_pixels: ClassPixels | None = None,
) -> dict[str, Split]:
    """Split of each group, given how many samples each one has; stratified when ``class_pixels`` is given.

    Groups are shuffled and taken while they fit: first test, then val, the rest is train. Train has a group at least,
    and so has a part whose fraction is not 0; but for that, a part misses its fraction of the samples by at most half
    the smallest group left over. Stratified, groups are dealt (see `_deal`) so that samples and pixels of each class
    both come near the fractions. The same arguments give the same split.
    DataError on fractions that leave nothing for train and on too few groups.
    """
    parts = check_fractions(len(samples), val_fraction, test_fraction)
    shuffled = _shuffled(samples, seed, _SPLIT)
    if class_pixels is not None:
        wanted: dict[Split, float] = {
            "train": 1 - val_fraction - test_fraction,
            "val": val_fraction,
            "test": test_fraction,
        }
        names = [split for split in SPLITS if wanted[split] > 0]
        dealt = _deal(shuffled, samples, class_pixels, [wanted[split] for split in names])
        return {group: names[part] for group, part in dealt.items()}
    total = sum(samples.values())
    splits: dict[str, Split] = dict.fromkeys(samples, "train")
    if test_fraction:
        taken = _take(shuffled, samples, test_fraction * total, keep=parts - 1)
        splits.update(dict.fromkeys(taken, "test"))
    if val_fraction:
        left = [group for group in shuffled if splits[group] == "train"]
        splits.update(dict.fromkeys(_take(left, samples, val_fraction * total, keep=1), "val"))
    return splits


def fold_groups(
    samples: Mapping[str, int], folds: int, seed: int, class_pixels: ClassPixels | None = None
) -> dict[str, int]:
    """Fold 0..folds-1 of each group, given how many samples each one has; stratified when ``class_pixels`` is given.

    The largest groups first, each to the fold that has the fewest samples so far (groups of one size in shuffled
    order): folds differ by at most the largest group. Stratified, groups are dealt (see `_deal`).
    DataError unless 2 <= folds <= groups.
    """
    check_folds(len(samples), folds)
    if class_pixels is not None:
        return _deal(_shuffled(samples, seed, _FOLDS), samples, class_pixels, [1 / folds] * folds)
    held = [0] * folds
    fold_of = {}
    for group in sorted(_shuffled(samples, seed, _FOLDS), key=lambda group: -samples[group]):
        fold = held.index(min(held))
        fold_of[group] = fold
        held[fold] += samples[group]
    return fold_of


def _deal(
    shuffled: Sequence[str], samples: Mapping[str, int], class_pixels: ClassPixels, fractions: Sequence[float]
) -> dict[str, int]:
    """Part of each group, so that every part gets its fraction of the samples and of each class's pixels.

    The groups that hold most of any class (or of the samples) come first, each to the part where the cost grows least:
    the sum over samples and classes of (share held - fraction)^2 / fraction, samples weighing as much as all classes
    together. No part stays empty. (Sechidis et al. 2011 stratify several labels in the same spirit.)
    """
    totals: dict[int | None, int] = {None: sum(samples.values())}  # None: the samples themselves
    for group in shuffled:
        for label, pixels in class_pixels[group].items():
            totals[label] = totals.get(label, 0) + pixels
    weights = dict.fromkeys(totals, 1 / max(1, len(totals) - 1)) | {None: 1.0}
    shares = {
        group: {None: samples[group] / totals[None]}
        | {label: pixels / totals[label] for label, pixels in class_pixels[group].items() if pixels}
        for group in shuffled
    }
    held: list[dict[int | None, float]] = [{} for _ in fractions]
    part_of: dict[str, int] = {}
    for group in sorted(shuffled, key=lambda group: -max(shares[group].values())):
        empty = [part for part, has in enumerate(held) if not has]
        choice = empty if len(empty) == len(shuffled) - len(part_of) else range(len(held))
        costs = {
            # share s on top of h held adds (h + s - f)^2 / f - (h - f)^2 / f = s (2h + s) / f - 2s; 2s is in all parts
            # fsum: rounded once, whatever the order, so that every machine finds the same split
            part: math.fsum(
                weights[name] * share * (2 * held[part].get(name, 0.0) + share) / fractions[part]
                for name, share in shares[group].items()
            )
            for part in choice
        }
        part = min(choice, key=costs.__getitem__)
        part_of[group] = part
        for name, share in shares[group].items():
            held[part][name] = held[part].get(name, 0.0) + share
    return part_of


def _take(groups: Sequence[str], samples: Mapping[str, int], wanted: float, *, keep: int) -> list[str]:
    """At least one group and about ``wanted`` samples; ``keep`` groups stay behind."""
    room = len(groups) - keep
    taken: list[str] = []
    held = 0
    for group in groups:
        if len(taken) < room and held + samples[group] <= wanted:
            taken.append(group)
            held += samples[group]
    left = set(groups).difference(taken)
    smallest = min((group for group in groups if group in left), key=samples.__getitem__)
    over, under = held + samples[smallest] - wanted, wanted - held
    if len(taken) < room and (not taken or over < under):
        taken.append(smallest)
    return taken


def _shuffled(groups: Mapping[str, int], seed: int, purpose: int) -> list[str]:
    names = sorted(groups)
    return [names[position] for position in permutation(len(names), seed, purpose)]
