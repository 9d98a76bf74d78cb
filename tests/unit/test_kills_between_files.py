"""A run killed between any two files that it writes after an epoch goes on and leaves the files of one left alone."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from runs import EPOCHS, Stop, assert_same_end, files_of, final, record_on_disk, spec_of, worker

from distseg import atomic
from distseg.errors import FencedError
from distseg.records import Progress, Status, TrialRecord, read_json_lines
from distseg.train import loop
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec, catch_up

CHANGES = {"train.checkpoint_steps": None, "train.keep_last": 2, "eval.panels_every_epochs": 1}
WRITES = ["Watch.epoch", "checkpoint.save", "write_progress", "keep_last"]
"""What rank 0 calls at the end of an epoch, in this order."""


def watched(folder: Path, shards: Path) -> RunSpec:
    return spec_of(folder, shards, CHANGES | {"train.upload": f"memory://{folder}"})


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    spec = watched(tmp_path_factory.mktemp("runs") / "whole", shards)
    run(spec, worker())
    return spec


def kill_before(write: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end at once where they were to call ``write`` for the ``number``-th time (from 1)."""
    holder: Any = loop
    *outer, name = write.split(".")
    for part in outer:
        holder = getattr(holder, part)
    really, calls = getattr(holder, name), []

    def killed(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == number:
            raise Stop
        return really(*given, **named)

    monkeypatch.setattr(holder, name, killed)
    monkeypatch.setattr(loop, "close_record", lambda *_: None)  # SIGKILL leaves no time for that


def told(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """What TensorBoard shows of a run: step and value, without the speed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name != "images_per_s"]
    shown: dict[str, list[tuple[int, Any]]] = {n: [(e.step, e.value) for e in events.Scalars(n)] for n in names}
    shown["pictures"] = [(e.step, e.encoded_image_string) for e in events.Images("validation")]
    return shown


@pytest.mark.parametrize("epoch", [1, 2, EPOCHS])
@pytest.mark.parametrize("write", WRITES)
def test_a_run_killed_between_two_files_leaves_the_same_ones(
    write: str, epoch: int, whole: RunSpec, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = watched(tmp_path / "run", shards)
    kill_before(write, epoch, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    with suppress(FileNotFoundError):  # copies of before the kill are not what counts
        fsspec.filesystem("memory").rm(str(spec.folder), recursive=True)
    assert run(spec, worker()).status is Status.COMPLETED

    assert_same_end(final(spec), final(whole))
    assert files_of(spec.folder) == files_of(whole.folder)
    for name in files_of(spec.folder):
        if name.startswith("panels/") or name == "groups.json":
            assert (spec.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert [row["epoch"] for row in read_json_lines(spec.folder / "epochs.jsonl")] == [1, 2, 3]
    assert told(spec.folder) == told(whole.folder)
    copies = fsspec.filesystem("memory")
    for name in ("last.pt", "best.pt"):
        assert copies.cat_file(f"{spec.folder}/{name}") == (spec.folder / "checkpoints" / name).read_bytes()


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_a_checkpoint_knows_what_its_run_was_killed_before_writing(
    epoch: int, whole: RunSpec, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = watched(tmp_path / "run", shards)
    kill_before("write_progress", epoch, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    catch_up(spec.folder, final(spec))
    record = record_on_disk(spec)
    best = max(final(whole)["history"][:epoch], key=lambda row: row["score"])
    assert (record.status, record.epochs) == (Status.COMPLETED if epoch == EPOCHS else Status.RUNNING, epoch)
    assert (record.metrics, record.best_epoch, record.checkpoint) == (
        best["metrics"],
        best["epoch"],
        "checkpoints/best.pt",
    )
    assert read_json_lines(spec.folder / "epochs.jsonl") == final(spec)["history"]


def test_progress_of_a_run_that_is_over(whole: RunSpec) -> None:
    progress = Progress.load(whole.folder)
    assert progress is not None
    assert (progress.step, progress.steps, progress.epoch, progress.seconds_left) == (9, 9, 3, 0)
    assert progress.loss == final(whole)["history"][-1]["loss"]


# What killed writers leave behind


HALF = "import sys, time\nfrom pathlib import Path\nfrom distseg import atomic\n" + (
    "with atomic.replacing(Path(sys.argv[1])) as file:\n    print('open', flush=True)\n    time.sleep(60)\n"
)


def test_what_a_killed_writer_left_is_removed_at_the_next_start(shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"train.epochs": 1})
    last = spec.folder / "checkpoints/last.pt"
    words = [sys.executable, "-c", HALF, str(last)]
    writers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "open\n"
        assert len(list(last.parent.iterdir())) == 2
        writers[0].kill()
        writers[0].wait()
        (last.parent / ".notes.tmp").touch()  # somebody else's
        run(spec, worker())
        names = sorted(path.name for path in last.parent.iterdir())
        assert names[1:] == [".notes.tmp", "best.pt", "last.pt"]
        assert names[0].startswith(".last.pt.")  # of the one that still lives
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_without_hard_links_checkpoints_are_copied(
    whole: RunSpec, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    spec = watched(tmp_path / "run", shards)
    run(spec, worker())
    assert files_of(spec.folder) == files_of(whole.folder)
    last, kept = (spec.folder / "checkpoints" / name for name in ("last.pt", "epoch-0003.pt"))
    assert kept.read_bytes() == last.read_bytes()
    assert not kept.samefile(last)
    assert fsspec.filesystem("memory").cat_file(f"{spec.folder}/last.pt") == last.read_bytes()


def test_a_link_follows_the_new_file(tmp_path: Path) -> None:
    source, name = tmp_path / "last.pt", tmp_path / "epoch-0001.pt"
    for text in ("old", "new"):
        atomic.write_text(source, text)
        for _ in range(2):  # again changes nothing
            atomic.link_or_copy(source, name)
        assert name.read_text() == text
        assert name.samefile(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0001.pt", "last.pt"]


# Two writers of one record


def test_a_record_ended_between_the_fence_and_its_save_stays_ended(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study prunes the trial while its last checkpoint is written."""
    spec, save = spec_of(tmp_path / "run", shards, {"train.epochs": 1}), loop.save_best

    def prune(*given: Any) -> Path:
        ended = record_on_disk(spec).model_copy(update={"status": Status.PRUNED, "reason": "by a test"})
        ended.save(spec.folder)
        return save(*given)

    monkeypatch.setattr(loop, "save_best", prune)
    with pytest.raises(FencedError, match="was ended as PRUNED"):
        run(spec, worker())
    assert (record_on_disk(spec).status, record_on_disk(spec).reason) == (Status.PRUNED, "by a test")


def test_writers_of_a_record_wait_for_one_another(shards: Path, tmp_path: Path) -> None:
    """One that looks and then writes is not overtaken in between."""
    spec = spec_of(tmp_path / "run", shards, {"train.epochs": 1})
    record = run(spec, worker()).model_copy(update={"status": Status.RUNNING})
    record.save(spec.folder)
    prune = (
        "import sys\nfrom pathlib import Path\nfrom distseg.records import TrialRecord\n"
        "folder = Path(sys.argv[1])\nrecord = TrialRecord.load(folder)\nprint('read', flush=True)\n"
        "record.model_copy(update={'status': 'PRUNED'}).save(folder)\n"
    )
    load, started = TrialRecord.load, []

    def slowly(folder: Path) -> TrialRecord:
        found = load(folder)
        other = subprocess.Popen([sys.executable, "-c", prune, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(other)
        assert other.stdout is not None
        assert other.stdout.readline() == "read\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=0.5)  # it waits to write
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialRecord, "load", slowly)
        assert record.save_unless_ended(spec.folder)
    assert started[0].communicate(timeout=30) == ("", None)
    assert record_on_disk(spec).status == Status.PRUNED
    assert not record.save_unless_ended(spec.folder)
