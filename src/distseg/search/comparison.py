"""Variants of one training run, each repeated over seeds, side by side: pure arithmetic on what trials left.

A variant's figure is the mean over its seeds. Its difference to the baseline is paired twice: seed by seed, as a seed
gives both the same initial weights and the same order of images, and group by group, as both are measured on the same
cars or sequences.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distseg.records import EPOCHS_FILE, GROUPS_FILE, Status, TrialRecord, Value, read_json_lines
from distseg.scores import Sums, group_sums, percentile_interval, resampled, values

SEED = "seed"


@dataclass(frozen=True)
class Repeat:
    """One training of one variant, measured on one split."""

    trial_id: str
    variant: str
    seed: int
    metrics: Mapping[str, Any]
    """Of ``best.pt``, the epoch that did best on the validation groups."""
    groups: Mapping[str, Mapping[str, Any]]
    """Sums per group, as ``groups.json`` keeps them."""
    best_epoch: int
    last: float | None
    """The metric on the validation groups after the last epoch."""
    loss: float
    """Mean training loss of the last epoch."""
    images_seen: int
    seconds: float


class Unusable(Value):
    """A trial that is in no mean."""

    trial_id: str
    variant: str
    seed: int
    reason: str


class Row(Value):
    """One variant."""

    variant: str
    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    mean: float
    spread: float | None
    """Standard deviation over seeds (n - 1); None of one seed."""
    difference: float | None
    """Mean over the seeds that both have, variant less baseline; None for the baseline itself and without one."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the difference over groups, paired; None with fewer than two groups."""
    seeds_better: int | None
    """In how many of the seeds that both have it did better than the baseline."""
    per_class: dict[str, float | None]
    """Mean IoU over seeds by class name; None for a class that nobody saw."""
    per_class_spread: dict[str, float | None]
    best_epoch: float
    """Mean over seeds, as all that follows."""
    last: float | None
    loss: float
    images_seen: int
    """Largest of its seeds."""
    seconds: float


class Comparison(Value):
    """All variants on one split."""

    split: Literal["val", "test"]
    metric: str
    mode: str
    baseline: str | None
    groups: int
    samples: int
    equal_budgets: bool
    """Every trial saw the same number of images."""
    rows: tuple[Row, ...]
    unusable: tuple[Unusable, ...]

    def classes(self) -> list[str]:
        """Names of the classes, in their order."""
        return list(self.rows[0].per_class) if self.rows else []


def repeats(
    records: Sequence[TrialRecord], trials: Path, field: str, metric: str
) -> tuple[list[Repeat], list[Unusable]]:
    """The completed trials of a study as measured on the validation groups, and those that cannot be compared.

    ``trials``: the folder of the trials' folders. ``field``: the config field whose value names the variant.
    """
    usable, unusable = [], []
    for record in records:
        variant, seed = str(record.overrides.get(field)), int(record.overrides.get(SEED, 0))
        if record.status is not Status.COMPLETED or record.best_epoch is None:
            reason = record.reason or f"is {record.status}"
            unusable.append(Unusable(trial_id=record.trial_id, variant=variant, seed=seed, reason=reason))
            continue
        folder = trials / record.trial_id
        epochs = read_json_lines(folder / EPOCHS_FILE)
        usable.append(
            Repeat(
                trial_id=record.trial_id,
                variant=variant,
                seed=seed,
                metrics=record.metrics,
                groups=json.loads((folder / GROUPS_FILE).read_text()),
                best_epoch=record.best_epoch,
                last=epochs[-1]["metrics"].get(metric),
                loss=epochs[-1]["loss"],
                images_seen=record.images_seen,
                seconds=record.seconds,
            )
        )
    return usable, unusable


def compare(
    found: Sequence[Repeat],
    *,
    split: Literal["val", "test"],
    metric: str,
    mode: str,
    baseline: str,
    unusable: Sequence[Unusable] = (),
) -> Comparison:
    """The table of all variants, in the order in which they first occur; all were measured on the same groups."""
    variants = {repeat.variant: {r.seed: r for r in found if r.variant == repeat.variant} for repeat in found}
    reference = variants.get(baseline)
    one = next(iter(found), None)
    return Comparison(
        split=split,
        metric=metric,
        mode=mode,
        baseline=baseline if reference else None,
        groups=len(one.groups) if one else 0,
        samples=sum(group["images"] for group in one.groups.values()) if one else 0,
        equal_budgets=len({repeat.images_seen for repeat in found}) <= 1,
        rows=tuple(
            _row(name, seeds, None if name == baseline else reference, metric, mode) for name, seeds in variants.items()
        ),
        unusable=tuple(unusable),
    )


def paired_interval(
    variant: Sequence[Sums], baseline: Sequence[Sums], metric: str, classes: int
) -> tuple[float, float] | None:
    """95 % bootstrap interval over groups of the mean difference of a metric, variant less baseline.

    Each sequence has one array of sums (groups, width) per seed, rows in the same order of groups. Groups are drawn
    with replacement, the same ones for both sides and all seeds; seeds are averaged. None with fewer than two groups.
    """
    groups = len(variant[0])
    if groups < 2:
        return None
    draws = resampled(groups)

    def mean(side: Sequence[Sums]) -> Sums:
        over_seeds: Sums = np.mean([values(draws @ sums, classes)[metric] for sums in side], axis=0)
        return over_seeds

    return percentile_interval(mean(variant) - mean(baseline))


def _row(name: str, seeds: Mapping[int, Repeat], reference: Mapping[int, Repeat] | None, metric: str, mode: str) -> Row:
    found = [seeds[seed] for seed in sorted(seeds)]
    by_seed = [repeat.metrics[metric] for repeat in found]
    difference, interval, better = None, None, None
    common = sorted(seeds.keys() & reference.keys()) if reference else []
    if reference and common:
        differences = [seeds[seed].metrics[metric] - reference[seed].metrics[metric] for seed in common]
        difference = statistics.fmean(differences)
        better = sum((d > 0) if mode == "max" else (d < 0) for d in differences)
        own, theirs = ([group_sums(side[seed].groups) for seed in common] for side in (seeds, reference))
        interval = paired_interval(own, theirs, metric, len(found[0].metrics["per_class"]))
    lasts = [repeat.last for repeat in found if repeat.last is not None]
    iou = _per_class(found)
    return Row(
        variant=name,
        seeds=tuple(sorted(seeds)),
        by_seed=tuple(by_seed),
        mean=statistics.fmean(by_seed),
        spread=_spread(by_seed),
        difference=difference,
        interval=interval,
        seeds_better=better,
        per_class={label: statistics.fmean(rates) if rates else None for label, rates in iou.items()},
        per_class_spread={label: _spread(rates) for label, rates in iou.items()},
        best_epoch=statistics.fmean(repeat.best_epoch for repeat in found),
        last=statistics.fmean(lasts) if lasts else None,
        loss=statistics.fmean(repeat.loss for repeat in found),
        images_seen=max(repeat.images_seen for repeat in found),
        seconds=statistics.fmean(repeat.seconds for repeat in found),
    )


def _per_class(found: Sequence[Repeat]) -> dict[str, list[float]]:
    """IoU of each class in the repeats where it is defined."""
    rates: dict[str, list[float]] = {entry["class"]: [] for entry in found[0].metrics["per_class"]}
    for repeat in found:
        for entry in repeat.metrics["per_class"]:
            if entry["iou"] is not None:
                rates[entry["class"]].append(entry["iou"])
    return rates


def _spread(figures: Sequence[float]) -> float | None:
    return statistics.stdev(figures) if len(figures) > 1 else None
