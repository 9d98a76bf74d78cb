"""The values that cross rooms: Score, TrialRecord, LeaderboardRow, ExportManifest.

They hold plain Python only, so the rooms that must not import torch (leaderboard, queue) read them freely.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from distseg import atomic
from distseg.errors import HomeError

STUDY_FILE = "study.json"
TRIALS_FOLDER = "trials"
RECORD_FILE = "record.json"
GROUPS_FILE = "groups.json"
EPOCHS_FILE = "epochs.jsonl"
PROGRESS_FILE = "progress.json"
BAD_FILE = "bad.jsonl"
CONFIG_FILE = "config.yaml"
LAST_CHECKPOINT = "checkpoints/last.pt"
BEST_CHECKPOINT = "checkpoints/best.pt"
PANELS_FOLDER = "panels"
EXTREMES_PICTURE = "panels/best_median_worst.png"
EXTREMES_FILE = "panels/best_median_worst.json"


class Value(BaseModel):
    """An immutable record; a change is a copy (``model_copy(update=...)``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Status(StrEnum):
    """States of a trial (and of a run outside a study)."""

    PENDING = "PENDING"  # recorded, not started
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"  # all epochs done
    PRUNED = "PRUNED"  # stopped by the scheduler; its metrics count
    FAILED = "FAILED"  # `reason` says why
    INTERRUPTED = "INTERRUPTED"  # can be resumed from its last checkpoint

    @property
    def finished(self) -> bool:
        """Nothing more will happen to this trial, even after a resume of its study."""
        return self in (Status.COMPLETED, Status.PRUNED, Status.FAILED)


class Score(Value):
    """A model measured on a split: counts summed over all samples of all ranks, then divided once."""

    metrics: dict[str, Any]
    """By name: floats in [0, 1]; ``per_class`` is a list of such mappings."""
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap interval over groups, by metric."""
    groups: dict[str, dict[str, Any]]
    """Per group (car, sequence) the sums from which the metrics follow, for intervals over groups."""
    samples: int
    resolution: tuple[int, int] | None
    """(width, height) in pixels of the stored masks, at which the score was measured; None: sizes differ."""


class StudyInfo(Value):
    """What a study says of itself: ``study.json`` in its folder."""

    name: str
    metric: str
    """Key of ``metrics`` that the search optimizes."""
    mode: Literal["max", "min"]
    base: str
    """Name of the base config."""
    trials_planned: int
    data: str
    """Where the shards are."""
    data_digest: str
    split_digest: str
    warm_start: str | None = None
    """The study whose best trials it began with."""
    job_id: str | None = None
    """The queue's job that runs it, whose next attempt goes on with it."""
    created_at: str
    version: str

    @classmethod
    def load(cls, folder: Path) -> "StudyInfo":
        """Reads ``folder/study.json``; HomeError when absent or torn."""
        path = folder / STUDY_FILE
        try:
            return cls.model_validate_json(path.read_text())
        except OSError as error:
            raise HomeError(f"{path}: cannot be read ({error.strerror}); is this a study's folder?") from error
        except (ValidationError, ValueError) as error:
            raise HomeError(f"{path}: torn or foreign; restore the file or start a new study") from error


class TrialRecord(Value):
    """All that is known of one training run; saved as ``record.json`` in its folder, rewritten after each epoch."""

    trial_id: str
    study: str | None = None
    status: Status
    reason: str | None = None
    """Why it failed or stopped, in one line."""
    task: str
    metric: str
    mode: str
    overrides: dict[str, Any] = {}
    """Dotted paths changed from the study's base config."""
    architecture: str
    metrics: dict[str, Any] = {}
    """Those of ``best.pt``."""
    intervals: dict[str, tuple[float, float]] = {}
    """95 % bootstrap interval over groups, by metric, of ``best.pt``."""
    epochs: int = 0
    """Epochs finished."""
    epochs_planned: int
    best_epoch: int | None = None
    images_seen: int = 0
    data: str
    """Where the shards are."""
    data_digest: str
    split_digest: str
    split_leaky: bool = False
    resolution: tuple[int, int] | None = None
    """(width, height) in pixels at which the metrics were measured; None before the first validation."""
    samples: int = 0
    """Validation samples behind the metrics."""
    bad_samples: int = 0
    world_size: int = 1
    """Workers that trained last."""
    world_sizes: tuple[int, ...] = ()
    """Numbers of workers that trained one after another, where a run goes on with those that are left."""
    gpu_hours: float = 0.0
    """Wall time times GPUs held, parts of one too."""
    cpu_hours: float = 0.0
    """CPU time used by the training processes, over all ranks."""
    energy_wh: float = 0.0
    """Used by the GPUs, watt-hours; of one that trials share, the part held; 0 where NVML does not tell."""
    gpu_memory_bytes: int = 0
    """Most memory that torch held at once on a GPU (rank 0's)."""
    gpu_memory_used_bytes: int = 0
    """Most memory in use on that GPU at once, by all that share it (NVML, once a second); 0 where it is silent."""
    seconds: float = 0.0
    """Wall time of training, interruptions left out."""
    checkpoint: str | None = None
    """Path of ``best.pt``, relative to the record's folder."""
    created_at: str
    versions: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    """What a person should know of how it started, a line each: weights that were left out."""

    def save(self, folder: Path, *, wait: bool = True) -> None:
        """Writes ``folder/record.json`` atomically; without ``wait``, not waiting until it is on disk."""
        with _held(folder):
            self._write(folder, wait)

    def save_unless_ended(self, folder: Path) -> bool:
        """Writes over a record that is not finished; False, and nothing written, where somebody has ended it."""
        with _held(folder):
            if TrialRecord.load(folder).status.finished:
                return False
            self._write(folder)
            return True

    def _write(self, folder: Path, wait: bool = True) -> None:
        atomic.write_text(folder / RECORD_FILE, self.model_dump_json(indent=1) + "\n", wait=wait)

    @classmethod
    def load(cls, folder: Path) -> "TrialRecord":
        """Reads ``folder/record.json``; HomeError when absent or torn."""
        path = folder / RECORD_FILE
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError as error:
            raise HomeError(f"{folder}: no {RECORD_FILE}; is this a run's folder?") from error
        except (ValidationError, ValueError) as error:
            raise HomeError(f"{path}: torn or foreign record; remove the folder or restore the file") from error


class Progress(Value):
    """Where a run stands between two epochs: ``progress.json`` in its folder."""

    step: int
    steps: int
    epoch: int
    """The one being trained, from 1."""
    epochs: int
    loss: float
    """Mean over rank 0's images of the epoch, or since the last checkpoint, so far."""
    images_per_s: float
    """Over all ranks, in the last second or so."""
    seconds_left: float | None
    """Of training, validation not counted; None before it can be told."""
    gpu_utilisation: float | None
    """Of rank 0's GPU, in [0, 1]; this and the next two are None where NVML finds none."""
    gpu_memory_bytes: int | None
    gpu_power_w: float | None

    @classmethod
    def load(cls, folder: Path) -> "Progress | None":
        """Reads ``folder/progress.json``; None before there is one."""
        try:
            return cls.model_validate_json((folder / PROGRESS_FILE).read_text())
        except (OSError, ValueError):
            return None


class LeaderboardRow(Value):
    """One trial on the leaderboard."""

    rank: int | None
    """1 is best; None for trials that failed, have no metric yet, or stand apart."""
    tied: bool | None = None
    """Whether chance alone may have put it behind the best (of the best: whether any row is tied with it).

    None where it cannot be told: not ranked, no counts per group, fewer than two groups in common.
    """
    difference: tuple[float, float] | None = None
    """95 % paired bootstrap interval over groups of its metric minus that of the best; tied: it contains zero."""
    apart: str | None = None
    """Why this trial cannot be compared with the ranked ones (another metric, split, resolution, task or fold)."""
    study: str
    trial_id: str
    status: Status
    reason: str | None
    metrics: dict[str, Any]
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap interval over groups, by metric."""
    overrides: dict[str, Any]
    architecture: str
    epochs: int
    epochs_planned: int
    best_epoch: int | None
    images_seen: int
    gpu_hours: float
    cpu_hours: float
    energy_wh: float
    gpu_memory_bytes: int
    gpu_memory_used_bytes: int
    seconds: float
    data_digest: str
    split_digest: str
    split_leaky: bool
    resolution: tuple[int, int] | None
    samples: int
    bad_samples: int
    folder: str
    """Absolute path of the trial's files."""
    checkpoint: str | None
    """Absolute path of the trial's best checkpoint."""


class Parity(Value):
    """How closely an exported file followed the eager model on one device, over all sizes and batches tried."""

    device: str
    precision: str
    """fp32 or bf16 (autocast), of both sides."""
    cases: tuple[str, ...]
    max_logit_difference: float | None
    """None where the file gives no logits."""
    logit_tolerance: float | None = None
    """The widest that was allowed; None where the file gives no logits, or was made before there was one."""
    max_probability_difference: float
    probability_tolerance: float
    """The widest that was allowed."""
    mask_agreement: float
    """Smallest part of pixels with the same label over the cases; all that differ are undecided in the model."""


class ExportManifest(Value):
    """What an exported file says of itself: the extra file ``distseg.json`` in it, of ONNX an entry of its metadata."""

    format_version: int = 2
    task: str
    classes: tuple[str, ...]
    input_size: tuple[int, int] | None
    """(width, height) to which images are resized inside; None: they are not."""
    resolution: tuple[int, int] | None
    """(width, height) at which ``metrics`` were measured; None: stored sizes differ."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    divisor: int
    """Inputs are padded inside to a multiple of this many pixels."""
    metric: str
    metrics: dict[str, Any]
    """Computed from this very file: not copied from training, nor from another format's file."""
    samples: int
    trial: str
    study: str | None
    overrides: dict[str, Any]
    config: dict[str, Any]
    data_digest: str
    split_digest: str
    checkpoint_sha256: str
    parity: tuple[Parity, ...]
    """One for each device and precision."""
    versions: dict[str, str]
    created_at: str

    def of_file(self, score: Score, parity: tuple[Parity, ...]) -> "ExportManifest":
        """The manifest of the file of which this was found."""
        return self.model_copy(update={"metrics": score.metrics, "samples": score.samples, "parity": parity})

    @classmethod
    def bare(cls, classes: tuple[str, ...]) -> "ExportManifest":
        """Of a file of which nothing else is known: no training, no measurement, no check."""
        return cls(
            task="binary" if len(classes) == 2 else "multiclass",
            classes=classes,
            input_size=None,
            resolution=None,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            divisor=1,
            metric="",
            metrics={},
            samples=0,
            trial="",
            study=None,
            overrides={},
            config={},
            data_digest="",
            split_digest="",
            checkpoint_sha256="",
            parity=(),
            versions={},
            created_at="",
        )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keeps other writers of a folder's record waiting, where the file system can lock a folder (NFS cannot)."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a torn last line (its writer was killed) is left out. Empty when absent."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    rows = [json.loads(line) for line in lines[:-1] if line]
    if lines[-1]:
        with suppress(ValueError):  # the only line that can be torn: every other ends in a newline
            rows.append(json.loads(lines[-1]))
    return rows
