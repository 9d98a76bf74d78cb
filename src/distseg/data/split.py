"""Which group stands where: train, val or test, and in which fold. Pure arithmetic on names, sizes and a seed.

A group (all views of one car, all frames of one sequence) is never divided.
"""

from collections.abc import Mapping, Sequence

from distseg.data.manifest import Split
from distseg.data.order import permutation
from distseg.errors import DataError

_SPLIT, _FOLDS = 0, 1  # so that the two shuffles of one seed differ


def split_groups(
    samples: Mapping[str, int], *, val_fraction: float, test_fraction: float, seed: int
) -> dict[str, Split]:
    """Split of each group, given how many samples each one has.

    Groups are shuffled and taken while they fit: first test, then val, the rest is train. Train has a group at least,
    and so has a part whose fraction is not 0; but for that, a part misses its fraction of the samples by at most half
    the smallest group left over. The same names, sizes, fractions and seed give the same split.
    DataError on fractions that leave nothing for train and on too few groups.
    """
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise DataError(
            f"val fraction {val_fraction} and test fraction {test_fraction}: want both at least 0 and their sum below 1"
        )
    parts = 1 + (val_fraction > 0) + (test_fraction > 0)
    if len(samples) < parts:
        raise DataError(
            f"{len(samples)} group(s) cannot make {parts} parts, and groups are never divided; "
            "add groups, or set the fraction of a part to 0"
        )
    shuffled = _shuffled(samples, seed, _SPLIT)
    total = sum(samples.values())
    splits: dict[str, Split] = dict.fromkeys(samples, "train")
    if test_fraction:
        taken = _take(shuffled, samples, test_fraction * total, keep=parts - 1)
        splits.update(dict.fromkeys(taken, "test"))
    if val_fraction:
        left = [group for group in shuffled if splits[group] == "train"]
        splits.update(dict.fromkeys(_take(left, samples, val_fraction * total, keep=1), "val"))
    return splits


def fold_groups(samples: Mapping[str, int], folds: int, seed: int) -> dict[str, int]:
    """Fold 0..folds-1 of each group, given how many samples each one has.

    The largest groups first, each to the fold that has the fewest samples so far (groups of one size in shuffled
    order): folds differ by at most the largest group. DataError unless 2 <= folds <= groups.
    """
    if not 2 <= folds <= len(samples):
        raise DataError(f"{folds} folds of {len(samples)} groups: want at least 2 folds, and a group for each")
    held = [0] * folds
    fold_of = {}
    for group in sorted(_shuffled(samples, seed, _FOLDS), key=lambda group: -samples[group]):
        fold = held.index(min(held))
        fold_of[group] = fold
        held[fold] += samples[group]
    return fold_of


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
