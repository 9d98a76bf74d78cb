"""A run that two processes believe to be theirs: it is the later one's, whatever the earlier one still does."""

import threading
from pathlib import Path
from typing import Any

import pytest
from runs import files_of, record_on_disk, spec_of, worker

from distseg.errors import FencedError
from distseg.records import PROGRESS_FILE, Status
from distseg.train.loop import run
from distseg.train.turn import Turn


def test_the_latest_to_begin_has_it(tmp_path: Path) -> None:
    first, second = Turn(tmp_path), Turn(tmp_path)
    first.check()  # nobody has begun
    first.take()
    first.check()
    second.take()
    assert (first.is_over, second.is_over) == (True, False)
    with pytest.raises(FencedError, match="another process goes on with this run"):
        first.check()
    first.take()
    assert second.is_over


class LinkIsBackError(RuntimeError):
    """What a worker that was cut off meets."""


@pytest.mark.parametrize("fails", [False, True], ids=["trains on", "fails"])
def test_a_replaced_process_changes_nothing(fails: bool, shards: Path, tmp_path: Path) -> None:
    """The first stands still after an epoch; a second goes on from its checkpoint; in its midst the first wakes up."""
    spec = spec_of(tmp_path / "run", shards)
    stands_still, wakes_up = threading.Event(), threading.Event()
    ends: list[Exception] = []

    def stand_still(row: dict[str, Any]) -> None:
        stands_still.set()
        wakes_up.wait()
        if fails:
            raise LinkIsBackError

    def first() -> None:
        try:
            run(spec, worker(stand_still))
        except Exception as error:
            ends.append(error)

    def contents() -> dict[str, bytes]:
        # what followers see is replaced every second
        return {name: (spec.folder / name).read_bytes() for name in files_of(spec.folder) - {PROGRESS_FILE}}

    def wake_the_first(row: dict[str, Any]) -> None:
        if thread.is_alive():
            before = contents()
            wakes_up.set()
            thread.join()
            assert contents() == before
            assert record_on_disk(spec).status is Status.RUNNING

    thread = threading.Thread(target=first)
    thread.start()
    assert stands_still.wait(60)
    record = run(spec, worker(wake_the_first))
    assert [type(error) for error in ends] == [LinkIsBackError if fails else FencedError]
    assert record_on_disk(spec).status is record.status is Status.COMPLETED
