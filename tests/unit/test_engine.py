"""What a run does around its steps: the moving average, validation and stopping, what it keeps, and its errors."""

import errno
import json
import math
import os
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from runs import (
    EPOCHS,
    STEPS,
    Stop,
    assert_same_end,
    final,
    kill_at,
    record_on_disk,
    spec_of,
    worker,
)
from torch import nn

from distseg import checkpoint
from distseg.data.manifest import BadSample, ShardFolder
from distseg.data.stream import EvalBatches, open_split
from distseg.errors import ConfigError, OutOfMemoryError, TrainingError
from distseg.export.build import restore_predictor
from distseg.records import Score, Status, read_json_lines
from distseg.tasks import dense
from distseg.tasks.predictor import Predictor
from distseg.tasks.scoring import measure
from distseg.train import loop, upload
from distseg.train.ema import Ema
from distseg.train.loop import run
from distseg.train.step import train_step
from distseg.train.upload import Uploads

DICE = "dice_mean_per_image"
EMA = {"train.ema_decay": 0.6}


# The moving average


def test_the_moving_average_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    ema = Ema(network, decay=0.2)
    averages = []
    for step, weight in ((1, 2.0), (2, 4.0)):
        nn.init.constant_(network.weight, weight)
        ema.update(network, step)
        averages.append(ema.network.weight.item())
    # warmed up: 2/11 in the first step, then 3/12, of which 0.2 is left
    first = 1 * 2 / 11 + 2 * 9 / 11
    assert averages == pytest.approx([first, 0.2 * first + 0.8 * 4])
    assert network.weight.item() == 4.0


def test_the_moving_average_takes_batchnorms_statistics_along() -> None:
    network = nn.BatchNorm2d(1)
    ema = Ema(network, decay=0.9)
    network(torch.full((1, 1, 2, 2), 10.0))  # running mean 0.1 * 10
    ema.update(network, 1)
    assert ema.network.running_mean.item() == pytest.approx(1.0 * 9 / 11)
    assert ema.network.num_batches_tracked.item() == 1
    assert not ema.network.training
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())


@pytest.fixture(scope="module")
def averaged(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with a moving average that nobody disturbed."""
    spec = spec_of(tmp_path_factory.mktemp("runs") / "averaged", shards, EMA)
    run(spec, worker())
    return spec


@pytest.mark.parametrize("step", [1, STEPS, 2 * STEPS + 1, EPOCHS * STEPS - 1])
def test_interrupted_equals_uninterrupted_with_a_moving_average(
    step: int, averaged: Any, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "run", shards, EMA)
    kill_at(step, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    assert run(spec, worker()).status is Status.COMPLETED
    assert final(averaged)["ema"] is not None
    assert_same_end(final(spec), final(averaged))
    one, other = (checkpoint.load(each.folder / "checkpoints/best.pt") for each in (spec, averaged))
    assert one["epoch"] == other["epoch"]
    assert all(torch.equal(value, other["network"][name]) for name, value in one["network"].items())


def test_the_average_does_not_disturb_the_network(averaged: Any, shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards)
    run(spec, worker())
    plain = final(spec)["network"]
    assert all(torch.equal(value, plain[name]) for name, value in final(averaged)["network"].items())


def test_best_is_the_average_that_was_validated(shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {**EMA, "train.epochs": 1})
    record = run(spec, worker())
    best, last = checkpoint.load(spec.folder / "checkpoints/best.pt"), final(spec)
    assert all(torch.equal(value, last["ema"][name]) for name, value in best["network"].items())
    assert not all(torch.equal(value, last["network"][name]) for name, value in best["network"].items())
    folder = ShardFolder.open(shards)
    batches = EvalBatches(open_split(folder, training=False, fold=None), batch=4, rank=0, world_size=1)
    predictor = restore_predictor(spec.config, best, folder.manifest)
    with torch.inference_mode():
        score, _ = measure(predictor, [batches[0]], folder.manifest, torch.device("cpu"), lambda sums: sums)
    assert score.metrics == record.metrics
    assert score.intervals == {}  # of the one car in validation


# Validation, and when to stop


def dictate(scores: Iterable[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs measure as they do, but are told these scores, one a validation."""
    told, measured = iter(scores), dense.measure

    def measure_and_lie(*given: Any) -> tuple[Score, list[BadSample]]:
        score, bad = measured(*given)
        return score.model_copy(update={"metrics": score.metrics | {DICE: next(told)}}), bad

    monkeypatch.setattr(dense, "measure", measure_and_lie)


PATIENT = {"train.epochs": 8, "train.patience_epochs": 2}
SCORES = [0.5, 0.7, 0.6, 0.7, 0.9, 0.9, 0.9, 0.9]  # no better than 0.7 in epochs 3 and 4


def test_patience_ends_a_run_as_completed(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path / "run", shards, PATIENT)
    dictate(SCORES, monkeypatch)
    record = run(spec, worker())
    assert record == record_on_disk(spec)
    assert (record.status, record.reason) == (Status.COMPLETED, "no better epoch in 2")
    assert (record.epochs, record.epochs_planned, record.best_epoch) == (4, 8, 2)
    assert record.metrics[DICE] == 0.7
    assert [path.name for path in (spec.folder / "panels").glob("epoch-*")] == ["epoch-0004.png"]  # of the last
    rows: list[dict[str, Any]] = []
    again = run(spec, worker(rows.append))  # would be told 0.9 now
    assert (again.status, again.reason, again.epochs, rows) == (record.status, record.reason, 4, [])


@pytest.mark.parametrize("step", [2 * STEPS + 1, 4 * STEPS - 1])
def test_patience_ends_a_resumed_run_at_the_same_epoch(
    step: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, spec = spec_of(tmp_path / "whole", shards, PATIENT), spec_of(tmp_path / "run", shards, PATIENT)
    dictate(SCORES, monkeypatch)
    run(undisturbed, worker())
    with monkeypatch.context() as patch:
        dictate(SCORES, patch)
        kill_at(step, patch)
        with pytest.raises(Stop):
            run(spec, worker())
    monkeypatch.undo()
    dictate(SCORES[step // STEPS :], monkeypatch)
    assert run(spec, worker()).reason == "no better epoch in 2"
    assert_same_end(final(spec), final(undisturbed))


def test_validation_every_so_many_epochs_and_at_the_end(shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"train.epochs": 5, "eval.every_epochs": 2})
    told: list[dict[str, Any]] = []
    record = run(spec, worker(told.append))
    rows = read_json_lines(spec.folder / "epochs.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["score"] is not None for row in rows] == [False, True, False, True, True]
    assert [row["samples"] for row in rows] == [0, 4, 0, 4, 4]
    assert [row["epoch"] for row in told] == [2, 4, 5]
    assert record.best_epoch in (2, 4, 5)
    assert all(math.isfinite(row["loss"]) and row["images_per_s"] > 0 for row in rows)


def test_patience_waits_for_a_validation(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs between validations, and a patience of two: nothing is known of epochs 4 and 5."""
    changes = {"train.epochs": 12, "train.patience_epochs": 2, "eval.every_epochs": 3, "train.checkpoint_steps": None}
    spec = spec_of(tmp_path / "run", shards, changes)
    dictate([0.5, 0.6, 0.4, 0.9], monkeypatch)
    record = run(spec, worker())
    assert (record.epochs, record.best_epoch, record.reason) == (9, 6, "no better epoch in 2")


def test_a_run_whose_last_epoch_is_no_better_was_not_stopped(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "run", shards, {"train.epochs": 3, "train.patience_epochs": 2})
    dictate([0.5, 0.4, 0.4], monkeypatch)
    record = run(spec, worker())
    assert (record.epochs, record.best_epoch, record.reason) == (3, 1, None)
    assert run(spec, worker()).reason is None


@pytest.mark.parametrize(("mode", "best"), [("max", 3), ("min", 2)])
def test_a_score_that_is_no_number_is_never_the_best(
    mode: str, best: int, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "run", shards, {"train.epochs": 4, "eval.mode": mode})
    dictate([math.nan, 0.5, 0.6, math.nan], monkeypatch)
    record = run(spec, worker())
    assert record.best_epoch == best
    assert checkpoint.load(spec.folder / "checkpoints/best.pt")["epoch"] == best


def test_a_run_without_any_score_has_no_best(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path / "run", shards, {"train.patience_epochs": 1})
    dictate([math.nan] * EPOCHS, monkeypatch)
    record = run(spec, worker())
    assert (record.status, record.epochs) == (Status.COMPLETED, EPOCHS)
    assert (record.best_epoch, record.checkpoint, record.metrics, record.resolution) == (None, None, {}, None)
    assert not (spec.folder / "checkpoints/best.pt").exists()


def test_intervals_are_those_of_the_best_epoch(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, measured = spec_of(tmp_path / "run", shards), dense.measure
    numbers = iter([0.5, 0.7, 0.6])

    def with_intervals(*given: Any) -> tuple[Score, list[BadSample]]:
        score, bad = measured(*given)
        value = next(numbers)
        changes = {"metrics": {DICE: value}, "intervals": {DICE: (value - 0.1, value + 0.1)}}
        return score.model_copy(update=changes), bad

    monkeypatch.setattr(dense, "measure", with_intervals)
    record = run(spec, worker())
    assert record.intervals == {DICE: (0.7 - 0.1, 0.7 + 0.1)}
    assert record == record_on_disk(spec)


# Checkpoints kept and copied


@pytest.mark.parametrize(("number", "kept"), [(1, []), (2, [4, 5]), (3, [3, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_the_last_checkpoints_are_kept(number: int, kept: list[int], shards: Path, tmp_path: Path) -> None:
    changes = {"train.epochs": 5, "train.keep_last": number, "train.checkpoint_steps": 2}
    spec = spec_of(tmp_path / "run", shards, changes)
    run(spec, worker())
    folder = spec.folder / "checkpoints"
    names = [f"epoch-{epoch:04d}.pt" for epoch in kept]
    assert sorted(path.name for path in folder.iterdir()) == ["best.pt", *names, "last.pt"]
    assert [checkpoint.load(folder / name)["step"] for name in names] == [epoch * STEPS for epoch in kept]
    assert not kept or (folder / names[-1]).samefile(folder / "last.pt")  # the newest takes no room


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_checkpoints_are_copied_to_a_url(protocol: str, shards: Path, tmp_path: Path) -> None:
    url = f"{protocol}://{tmp_path}/remote/run"
    spec = spec_of(tmp_path / "run", shards, {"train.upload": url})
    run(spec, worker())
    remote = fsspec.filesystem(protocol)
    for name in ("last.pt", "best.pt"):
        assert remote.cat_file(f"{url}/{name}") == (spec.folder / "checkpoints" / name).read_bytes()
    assert {path.name for path in (spec.folder / "checkpoints").iterdir()} == {"last.pt", "best.pt"}


def test_each_trial_of_a_study_is_copied_to_a_folder_of_its_own(shards: Path, tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/remote/"
    for trial in ("0000", "0001"):
        changes = {"train.upload": url, "train.epochs": 1}
        run(replace(spec_of(tmp_path / trial, shards, changes), study="first"), worker())
    remote = fsspec.filesystem("memory")
    found = {path.partition("/remote/")[2] for path in remote.find(f"{tmp_path}/remote")}
    assert found == {f"first/{trial}/{name}.pt" for trial in ("0000", "0001") for name in ("last", "best")}


def test_copies_that_fail_are_told_at_the_end_and_cost_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(upload.fsspec, "open", full)
    spec = spec_of(tmp_path / "run", shards, {"train.upload": "s3://nowhere/run"})
    message = (
        r"train.upload: \d+ copies to s3://nowhere/run failed, first: \w+.pt: OSError: .*No space left .* run is whole"
    )
    with pytest.raises(TrainingError, match=message):
        run(spec, worker())
    record = record_on_disk(spec)
    assert (record.status, record.epochs, record.reason) == (Status.COMPLETED, EPOCHS, None)
    assert {path.name for path in (spec.folder / "checkpoints").iterdir()} == {"last.pt", "best.pt"}


def test_of_waiting_copies_the_latest_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, path = f"memory://{tmp_path}", tmp_path / "last.pt"
    going, gate = threading.Event(), threading.Event()
    sent, really_open = [], fsspec.open

    def slow_open(*given: Any) -> Any:
        going.set()
        assert gate.wait(10)
        sent.append(given)
        return really_open(*given)

    monkeypatch.setattr(upload.fsspec, "open", slow_open)
    with Uploads(url) as uploads:
        for version in range(5):
            path.unlink(missing_ok=True)  # a new file takes the name, as an atomic write does
            path.write_bytes(b"version %d" % version)
            uploads.copy(path)
            assert going.wait(10)
        gate.set()
    assert len(sent) == 2  # the one that was on its way, and the newest
    assert fsspec.filesystem("memory").cat_file(f"{tmp_path}/last.pt") == b"version 4"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_copy_does_not_hide_the_runs_own_error(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"")

    def stop() -> None:
        with Uploads("no-such-protocol://x") as uploads:
            uploads.copy(path)
            raise Stop

    with pytest.raises(Stop):
        stop()


# Kernels


def kernels() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return (
        *(torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic, torch.get_deterministic_debug_mode()),
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_deterministic_kernels_are_for_one_run(
    workspace: str | None, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials share a process: what one of them asks for must not reach the next, even when it fails."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    before, seen = kernels(), []

    def look(*given: Any) -> torch.Tensor:
        seen.append(kernels())
        return train_step(*given)

    monkeypatch.setattr(loop, "train_step", look)
    run(spec_of(tmp_path / "free", shards, {"train.epochs": 1, "train.threads": 2}), worker())
    assert seen[0] == (2, True, False, 0, workspace)
    assert kernels() == before
    seen.clear()
    run(spec_of(tmp_path / "exact", shards, {"train.epochs": 1, "train.deterministic": True}), worker())
    assert seen[0] == (1, False, True, 2, workspace or ":4096:8")  # 2: an error, not a warning
    assert kernels() == before
    monkeypatch.setattr(loop, "train_step", Stop)
    with pytest.raises(TypeError):
        run(spec_of(tmp_path / "failed", shards, {"train.deterministic": True, "train.threads": 2}), worker())
    assert kernels() == before


def test_a_kernel_without_a_deterministic_form_says_what_to_change(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = Predictor.network_logits

    def with_such_a_kernel(self: Predictor, images: torch.Tensor) -> torch.Tensor:
        torch.ones(2, 2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False)  # the last one wins?
        return logits(self, images)

    monkeypatch.setattr(Predictor, "network_logits", with_such_a_kernel)
    with pytest.raises(ConfigError, match=r"^train.deterministic: put_ does not have a deterministic implementation"):
        run(spec_of(tmp_path / "run", shards, {"train.deterministic": True}), worker())
    assert run(spec_of(tmp_path / "free", shards, {"train.epochs": 1}), worker()).status is Status.COMPLETED


# Errors of a step


def test_out_of_memory_names_the_micro_batch_to_try(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(self: Predictor, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSecond line")

    monkeypatch.setattr(Predictor, "network_logits", no_memory)
    spec = spec_of(tmp_path / "run", shards, {"train.batch_global": 6})
    with pytest.raises(OutOfMemoryError, match=r"with 6 images at a time; try train.micro_batch=3: gradients are acc"):
        run(spec, worker())
    record = record_on_disk(spec)
    assert record.status is Status.FAILED
    assert str(record.reason).startswith("OutOfMemoryError: out of memory with 6 images at a time; try train.micro_")
    spec = spec_of(tmp_path / "one", shards, {"train.micro_batch": 1})
    with pytest.raises(OutOfMemoryError, match=r"out of memory with one image at a time; lower data.input_size"):
        run(spec, worker())


def test_out_of_memory_on_a_cpu(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(self: Predictor, images: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)  # torch's own message

    monkeypatch.setattr(Predictor, "network_logits", no_memory)
    spec = spec_of(tmp_path / "run", shards, {"train.micro_batch": 2})
    with pytest.raises(OutOfMemoryError, match=r"with 2 images at a time; try train.micro_batch=1"):
        run(spec, worker())


def test_other_errors_of_a_step_stay_what_they_are(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Predictor, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Predictor, "network_logits", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit") as caught:
        run(spec_of(tmp_path / "run", shards), worker())
    assert caught.value.__cause__ is None  # an error that is its own cause sends who follows it round in circles


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_batchnorm_that_sees_one_image_says_what_to_change(micro_batch: int, shards: Path, tmp_path: Path) -> None:
    """At 16 pixels the bottleneck of the U-Net is one pixel; three images in parts of two leave a single one over."""
    spec = spec_of(tmp_path / "run", shards, {"data.input_size": 16, "train.micro_batch": micro_batch})
    with pytest.raises(
        ConfigError, match=r"BatchNorm cannot learn from 1 image\(s\) at a time .* want at least 2: raise"
    ):
        run(spec, worker())
    assert record_on_disk(spec).status is Status.FAILED


def test_synchronous_batchnorm_needs_gpus(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.sync_batchnorm: torch has it for GPUs alone"):
        run(spec_of(tmp_path / "run", shards, {"train.sync_batchnorm": True}), worker())
    assert list(tmp_path.iterdir()) == []


def test_groups_file_is_that_of_the_best_epoch(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(tmp_path / "run", shards)
    dictate([0.5, 0.7, 0.6], monkeypatch)
    kept: list[str] = []
    run(spec, worker(lambda row: kept.append((spec.folder / "groups.json").read_text())))
    assert kept[2] == kept[1]
    assert len(json.loads(kept[2])) == 1  # the one car
