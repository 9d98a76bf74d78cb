"""The store on a real PostgreSQL that the tests start; what SQLite passes in tests/unit, and a restart underneath."""

from collections.abc import Iterator

import pytest
from postgres import Server, programs, serving
from queue_conformance import FAILED, SUCCEEDED, Stage, StoreConformance

from distseg.errors import StoreError
from distseg.home import Home
from distseg.queue.database import Database, store_url
from distseg.queue.states import JobState

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


def test_no_password_in_messages(server: Server, home: Home) -> None:
    address = server.url("nowhere").replace("tester@", "tester:secret@")
    with pytest.raises(StoreError) as error:
        Database(store_url(home, address))
    assert "secret" not in str(error.value)
    assert "nowhere" in str(error.value)
