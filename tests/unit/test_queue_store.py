"""The store on SQLite; PostgreSQL passes the same tests in tests/integration."""

from pathlib import Path

import pytest
from queue_conformance import SUCCEEDED, Stage, StoreConformance, sqlite_url

from distseg.errors import QueueError, StoreError
from distseg.home import Home
from distseg.queue.database import Database, leave_url, store_url
from distseg.queue.states import JobState


class TestSQLite(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return sqlite_url(tmp_path)


def test_the_store_is_a_file_in_the_home_by_default(home: Home) -> None:
    assert store_url(home, None).render_as_string() == f"sqlite:///{home.root}/queue/queue.sqlite"


def test_an_address_is_left_for_its_owner_alone(home: Home) -> None:
    url = store_url(home, "postgresql://ada:secret@db.example/queue")
    leave_url(home, url)
    path = home.queue / "url"
    assert path.stat().st_mode & 0o777 == 0o600
    assert store_url(home, None) == url
    assert store_url(home, "sqlite:////elsewhere").database == "/elsewhere"  # what is given goes first
    assert [file.name for file in home.queue.iterdir()] == ["url"]


@pytest.mark.parametrize("address", ["mysql://ada:secret@db/queue", "nonsense secret", "sqlite:///relative/secret"])
def test_an_unusable_address_is_refused_without_showing_a_password(home: Home, address: str) -> None:
    with pytest.raises(QueueError, match="DISTSEG_QUEUE_URL") as error:
        store_url(home, address)
    assert ("secret" in str(error.value)) == address.startswith("sqlite")


def test_a_full_disk_leaves_nothing_half_written(home: Home, tmp_path: Path) -> None:
    stage = Stage(home, sqlite_url(tmp_path))
    kept = stage.submit("kept")
    stage.execute("SELECT 1")
    (pages,) = stage.execute("PRAGMA page_count")[0]
    stage.execute(f"PRAGMA max_page_count = {pages}")  # of the one connection that there is
    with pytest.raises(StoreError, match=r"full \(make room on its disk\)"):
        list(map(stage.submit, ["x" * 80] * 1000))
    found = stage.queue.jobs()
    assert len(stage.execute("SELECT DISTINCT job_id FROM events WHERE job_id IS NOT NULL")) == len(found)
    stage.execute("PRAGMA max_page_count = 1000000")
    stage.run(kept).finish(SUCCEEDED)
    assert stage.state(kept) is JobState.SUCCEEDED
    stage.database.close()


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (tmp_path / "file").write_text("no database, but long enough to be taken for one " * 100)
    for address in (f"sqlite:///{tmp_path}/file", f"sqlite:///{tmp_path}/no/such/folder/queue.sqlite"):
        with pytest.raises(StoreError) as error:
            Database(store_url(home, address))
        assert "\n" not in str(error.value)
