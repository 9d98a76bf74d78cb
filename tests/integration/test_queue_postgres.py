"""The store on a real PostgreSQL that the tests start; what SQLite passes in tests/unit, and a restart underneath."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import Server, programs, serving
from queue_conformance import FAILED, SUCCEEDED, Stage, StoreConformance
from test_queue_attempt import Bench, until

from distseg.errors import StoreError
from distseg.home import Home
from distseg.queue import rows
from distseg.queue.database import Database, store_url
from distseg.queue.lease import Lease
from distseg.queue.models import Timing
from distseg.queue.states import AttemptState, JobState

pytestmark = pytest.mark.skipif(programs() is None, reason="no PostgreSQL programs (initdb) on this machine")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    return server.empty()


class TestPostgreSQL(StoreConformance):
    pass


def test_a_server_restarted_underneath_loses_nothing(home: Home) -> None:
    with serving() as server:  # one of its own: recovery takes long where there are many databases
        _restart(server, Stage(home, server.url()))


def _restart(server: Server, stage: Stage) -> None:
    job, other = stage.submit("a"), stage.submit("b")
    lease = stage.run(job)
    server.control("stop", "-m", "immediate")  # as by a crash
    with pytest.raises(StoreError) as error:
        lease.renew()
    assert "\n" not in str(error.value)
    server.control("start")
    assert lease.renew() == (None, None)
    assert lease.finish(SUCCEEDED) is JobState.SUCCEEDED
    assert stage.run(other).finish(FAILED) is JobState.FAILED
    stage.database.close()


def test_a_job_outlives_a_restart_of_the_server(home: Home, tmp_path: Path) -> None:
    go, ran = tmp_path / "go", tmp_path / "ran"
    with serving() as server:
        bench = Bench(home, server.url())
        bench.ledger.timing = Timing()
        script = f"echo once >> {ran}; while [ ! -e {go} ]; do sleep 0.1; done"
        job, process = bench.launch("sh", "-c", script)
        until(ran.exists)
        server.control("stop", "-m", "immediate")
        go.touch()  # it ends while there is nobody to record that
        time.sleep(1)
        server.control("start")
        bench.finish(process)
        assert (bench.state(job), process.returncode, ran.read_text()) == (JobState.SUCCEEDED, 0, "once\n")
        bench.database.close()


def test_a_launch_is_noted_while_its_process_starts(home: Home, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(home, url)
    (attempt,) = stage.claim(stage.submit())
    lease = Lease(stage.database, attempt.job_id, attempt.number)
    journal = rows.journal
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    held = "SELECT count(*) FROM pg_locks WHERE relation = 'attempts'::regclass AND mode = 'RowExclusiveLock'"

    def journal_later(*given: Any) -> None:
        if given[2] is AttemptState.LAUNCHED:  # the attempt is locked; the process has locked the job and wants it, too
            until(lambda: stage.execute(waits) == [(1,)])
        journal(*given)

    monkeypatch.setattr(rows, "journal", journal_later)
    noting = threading.Thread(target=stage.ledger.launched, args=(stage.leader, [attempt]))
    noting.start()
    until(lambda: stage.execute(held) != [(0,)])
    _, started = lease.start("here")
    noting.join()
    assert (started.state, stage.attempt(stage.queue.job(attempt.job_id)).state) == (AttemptState.RUNNING,) * 2
    stage.database.close()


def test_no_password_in_messages(server: Server, home: Home) -> None:
    address = server.url("nowhere").replace("tester@", "tester:secret@")
    with pytest.raises(StoreError) as error:
        Database(store_url(home, address))
    assert "secret" not in str(error.value)
    assert "nowhere" in str(error.value)
