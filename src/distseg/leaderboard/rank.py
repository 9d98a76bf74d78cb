"""Who is best: a pure function of the trial records, whatever order they come in."""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from distseg.errors import InputError
from distseg.records import TRIALS_FOLDER, LeaderboardRow, Status, StudyInfo, TrialRecord


class Conditions(NamedTuple):
    """What must be equal before two figures can be compared."""

    task: str
    split: str
    """The split's digest; it names the fold where one is chosen."""
    resolution: str
    """``WxH`` in pixels, or ``of each image`` where the stored sizes differ."""


def rank(records: Iterable[TrialRecord], metric: str, mode: str, root: Path) -> list[LeaderboardRow]:
    """All trials of one study as rows: ranked ones, those not measured yet, those that stand apart, failed ones.

    Ranked are the trials of the largest comparable set that have a finite ``metric`` and did not fail; equal figures
    are ranked by ``trial_id``, so each has its own rank. ``mode`` is ``max`` or ``min``; ``root`` is the absolute
    path of the study's folder. Trial ids are unique.
    """
    everyone = sorted(records, key=lambda record: record.trial_id)
    failed = [record for record in everyone if record.status is Status.FAILED]
    alive = [record for record in everyone if record.status is not Status.FAILED]
    sign = -1 if mode == "max" else 1
    measured = [(sign * value, record) for record in alive if (value := number(record.metrics.get(metric))) is not None]
    waiting = [record for record in alive if number(record.metrics.get(metric)) is None]
    best_first = [record for _, record in sorted(measured, key=lambda pair: pair[0])]  # stable: ties keep trial order

    main, *others = comparable_sets(best_first) or [[]]
    rows = [_row(record, root, rank=place) for place, record in enumerate(main, start=1)]
    rows += [_row(record, root) for record in waiting]
    rows += [_row(record, root, apart=_difference(record, main[0])) for other in others for record in other]
    return rows + [_row(record, root) for record in failed]


def sorting(study: StudyInfo, records: Iterable[TrialRecord], wanted: str | None) -> tuple[str, str]:
    """(metric, mode) to rank by: those of the study, or another metric, whose highest figure is then the best.

    InputError, naming the known ones, for a metric that no trial has.
    """
    if wanted is None or wanted == study.metric:
        return study.metric, study.mode
    measured = {name for record in records for name, value in record.metrics.items() if number(value) is not None}
    if wanted not in measured:
        known = ", ".join(sorted(measured | {study.metric}))
        raise InputError(f"--sort: got '{wanted}', but study '{study.name}' measures only {known}; sort by those")
    return wanted, "max"  # every metric of a Score lies in [0, 1], and 1 is perfect


def comparable_sets(records: Iterable[TrialRecord]) -> list[list[TrialRecord]]:
    """Records that were measured under the same conditions, together; in each set they keep their order.

    The largest set comes first; of two as large, the one with the smaller first trial id.
    """
    sets: dict[Conditions, list[TrialRecord]] = defaultdict(list)
    for record in records:
        sets[conditions(record)].append(record)
    return sorted(sets.values(), key=lambda members: (-len(members), min(record.trial_id for record in members)))


def conditions(record: TrialRecord) -> Conditions:
    """Under what the trial's metrics were measured."""
    resolution = "of each image" if record.resolution is None else "{}x{}".format(*record.resolution)
    return Conditions(record.task, record.split_digest, resolution)


def number(value: Any) -> float | None:
    """The value when it is a finite number, else None: a NaN is no figure."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def _difference(record: TrialRecord, reference: TrialRecord) -> str:
    own, wanted = (found._replace(split=found.split[:8]) for found in (conditions(record), conditions(reference)))
    differing = [name for name in Conditions._fields if getattr(own, name) != getattr(wanted, name)]
    return "; ".join(f"{name} {getattr(own, name)}, not {getattr(wanted, name)}" for name in differing)


def _row(record: TrialRecord, root: Path, rank: int | None = None, apart: str | None = None) -> LeaderboardRow:
    folder = root / TRIALS_FOLDER / record.trial_id
    return LeaderboardRow(
        rank=rank,
        apart=apart,
        trial_id=record.trial_id,
        status=record.status,
        reason=record.reason,
        metrics=record.metrics,
        overrides=record.overrides,
        architecture=record.architecture,
        epochs=record.epochs,
        epochs_planned=record.epochs_planned,
        gpu_hours=record.gpu_hours,
        cpu_hours=record.cpu_hours,
        seconds=record.seconds,
        data_digest=record.data_digest,
        split_digest=record.split_digest,
        split_leaky=record.split_leaky,
        resolution=record.resolution,
        bad_samples=record.bad_samples,
        checkpoint=None if record.checkpoint is None else str(folder / record.checkpoint),
    )
