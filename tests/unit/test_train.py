"""One training run in this process: interrupted equals uninterrupted, its files, and how it fails."""

import errno
import json
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import (
    EPOCHS,
    STEPS,
    TINY,
    Stop,
    assert_same_end,
    files_of,
    final,
    kill_at,
    losses,
    record_on_disk,
    spec_of,
    worker,
)
from torch import nn

from distseg import checkpoint, config
from distseg.config import RunConfig, ScheduleConfig, with_overrides
from distseg.data.manifest import ShardFolder, index_path
from distseg.data.stream import Batch
from distseg.errors import ConfigError, DataError, FencedError, HomeError, TrainingError
from distseg.records import Status, TrialRecord, read_json_lines
from distseg.tasks.dense import DenseTask
from distseg.tasks.predictor import Predictor
from distseg.train import loop
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec
from distseg.train.schedule import lr_factor
from distseg.train.state import TrainState, build_optimizer
from distseg.train.step import train_step
from distseg.train.turn import Turn
from distseg.train.worker import LocalWorker

ANY_BAD = {"data.bad_fraction_max": 1.0}


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A run that nobody disturbed."""
    spec = spec_of(tmp_path_factory.mktemp("runs") / "whole", shards)
    run(spec, worker())
    return spec


def test_a_run_leaves_its_files_and_nothing_else(whole: RunSpec) -> None:
    assert files_of(whole.folder) == {
        "config.yaml",
        "record.json",
        "epochs.jsonl",
        "groups.json",
        ".turn",  # whose turn it is to write them
        "progress.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "panels/epoch-0003.png",
        "panels/best_median_worst.png",
        "panels/best_median_worst.json",
    }
    assert {path.name for path in whole.folder.iterdir()} == {
        *("config.yaml", "record.json", "epochs.jsonl", "groups.json", "progress.json"),
        *("checkpoints", "panels", "tensorboard", ".turn"),
    }
    assert config.load_run(whole.folder / "config.yaml") == whole.config
    rows = read_json_lines(whole.folder / "epochs.jsonl")
    assert [(row["epoch"], row["step"], row["images_seen"]) for row in rows] == [(1, 3, 9), (2, 6, 18), (3, 9, 27)]
    assert all((row["samples"], row["surplus"]) == (4, 1) for row in rows)  # 3 batches of 3 are one more than 8


def test_its_record(whole: RunSpec, shards: Path) -> None:
    record, manifest = record_on_disk(whole), ShardFolder.open(shards).manifest
    assert (record.status, record.epochs, record.epochs_planned, record.reason) == (Status.COMPLETED, 3, 3, None)
    assert (record.samples, record.bad_samples, record.world_size, record.images_seen) == (4, 0, 1, 27)
    assert (record.resolution, record.checkpoint) == ((32, 32), "checkpoints/best.pt")
    assert (record.data_digest, record.split_digest) == (manifest.data_digest, manifest.split_digest)
    assert record.seconds > 0
    assert record.cpu_hours > 0
    assert record.gpu_hours == 0


def test_best_is_that_of_the_best_epoch(shards: Path, tmp_path: Path) -> None:
    """``best.pt`` after each epoch, kept aside, against the scores of all epochs."""
    spec = spec_of(tmp_path / "run", shards, {"optim.lr": 0.05, "train.epochs": 5})
    kept: dict[int, tuple[float, dict[str, Any]]] = {}

    def keep(row: dict[str, Any]) -> None:
        kept[row["epoch"]] = row["score"], final(spec)["network"]

    run(spec, worker(keep))
    winner = max(kept, key=lambda epoch: (kept[epoch][0], -epoch))  # the first of equals
    best, record = checkpoint.load(spec.folder / "checkpoints/best.pt"), record_on_disk(spec)
    assert best["epoch"] == record.best_epoch == winner
    assert record.metrics == best["metrics"]
    assert record.metrics["dice_mean_per_image"] == kept[winner][0]
    assert all(torch.equal(value, kept[winner][1][name]) for name, value in best["network"].items())
    groups = json.loads((spec.folder / "groups.json").read_text())
    # the mean over images follows from the sums per car
    mean = sum(group["dice_sum"] for group in groups.values()) / sum(group["images"] for group in groups.values())
    assert mean == pytest.approx(kept[winner][0])


def test_min_mode_keeps_the_lowest(shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"eval.mode": "min"})
    record = run(spec, worker())
    scores = [row["score"] for row in final(spec)["history"]]
    assert record.best_epoch == 1 + scores.index(min(scores))


@pytest.mark.parametrize("step", range(EPOCHS * STEPS))
def test_interrupted_equals_uninterrupted_at_every_step(
    step: int, whole: RunSpec, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it works on global step ``step``, with a checkpoint after each."""
    spec = spec_of(tmp_path / "run", shards)
    kill_at(step, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    assert record_on_disk(spec).status is Status.RUNNING
    monkeypatch.undo()
    torch.manual_seed(step)  # nothing may hang on torch's global generator
    torch.rand(1)
    assert run(spec, worker()).status is Status.COMPLETED
    assert_same_end(final(spec), final(whole))


@pytest.mark.parametrize("changes", [{"train.checkpoint_steps": None}, {"train.checkpoint_steps": 2}])
def test_interrupted_equals_uninterrupted_from_an_older_checkpoint(
    changes: dict[str, Any], shards: Path, tmp_path: Path
) -> None:
    """Stopped twice at the ends of epochs, by the report, as Tune does it."""

    def stop(_: dict[str, Any]) -> None:
        raise Stop

    undisturbed, spec = spec_of(tmp_path / "whole", shards, changes), spec_of(tmp_path / "run", shards, changes)
    run(undisturbed, worker())
    for _ in range(EPOCHS):
        with pytest.raises(Stop):
            run(spec, worker(stop))
    run(spec, worker())
    assert_same_end(final(spec), final(undisturbed))


def test_killed_between_its_checkpoint_and_its_history(
    whole: RunSpec, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last epoch: nothing is left to train, and the row of that epoch must not be missing."""
    spec, write = spec_of(tmp_path / "run", shards), loop.write_progress

    def killed(spec: RunSpec, state: TrainState, record: TrialRecord) -> None:
        if state.step == EPOCHS * STEPS:
            raise Stop
        write(spec, state, record)

    monkeypatch.setattr(loop, "write_progress", killed)
    monkeypatch.setattr(loop, "close_record", lambda *_: None)
    with pytest.raises(Stop):
        run(spec, worker())
    assert len(read_json_lines(spec.folder / "epochs.jsonl")) == EPOCHS - 1
    monkeypatch.undo()
    assert run(spec, worker()).status is Status.COMPLETED
    assert [row["loss"] for row in read_json_lines(spec.folder / "epochs.jsonl")] == [
        loss for loss, _, _ in losses(final(whole))
    ]


def test_checkpoints_do_not_change_a_run(whole: RunSpec, shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"train.checkpoint_steps": None})
    run(spec, worker())
    assert_same_end(final(spec), final(whole))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_every_optimizer_resumes(name: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"optim.name": name, "schedule.name": "cosine", "train.epochs": 2, "train.micro_batch": 2}
    undisturbed, spec = spec_of(tmp_path / "whole", shards, changes), spec_of(tmp_path / "run", shards, changes)
    run(undisturbed, worker())
    kill_at(4, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    run(spec, worker())
    assert_same_end(final(spec), final(undisturbed))


def test_a_finished_run_is_left_as_it_is(whole: RunSpec, tmp_path: Path) -> None:
    spec = replace(whole, folder=tmp_path / whole.folder.name)
    shutil.copytree(whole.folder, spec.folder)
    rows: list[dict[str, Any]] = []
    again = run(spec, worker(rows.append))
    assert (again.status, rows) == (Status.COMPLETED, [])
    assert again.metrics == record_on_disk(whole).metrics
    for name in ("checkpoints/last.pt", "checkpoints/best.pt", "epochs.jsonl"):
        assert (spec.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize("size", ["37x29", "16x70"])
def test_odd_sizes_are_trained_on(size: str, shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"data.input_size": size, "train.epochs": 1})
    record = run(spec, worker())
    assert (record.status, record.resolution) == (Status.COMPLETED, (32, 32))


def test_another_seed_is_another_run(whole: RunSpec, shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"seed": 1})
    run(spec, worker())
    assert losses(final(spec)) != losses(final(whole))


def test_a_fold_is_validated_on(shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"data.fold": 1, "train.epochs": 1})
    record = run(spec, worker())
    folds = {group: place.fold for group, place in ShardFolder.open(shards).manifest.groups.items()}
    measured = json.loads((spec.folder / "groups.json").read_text())
    assert set(measured) == {group for group, fold in folds.items() if fold == 1}
    assert record.split_digest.endswith("-fold1")


# Failing


@pytest.fixture
def half_done(whole: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSpec:
    """A run that was killed in its second epoch."""
    spec = replace(whole, folder=tmp_path / "half")
    with monkeypatch.context() as patch:
        kill_at(4, patch)
        with pytest.raises(Stop):
            run(spec, worker())
    return spec


def snapshot(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"optim.lr": 0.5}, HomeError, r"last.pt: belongs to another config \(optim.lr: saved 0.003, now 0.5\)"),
        ({"model.width": 4}, HomeError, r"last.pt: belongs to another config \(model.width: saved 2, now 4\)"),
        ({"train.epochs": 9}, HomeError, r"another config \(train.epochs: saved 3, now 9\); resume with the same"),
        ({"augment.policy": "flop"}, ConfigError, r"augment.policy: got 'flop', want one of"),
        ({"data.fold": 7}, DataError, r"data.fold=7: .* has folds 0..2"),
    ],
)
def test_a_resume_with_another_config_is_refused_and_changes_nothing(
    changes: dict[str, Any], error: type[Exception], message: str, half_done: RunSpec
) -> None:
    before = snapshot(half_done.folder)
    with pytest.raises(error, match=message):
        run(replace(half_done, config=with_overrides(half_done.config, changes)), worker())
    assert snapshot(half_done.folder) == before
    assert run(half_done, worker()).status is Status.COMPLETED


def test_a_resume_from_another_version_is_refused(half_done: RunSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(half_done.folder)
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 99)
    with pytest.raises(HomeError, match=r"last.pt: checkpoint format \d+, want 99; train again with this version"):
        run(half_done, worker())
    assert snapshot(half_done.folder) == before


def test_a_resume_with_other_data_is_refused(half_done: RunSpec, shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(shards, other)
    manifest = ShardFolder.open(other).manifest.model_copy(update={"data_digest": "0" * 64})
    (other / "manifest.json").write_text(manifest.model_dump_json())
    before = snapshot(half_done.folder)
    with pytest.raises(HomeError, match=r"last.pt: belongs to another data digest \(saved \w+, now 0000"):
        run(replace(half_done, data=str(other)), worker())
    assert snapshot(half_done.folder) == before


def test_the_same_data_elsewhere_is_the_same_data(
    half_done: RunSpec, whole: RunSpec, shards: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(shards, tmp_path / "moved")
    run(replace(half_done, data=str(moved)), worker())
    assert_same_end(final(half_done), final(whole))


def test_a_torn_checkpoint_is_refused_by_name(half_done: RunSpec) -> None:
    path = half_done.folder / "checkpoints/last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(HomeError, match=r"last.pt: cannot be read as a checkpoint"):
        run(half_done, worker())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"eval.metric": "dice"}, ConfigError, r"eval.metric: got 'dice', want one of dice_mean_per_image, "),
        ({"eval.metric": "per_class"}, ConfigError, r"eval.metric: got 'per_class'"),
        ({"augment.policy": "flop"}, ConfigError, r"augment.policy: got 'flop'"),
        ({"model.architecture": "unett", "model.encoder": "resnet18"}, ConfigError, r"did you mean 'unet'"),
        ({"model.weights": "imagenet"}, ConfigError, r"classic_unet starts from scratch"),
        ({"train.precision": "fp16"}, ConfigError, r"train.precision: got fp16, which needs a GPU"),
        ({"train.batch_global": 9, "data.tail": "drop"}, ConfigError, r"got 9, but there are only 8 training samples"),
        ({"data.fold": 3}, DataError, r"data.fold=3: .* has folds 0..2"),
    ],
)
def test_a_run_that_cannot_be_writes_nothing(
    changes: dict[str, Any], error: type[Exception], message: str, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(spec_of(tmp_path / "run", shards, changes), worker())
    assert list(tmp_path.iterdir()) == []


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.json: cannot be read .*make shards"):
        run(spec_of(tmp_path / "run", tmp_path / "shards"), worker())
    assert list(tmp_path.iterdir()) == []


def test_an_exception_is_the_records_reason(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise ZeroDivisionError("a bug\nwith more lines")

    spec = spec_of(tmp_path / "run", shards)
    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(ZeroDivisionError):
        run(spec, worker())
    assert (record_on_disk(spec).status, record_on_disk(spec).reason) == (Status.FAILED, "ZeroDivisionError: a bug")


CLOSED = "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:747. This is typically caused by ..."
RESET = "[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:747: Connection reset by peer. This is ..."


@pytest.mark.parametrize(
    ("workers", "error", "status"),
    [
        (2, RuntimeError(CLOSED), Status.INTERRUPTED),
        (2, RuntimeError(RESET), Status.INTERRUPTED),
        (2, torch.distributed.DistBackendError("NCCL error: remote process exited"), Status.INTERRUPTED),
        (2, RuntimeError("a bug"), Status.FAILED),
        (2, DataError("s3://bucket/train-000000.tar: Connection refused"), Status.FAILED),
        (1, RuntimeError(CLOSED), Status.FAILED),
    ],
)
def test_a_lost_worker_is_no_failure_of_the_run(
    workers: int,
    error: Exception,
    status: Status,
    whole: RunSpec,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of(tmp_path / "run", shards)
    record_on_disk(whole).model_copy(update={"status": Status.RUNNING}).save(spec.folder)

    def broken(spec: RunSpec, worker: LocalWorker, begin: Callable[[], None], turn: Turn) -> None:
        begin()
        raise error

    monkeypatch.setattr(loop, "_run", broken)
    with pytest.raises(type(error)):
        run(spec, LocalWorker(0, workers, torch.device("cpu")))
    record = record_on_disk(spec)
    assert record.status is status
    lost = "another worker was lost: " if status is Status.INTERRUPTED else ""
    assert record.reason == f"{lost}{type(error).__name__}: {error}"


def test_a_wrong_trial_of_a_study_is_failed_with_its_reason(shards: Path, tmp_path: Path) -> None:
    """The study announced it: a PENDING record is there, and must not stay."""
    spec = replace(spec_of(tmp_path / "0000", shards, {"augment.policy": "flop"}), study="s")
    pending = TrialRecord(
        trial_id="0000",
        study="s",
        status=Status.PENDING,
        task="binary",
        metric="dice_mean_per_image",
        mode="max",
        architecture="classic_unet",
        epochs_planned=3,
        data=str(shards),
        data_digest="",
        split_digest="",
        created_at="",
    )
    pending.save(spec.folder)
    with pytest.raises(ConfigError):
        run(spec, worker())
    record = record_on_disk(spec)
    assert record.status is Status.FAILED
    assert str(record.reason).startswith("ConfigError: augment.policy: got 'flop'")


def test_ctrl_c_leaves_an_interrupted_run_that_goes_on(whole: RunSpec, shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(spec, worker(lambda row: signal.raise_signal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (record_on_disk(spec).status, record_on_disk(spec).epochs) == (Status.INTERRUPTED, 1)
    assert run(spec, worker()).reason is None
    assert_same_end(final(spec), final(whole))


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "run", shards)

    def diverging(trainer: Any, task: Any, state: TrainState, *others: Any) -> torch.Tensor:
        sums = train_step(trainer, task, state, *others)
        return sums * torch.nan if state.step == 5 else sums

    monkeypatch.setattr(loop, "train_step", diverging)
    with pytest.raises(TrainingError, match=r"loss is nan by step 6; .* lower optim.lr \(now 0.003\)"):
        run(spec, worker())
    assert final(spec)["step"] == 5
    record = record_on_disk(spec)
    assert (record.status, record.epochs, record.best_epoch) == (Status.FAILED, 1, 1)
    assert str(record.reason).startswith("TrainingError: loss is nan")


def test_a_rate_far_too_high_ends_as_an_error_and_not_as_a_model(shards: Path, tmp_path: Path) -> None:
    changes = {"optim.lr": 1e30, "optim.clip_norm": None, "optim.name": "sgd", "schedule.name": "constant"}
    spec = spec_of(tmp_path / "run", shards, changes)
    with pytest.raises(TrainingError, match=r"loss is (nan|inf)"):
        run(spec, worker())
    assert record_on_disk(spec).status is Status.FAILED


def damaged(shards: Path, folder: Path, split: str, number: int) -> Path:
    """A copy of the shards in which ``number`` images of a split have a byte turned round."""
    shutil.copytree(shards, folder)
    opened = ShardFolder.open(folder)
    entries = [(s, entry) for s in opened.manifest.shards if s.split == split for entry in opened.entries(s)]
    for shard, entry in entries[:number]:
        data = bytearray(opened.shard_path(shard).read_bytes())
        data[entry.members["jpg"].offset + 50] ^= 255
        opened.shard_path(shard).write_bytes(data)
    return folder


@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_samples_within_the_budget_are_counted_once(split: str, shards: Path, tmp_path: Path) -> None:
    bad = damaged(shards, tmp_path / "bad", split, 1)
    spec = spec_of(tmp_path / "run", bad, {"data.bad_fraction_max": 0.1})  # 1 of 12 is 0.083
    record = run(spec, worker())
    assert (record.status, record.bad_samples) == (Status.COMPLETED, 1)
    assert record.samples == (3 if split == "val" else 4)
    assert [row["bad_samples"] for row in final(spec)["history"]] == [1, 1, 1]
    (found,) = final(spec)["bad"]
    assert found["shard"].startswith(split)
    assert "CRC" in found["reason"]
    assert read_json_lines(spec.folder / "bad.jsonl") == [found]


def test_a_tail_that_is_left_out_is_counted(shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"data.tail": "drop", "train.epochs": 1})
    run(spec, worker())
    (row,) = read_json_lines(spec.folder / "epochs.jsonl")
    assert (row["images_seen"], row["surplus"]) == (6, -2)  # 2 batches of 3 are two fewer than 8


def test_bad_samples_over_the_budget_fail_the_run(shards: Path, tmp_path: Path) -> None:
    bad = damaged(shards, tmp_path / "bad", "train", 2)
    spec = spec_of(tmp_path / "run", bad, {"data.bad_fraction_max": 0.1})  # 2 of 12 is 0.167
    with pytest.raises(TrainingError, match=r"2 of 12 samples cannot be used, .*; first: shard train-\d+.tar, sample "):
        run(spec, worker())
    assert record_on_disk(spec).status is Status.FAILED


def test_bad_samples_keep_a_resume_exact(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = damaged(shards, tmp_path / "bad", "train", 2)
    undisturbed, spec = spec_of(tmp_path / "whole", bad, ANY_BAD), spec_of(tmp_path / "run", bad, ANY_BAD)
    run(undisturbed, worker())
    kill_at(4, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    assert run(spec, worker()).bad_samples == 2
    assert_same_end(final(spec), final(undisturbed))


def test_a_shard_with_no_usable_sample_is_an_error_and_no_endless_search(shards: Path, tmp_path: Path) -> None:
    bad = damaged(shards, tmp_path / "bad", "train", 8)
    with pytest.raises(DataError, match=r"^8 samples in a row cannot be used"):
        run(spec_of(tmp_path / "run", bad, ANY_BAD), worker())


def test_a_truncated_tar_is_met_and_told(shards: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(shards, tmp_path / "bad")
    tar = sorted(bad.glob("train-*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(TrainingError, match=r"shard ends after \d+ of \d+ bytes"):
        run(spec_of(tmp_path / "run", bad), worker())


def test_an_index_that_lacks_a_line_is_told(shards: Path, tmp_path: Path) -> None:
    bad = shutil.copytree(shards, tmp_path / "bad")
    index = index_path(sorted(bad.glob("train-*.tar"))[0])
    index.write_text("".join(index.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"index.jsonl: its sha256 is not the manifest's"):
        run(spec_of(tmp_path / "run", bad), worker())


@pytest.mark.parametrize("status", [Status.PRUNED, Status.INTERRUPTED])
def test_a_run_that_its_study_ended_meanwhile_stops_and_writes_nothing_more(
    status: Status, shards: Path, tmp_path: Path
) -> None:
    """Not that it failed, either: what is interrupted goes on when the study does."""
    spec = spec_of(tmp_path / "run", shards)
    ended: dict[str, bytes] = {}

    def end(_: dict[str, Any]) -> None:
        record_on_disk(spec).model_copy(update={"status": status, "reason": "by a test"}).save(spec.folder)
        ended.update(snapshot(spec.folder))

    with pytest.raises(FencedError, match=rf"was ended as {status}"):
        run(spec, worker(end))
    assert snapshot(spec.folder) == ended


def test_a_full_disk_keeps_the_checkpoint_before(
    whole: RunSpec, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "run", shards)
    save = torch.save

    def full_at_step_5(tree: dict[str, Any], file: Any) -> None:
        if tree.get("step") == 5:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tree, file)

    monkeypatch.setattr(torch, "save", full_at_step_5)
    with pytest.raises(OSError, match="No space left"):
        run(spec, worker())
    assert files_of(spec.folder) == files_of(whole.folder) - {"panels/epoch-0003.png"}
    assert final(spec)["step"] == 4
    assert record_on_disk(spec).reason == "OSError: [Errno 28] No space left on device"
    monkeypatch.undo()
    run(spec, worker())
    assert_same_end(final(spec), final(whole))


# One step


class Plain(nn.Module):
    """A network without BatchNorm, whose gradient of a batch is the mean of those of its images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(images)
        return logits


def one_step(
    shards: Path, micro_batch: int | None, loss: str, images: Sequence[int] = range(5)
) -> tuple[list[torch.Tensor], float]:
    """Parameters after one step of plain SGD on five images, and the sum of losses that it returns."""
    noise = np.random.default_rng(0)
    pixels = torch.from_numpy(noise.integers(0, 256, (5, 3, 8, 8), np.uint8))[list(images)]
    masks = torch.from_numpy(noise.integers(0, 2, (5, 8, 8), np.uint8))[list(images)]
    manifest = ShardFolder.open(shards).manifest
    changes = {"train.micro_batch": micro_batch, "train.batch_global": 5, "optim.name": "sgd", "optim.lr": 1.0}
    cfg: RunConfig = with_overrides(TINY, {**changes, "loss.name": loss, "optim.clip_norm": None})
    network = Plain()
    state = TrainState.create(cfg, network, torch.device("cpu"), "fp32")
    predictor = Predictor(network, input_size=(8, 8), divisor=1, mean=(0.5,) * 3, std=(0.25,) * 3)
    batch = Batch(pixels, masks, keys=("",) * len(images), groups=("",) * len(images), step=0)
    sums = train_step(predictor, DenseTask(cfg, manifest), state, batch, cfg, worker(), "fp32")
    assert sums[1] == len(images)
    return [parameter.detach() for parameter in network.parameters()], sums[0].item()


@pytest.mark.parametrize("loss", ["bce", "dice", "bce_dice", "focal", "jaccard", "tversky", "lovasz"])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 9])
def test_micro_batches_give_the_same_step(micro_batch: int, loss: str, shards: Path) -> None:
    whole_batch, whole_loss = one_step(shards, None, loss)
    parts, loss_of_parts = one_step(shards, micro_batch, loss)
    assert loss_of_parts == pytest.approx(whole_loss, rel=1e-6)
    for one, other in zip(whole_batch, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_step_moves_by_the_gradient_of_the_mean_over_the_global_batch(shards: Path) -> None:
    """Steps on two shares of the batch add up to the step on all of it: each divides by 5, not by its share."""
    start = [parameter.detach().clone() for parameter in Plain().parameters()]
    shares = [0, 1, 2, 3, 4], [0, 1], [2, 3, 4]
    whole_batch, first, rest = (one_step(shards, None, "bce", images)[0] for images in shares)
    for begin, all_five, two, three in zip(start, whole_batch, first, rest, strict=True):
        # nesterov's first step is 1.9 times the gradient (and weight decay on filters), linear in the gradient
        decay = 1.9 * 1e-4 * begin if begin.ndim > 1 else torch.zeros_like(begin)
        torch.testing.assert_close(
            all_five - begin + decay, (two - begin + decay) + (three - begin + decay), rtol=0, atol=1e-6
        )


def test_weight_decay_is_for_filters_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, free = build_optimizer(TINY.optim, network).param_groups
    assert [p.shape for p in decayed["params"]] == [network[0].weight.shape]
    assert len(free["params"]) == 3  # one bias, BatchNorm's scale and shift
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)


# Schedules


@pytest.mark.parametrize("name", ["one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.99])
def test_rates_stay_within_the_peak(name: Any, steps: int, warmup: float) -> None:
    cfg = ScheduleConfig(name=name, warmup_fraction=warmup)
    factors = [lr_factor(cfg, step, steps) for step in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert max(factors) > 0


def test_one_cycle_by_hand() -> None:
    """Nine steps, four of them up: 1/25, then by half a cosine to 1 at step 4, down to 0 at step 8."""
    cfg = ScheduleConfig(name="one_cycle", warmup_fraction=4 / 9)
    factors = [lr_factor(cfg, step, 9) for step in range(9)]
    middle = (1 / 25 + 1) / 2
    assert [factors[step] for step in (0, 2, 4, 6, 8)] == pytest.approx([0.04, middle, 1.0, 0.5, 0.0])
