"""The files of one run: its config, record, history and best checkpoint. Rank 0 alone writes them."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distseg import __version__, atomic, checkpoint, config, records
from distseg.config import RunConfig
from distseg.data.cache import ShardCache
from distseg.data.manifest import BadSample, ShardFolder
from distseg.errors import FencedError
from distseg.models.build import BuiltModel
from distseg.records import Score, Status, TrialRecord
from distseg.train.state import TrainState, identity
from distseg.train.upload import Uploads
from distseg.train.worker import Worker


@dataclass(frozen=True)
class RunSpec:
    """Which run to train: everything that its config leaves open."""

    config: RunConfig
    data: str
    """Folder of shards, or its URL."""
    folder: Path
    """Where the run's files go; resumed when it holds a checkpoint."""
    trial_id: str
    cache: ShardCache | None = None
    """Takes copies of shards behind a URL, on each node."""
    gpus_per_worker: float = 1
    """What a worker that computes on a GPU holds of it."""
    study: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def upload(self) -> str | None:
        """URL of the folder that takes copies of this run's checkpoints: each trial of a study has one of its own."""
        url = self.config.train.upload
        return url if url is None or self.study is None else f"{url.rstrip('/')}/{self.study}/{self.trial_id}"


def record_of(
    spec: RunSpec, state: TrainState, shards: ShardFolder, steps: int, worker: Worker, notes: tuple[str, ...] = ()
) -> TrialRecord:
    """The run's record as its state says; ``notes``: beside those that it has already."""
    manifest = shards.manifest
    before = TrialRecord.load(spec.folder) if (spec.folder / records.RECORD_FILE).exists() else None
    best = state.best(spec.config.eval.mode)
    gpu = worker.device.type == "cuda"
    memory, used = (before.gpu_memory_bytes, before.gpu_memory_used_bytes) if before else (0, 0)
    over = state.step >= steps or state.stopped_early
    return TrialRecord(
        trial_id=spec.trial_id,
        study=spec.study,
        status=Status.COMPLETED if over else Status.RUNNING,
        reason=f"no better epoch in {spec.config.train.patience_epochs}" if state.stopped_early else None,
        task=spec.config.task,
        metric=spec.config.eval.metric,
        mode=spec.config.eval.mode,
        overrides=spec.overrides,
        architecture=spec.config.model.architecture,
        metrics=best["metrics"] if best else {},
        intervals=best["intervals"] if best else {},
        epochs=len(state.history),
        epochs_planned=spec.config.train.epochs,
        best_epoch=best["epoch"] if best else None,
        images_seen=state.step * spec.config.train.batch_global,
        data=str(shards.root),
        data_digest=manifest.data_digest,
        split_digest=manifest.split_digest_of(spec.config.data.fold),
        split_leaky=manifest.split_leaky,
        resolution=manifest.size if best else None,
        samples=best["samples"] if best else 0,
        bad_samples=len(state.bad),
        world_size=worker.world_size,
        world_sizes=_world_sizes(state, worker.world_size),
        gpu_hours=state.gpu_seconds / 3600,
        cpu_hours=state.cpu_seconds / 3600,
        energy_wh=state.energy_wh,
        gpu_memory_bytes=max(memory, torch.cuda.max_memory_allocated(worker.device) if gpu else 0),
        gpu_memory_used_bytes=max(used, state.gpu_memory_used_bytes),
        seconds=state.seconds,
        checkpoint=records.BEST_CHECKPOINT if best else None,
        created_at=before.created_at if before else records.now(),
        notes=notes or (before.notes if before else ()),
        versions={"distseg": __version__, "torch": torch.__version__},
    )


def write_start(spec: RunSpec, state: TrainState, record: TrialRecord, uploads: Uploads) -> None:
    """A run's first files; of one that goes on, what it may have been killed before writing after its checkpoint."""
    last = spec.folder / records.LAST_CHECKPOINT
    for folder in (spec.folder, last.parent, spec.folder / records.PANELS_FOLDER):
        atomic.remove_leftovers(folder)
    atomic.write_text(spec.folder / records.CONFIG_FILE, config.dump(spec.config))
    _write_history(spec.folder, state.history, state.bad.values())
    record.save(spec.folder)
    if state.history and state.step == state.history[-1]["step"]:
        keep_last(spec.folder, state.history[-1]["epoch"], spec.config.train.keep_last)
    for path in (spec.folder / records.BEST_CHECKPOINT, last):
        if path.exists():
            uploads.copy(path)


def write_progress(spec: RunSpec, state: TrainState, record: TrialRecord) -> None:
    """History and record; FencedError where somebody has ended the record meanwhile."""
    _write_history(spec.folder, state.history, state.bad.values())
    if not record.save_unless_ended(spec.folder):
        fence(spec.folder)


def catch_up(folder: Path, saved: dict[str, Any]) -> None:
    """Writes what a run was killed before writing after ``saved``, its last checkpoint: history and record."""
    _write_history(folder, saved["history"], map(BadSample.model_validate, saved["bad"]))
    TrialRecord.model_validate_json(saved["record"]).save_unless_ended(folder)


def _write_history(folder: Path, history: list[dict[str, Any]], bad: Iterable[BadSample]) -> None:
    atomic.write_text(folder / records.EPOCHS_FILE, "".join(json.dumps(row) + "\n" for row in history))
    if lines := "".join(sample.model_dump_json() + "\n" for sample in bad):
        atomic.write_text(folder / records.BAD_FILE, lines)


def save_best(spec: RunSpec, state: TrainState, shards: ShardFolder, built: BuiltModel, score: Score) -> Path:
    """``best.pt``, with all that predicting takes, and the counts that belong to it."""
    tree = {
        **identity(spec.config, shards.manifest),
        "network": state.evaluated.state_dict(),
        "mean": list(built.mean),  # they follow the pretrained weights, which a reader of this file need not load
        "std": list(built.std),
        "epoch": state.history[-1]["epoch"],
        "metrics": score.metrics,
    }
    path = spec.folder / records.BEST_CHECKPOINT
    checkpoint.save(path, tree)
    atomic.write_text(spec.folder / records.GROUPS_FILE, json.dumps(score.groups) + "\n")
    return path


def keep_last(folder: Path, epoch: int, number: int) -> None:
    """Keeps ``last.pt`` of the ``number`` - 1 epochs before this one, as ``epoch-0007.pt``, and removes older ones.

    Doing it again changes nothing, so a run that was killed before it could does it when it goes on.
    """
    last = folder / records.LAST_CHECKPOINT
    for path in last.parent.glob("epoch-*.pt"):
        if int(path.stem.removeprefix("epoch-")) <= epoch - number:
            path.unlink()
    if number > 1:
        atomic.link_or_copy(last, last.with_name(f"epoch-{epoch:04d}.pt"))


def fence(folder: Path) -> None:
    """FencedError in a run whose record its study has ended meanwhile: its word may not reach a worker at once."""
    status = TrialRecord.load(folder).status
    if status is not Status.RUNNING:
        raise FencedError(f"{folder}: the run was ended as {status} by its study; nothing more is written")


def close_record(spec: RunSpec, status: Status, reason: str) -> None:
    """Ends the record of a run that did not end by itself, where there is one."""
    if (spec.folder / records.RECORD_FILE).exists():
        record = TrialRecord.load(spec.folder)
        record.model_copy(update={"status": status, "reason": reason}).save_unless_ended(spec.folder)


def one_line(error: BaseException) -> str:
    """``Type: first line``, as a record's reason."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _world_sizes(state: TrainState, now: int) -> tuple[int, ...]:
    """Numbers of workers, one after another, that trained the epochs so far and train now."""
    sizes = [*(row["world_size"] for row in state.history), now]
    return tuple(size for size, _ in itertools.groupby(sizes))
