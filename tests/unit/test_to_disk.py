"""Files brought to disk behind their writer's back."""

import os
import threading
from pathlib import Path

import pytest

from distseg.search.to_disk import ToDisk


def test_all_that_was_asked_for_is_done_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    go = threading.Event()
    fsync = os.fsync

    def slow(file: int) -> None:
        go.wait(10)
        synced.append(Path(f"/proc/self/fd/{file}").resolve().name)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow)
    names = ["events", "record"]
    for name in names:
        (tmp_path / name).write_text("x")
    disk = ToDisk()
    for _ in range(5):  # nobody waits for the disk
        for name in (names[0], "gone", names[1]):
            disk.soon(tmp_path / name)
    assert synced == []
    go.set()
    disk.close()
    assert set(synced) == set(names)
    assert len(synced) <= 4  # each in the first round, and again in one more
    disk.soon(tmp_path / "events")  # a study that is resumed
    disk.close()
    assert synced[-1] == "events"


def test_nothing_asked_for_nothing_to_wait_for() -> None:
    ToDisk().close()
