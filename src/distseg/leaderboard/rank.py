"""Who is best: a pure function of the trial records, whatever order they come in.

The rule: trials measured under the same conditions are ranked by their figure, best first; equal figures by study and
``trial_id``, so each has its own rank. What cannot be compared stands apart with a line why. A rank says nothing of
chance: ``tied`` marks every row whose difference from the best may be none (see ties.py).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from distseg.errors import InputError
from distseg.leaderboard.store import Trial
from distseg.leaderboard.ties import Interval
from distseg.records import LeaderboardRow, Status, StudyInfo, TrialRecord

Differences = Callable[[Trial, Sequence[Trial]], Sequence[Interval | None]]
"""(best, others) -> 95 % interval of each other's metric minus the best's; None where it cannot be told."""


class Conditions(NamedTuple):
    """What must be equal before two figures can be compared."""

    task: str
    metric: str
    """By which a trial chose its best epoch."""
    split: str
    """The split's digest; it names the fold where one is chosen."""
    resolution: str
    """``WxH`` in pixels, or ``of each image`` where the stored sizes differ."""


def rank(
    trials: Iterable[Trial], metric: str, mode: str, differences: Differences | None = None
) -> list[LeaderboardRow]:
    """All trials as rows: ranked ones, those not measured yet, those that stand apart, failed ones.

    Ranked are the trials of the largest comparable set (those that were chosen by ``metric`` before others) that have
    a finite ``metric`` and did not fail. ``mode`` is ``max`` or ``min``. Without ``differences`` no tie is told. Trial
    ids are unique in a study.
    """
    everyone = sorted(trials, key=_name)
    failed = [trial for trial in everyone if trial.record.status is Status.FAILED]
    alive = [trial for trial in everyone if trial.record.status is not Status.FAILED]
    sign = -1 if mode == "max" else 1
    figures = [(number(trial.record.metrics.get(metric)), trial) for trial in alive]
    measured = [(sign * figure, trial) for figure, trial in figures if figure is not None]
    best_first = [trial for _, trial in sorted(measured, key=lambda pair: pair[0])]  # stable: equals keep their order

    main, *others = comparable_sets(best_first, metric) or [[]]
    rows = _ranked(main, differences)
    rows += [_row(trial) for figure, trial in figures if figure is None]
    rows += [_row(trial, apart=_difference(trial.record, main[0].record)) for other in others for trial in other]
    return rows + [_row(trial) for trial in failed]


def sorting(studies: Sequence[StudyInfo], records: Iterable[TrialRecord], wanted: str | None) -> tuple[str, str]:
    """(metric, mode) to rank by: those of the first study, or another metric, whose highest figure is then the best.

    InputError, naming the known ones, for a metric that no trial has.
    """
    if wanted is None or wanted == studies[0].metric:
        return studies[0].metric, studies[0].mode
    for study in studies[1:]:
        if wanted == study.metric:
            return study.metric, study.mode
    measured = {name for record in records for name, value in record.metrics.items() if number(value) is not None}
    if wanted not in measured:
        known = ", ".join(sorted(measured | {study.metric for study in studies}))
        names = "', '".join(study.name for study in studies)
        raise InputError(f"--sort: got '{wanted}', but study '{names}' measures only {known}; sort by those")
    return wanted, "max"  # every metric of a Score lies in [0, 1], and 1 is perfect


def comparable_sets(trials: Iterable[Trial], metric: str) -> list[list[Trial]]:
    """Trials that were measured under the same conditions, together; in each set they keep their order.

    Sets chosen by ``metric`` come first, then the largest; of two as large, the one with the smaller first name.
    """
    sets: dict[Conditions, list[Trial]] = defaultdict(list)
    for trial in trials:
        sets[conditions(trial.record)].append(trial)
    return sorted(
        sets.values(), key=lambda members: (members[0].record.metric != metric, -len(members), min(map(_name, members)))
    )


def conditions(record: TrialRecord) -> Conditions:
    """Under what the trial's metrics were measured."""
    resolution = "of each image" if record.resolution is None else "{}x{}".format(*record.resolution)
    return Conditions(record.task, record.metric, record.split_digest, resolution)


def number(value: Any) -> float | None:
    """The value when it is a finite number, else None: a NaN is no figure."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def _name(trial: Trial) -> tuple[str, str]:
    return trial.study, trial.record.trial_id


def _ranked(best_first: Sequence[Trial], differences: Differences | None) -> list[LeaderboardRow]:
    if not best_first:
        return []
    best, *others = best_first
    intervals = [None] * len(others) if differences is None else differences(best, others)
    ties = [None if interval is None else interval[0] <= 0 <= interval[1] for interval in intervals]
    of_best = None if all(tie is None for tie in ties) else any(ties)
    return [
        _row(best, rank=1, tied=of_best),
        *(
            _row(trial, rank=place, tied=tie, difference=interval)
            for place, (trial, tie, interval) in enumerate(zip(others, ties, intervals, strict=True), start=2)
        ),
    ]


def _difference(record: TrialRecord, reference: TrialRecord) -> str:
    own, wanted = (found._replace(split=found.split[:8]) for found in (conditions(record), conditions(reference)))
    differing = [name for name in Conditions._fields if getattr(own, name) != getattr(wanted, name)]
    return "; ".join(f"{name} {getattr(own, name)}, not {getattr(wanted, name)}" for name in differing)


def _row(
    trial: Trial,
    rank: int | None = None,
    tied: bool | None = None,
    difference: Interval | None = None,
    apart: str | None = None,
) -> LeaderboardRow:
    record = trial.record
    return LeaderboardRow(
        rank=rank,
        tied=tied,
        difference=difference,
        apart=apart,
        study=trial.study,
        trial_id=record.trial_id,
        status=record.status,
        reason=record.reason,
        metrics=record.metrics,
        intervals=record.intervals,
        overrides=record.overrides,
        architecture=record.architecture,
        epochs=record.epochs,
        epochs_planned=record.epochs_planned,
        best_epoch=record.best_epoch,
        images_seen=record.images_seen,
        gpu_hours=record.gpu_hours,
        cpu_hours=record.cpu_hours,
        energy_wh=record.energy_wh,
        gpu_memory_bytes=record.gpu_memory_bytes,
        gpu_memory_used_bytes=record.gpu_memory_used_bytes,
        seconds=record.seconds,
        data_digest=record.data_digest,
        split_digest=record.split_digest,
        split_leaky=record.split_leaky,
        resolution=record.resolution,
        samples=record.samples,
        bad_samples=record.bad_samples,
        folder=str(trial.folder),
        checkpoint=None if record.checkpoint is None else str(trial.folder / record.checkpoint),
    )
