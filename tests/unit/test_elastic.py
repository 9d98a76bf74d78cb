"""A run goes on with another number of workers: the same samples in the same batches, and a record that says so."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import EPOCHS, STEPS, TINY, Stop, kill_at, record_on_disk, spec_of, worker

from distseg.data.manifest import ShardFolder
from distseg.train import epoch, loop
from distseg.train.data import open_data
from distseg.train.epoch import Since, take_in
from distseg.train.loop import run
from distseg.train.run_folder import record_of
from distseg.train.state import TrainState
from distseg.train.telemetry import GpuMeter
from distseg.train.worker import LocalWorker

CPU = torch.device("cpu")


def keys(shards: Path, world_size: int, first_step: int, steps: int) -> list[tuple[str, ...]]:
    """What all ranks together read at each global step, in rank order."""
    folder = ShardFolder.open(shards)
    ranks = [
        open_data(TINY, folder, LocalWorker(rank, world_size, CPU)).training(first_step, steps, lambda step: 0.0)
        for rank in range(world_size)
    ]
    return [sum((batch.keys for batch in batches), ()) for batches in zip(*ranks, strict=True)]


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=4))
def test_the_sequence_of_samples_is_the_same_whatever_the_world_size_changes(
    shards: Path, turns: list[tuple[int, int]]
) -> None:
    """``turns``: (workers, global steps until one is lost or joins); in batches of three, so ranks are uneven."""
    seen: list[tuple[str, ...]] = []
    for world_size, steps in turns:
        seen += keys(shards, world_size, len(seen), len(seen) + steps)
    assert seen == keys(shards, 1, 0, len(seen))


def test_the_record_says_with_how_many_workers(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path / "run", shards)
    kill_at(2 * STEPS, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    assert record_on_disk(spec).world_sizes == (1,)
    folder = ShardFolder.open(shards)
    state = TrainState.create(TINY, torch.nn.Linear(1, 1), CPU, "fp32")
    rows = {"score": None, "epoch": 1, "step": STEPS}
    state.history = [{**rows, "world_size": size} for size in (2, 2, 1)]
    for now, sizes in ((1, (2, 1)), (2, (2, 1, 2))):
        record = record_of(spec, state, folder, EPOCHS * STEPS, LocalWorker(0, now, CPU))
        assert (record.world_size, record.world_sizes) == (now, sizes)


class OnGpu(LocalWorker):
    """A worker that believes it has a GPU."""

    def __init__(self) -> None:
        super().__init__(0, 1, torch.device("cuda", 0))


def begin_on_a_cpu(since: Since, begin: Callable[[Since], None] = Since.start) -> None:
    """No test has a GPU: the sums stay where they can be."""
    since.device = CPU
    begin(since)


class OneHourAt400Watts(GpuMeter):
    """What a whole GPU used by its first reading and by its second."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self._readings = iter([100.0, 500.0, 500.0])

    def energy_wh(self) -> float:
        return next(self._readings)


@pytest.mark.parametrize(("gpus", "gpu_seconds", "energy_wh"), [(0.25, 900, 100), (1, 3600, 400), (2, 7200, 400)])
def test_gpu_hours_and_energy_count_the_part_of_a_gpu_that_is_held(
    gpus: float, gpu_seconds: float, energy_wh: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that holds two computes on one, whose energy is all that is measured."""
    clock = iter([0.0, 3600.0, 3600.0])
    monkeypatch.setattr(epoch.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(Since, "start", begin_on_a_cpu)
    since = Since(OnGpu(), OneHourAt400Watts(), gpus=gpus, loss_names=())
    state = TrainState.create(TINY, torch.nn.Linear(1, 1), CPU, "fp32")
    take_in(since, state, TINY, 12)
    assert (state.gpu_seconds, state.energy_wh, state.seconds) == (gpu_seconds, energy_wh, 3600)


def test_a_run_counts_the_gpu_memory_of_its_own(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm process has trained other trials, with a peak of their own."""

    def reset(device: torch.device) -> None:
        assert device == OnGpu().device
        raise Stop

    monkeypatch.setattr(loop, "on_device", lambda network, *_: network)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    with pytest.raises(Stop):
        run(spec_of(tmp_path / "run", shards), OnGpu())


def test_a_run_that_goes_on_keeps_its_largest_gpu_memory(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = spec_of(tmp_path / "run", shards), ShardFolder.open(shards)
    kept = []
    for allocated, used in ((20, 30), (3, 5), (21, 31)):  # of three processes, one after another
        state = TrainState.create(TINY, torch.nn.Linear(1, 1), CPU, "fp32")
        state.gpu_memory_used_bytes = used
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device, allocated=allocated: allocated)
        record = record_of(spec, state, folder, EPOCHS * STEPS, OnGpu())
        record.save(spec.folder)
        kept.append((record.gpu_memory_bytes, record.gpu_memory_used_bytes))
    assert kept == [(20, 30), (20, 30), (21, 31)]


def test_a_cpu_holds_no_gpu(shards: Path, tmp_path: Path) -> None:
    assert run(spec_of(tmp_path / "run", shards, {"train.epochs": 1}), worker()).gpu_hours == 0
