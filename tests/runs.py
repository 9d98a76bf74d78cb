"""Tiny runs in this process: what to train, how to stop it, and whether two ended alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CONFIGS

from distseg import checkpoint, config
from distseg.config import with_overrides
from distseg.records import TrialRecord
from distseg.train import loop
from distseg.train.run_folder import RunSpec
from distseg.train.state import TrainState
from distseg.train.step import train_step
from distseg.train.worker import LocalWorker

EPOCHS, STEPS = 3, 3  # 8 samples in batches of 3, the last one filled up: 3 steps an epoch
TINY = config.load_run(
    CONFIGS / "smoke.yaml",
    ["model.width=2", f"train.epochs={EPOCHS}", "train.batch_global=3", "train.checkpoint_steps=1"],
)


class Stop(Exception):
    """Where a test kills a run: at once, as SIGKILL would."""


def spec_of(folder: Path, shards: Path, changes: dict[str, Any] | None = None) -> RunSpec:
    return RunSpec(with_overrides(TINY, changes or {}), str(shards), folder, trial_id=folder.name)


class TellingWorker(LocalWorker):
    """A local worker whose reports reach a test."""

    def __init__(self, on_epoch: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(0, 1, torch.device("cpu"))
        self._on_epoch = on_epoch

    def report(self, epoch: dict[str, Any]) -> None:
        self._on_epoch(epoch)


def worker(on_epoch: Callable[[dict[str, Any]], None] = lambda row: None) -> LocalWorker:
    return TellingWorker(on_epoch)


def final(spec: RunSpec) -> dict[str, Any]:
    return checkpoint.load(spec.folder / "checkpoints/last.pt")


def losses(tree: dict[str, Any]) -> list[tuple[float, float, float]]:
    return [(row["loss"], row["score"], row["lr"]) for row in tree["history"]]


def metrics(tree: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(row["metrics"], row["intervals"]) for row in tree["history"]]


def assert_same_end(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Weights, optimizer and history equal to the bit."""
    assert one["network"].keys() == other["network"].keys()
    assert [name for name, value in one["network"].items() if not torch.equal(value, other["network"][name])] == []
    for number, moments in one["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, other["optimizer"]["state"][number][name]), (number, name)
    assert losses(one) == losses(other)
    assert metrics(one) == metrics(other)
    assert (one["step"], one["stopped_early"]) == (other["step"], other["stopped_early"])
    assert (one["ema"] is None) == (other["ema"] is None)
    if one["ema"] is not None:
        assert one["ema"].keys() == other["ema"].keys()
        assert [name for name, value in one["ema"].items() if not torch.equal(value, other["ema"][name])] == []


def record_on_disk(spec: RunSpec) -> TrialRecord:
    return TrialRecord.load(spec.folder)


def files_of(folder: Path) -> set[str]:
    """All files of a run but those of TensorBoard, whose names tell the time."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path) for path in files if path.parts[0] != "tensorboard"}


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end, without a word, while they work on global step ``step``; ``monkeypatch.undo`` lets them live."""

    def killed(trainer: Any, task: Any, state: TrainState, *others: Any) -> torch.Tensor:
        if state.step == step:
            raise Stop
        return train_step(trainer, task, state, *others)

    monkeypatch.setattr(loop, "train_step", killed)
    monkeypatch.setattr(loop, "close_record", lambda *_: None)  # SIGKILL leaves no time for that
