"""The queue's store: reachable, of which version, and whether it can serve the hosts of the cluster."""

import time
from collections.abc import Sequence

from distseg.doctor.finding import Finding, Level, Survey
from distseg.errors import DistsegError
from distseg.home import Home
from distseg.queue.database import Database, left_url, store_url
from distseg.queue.schema import steps

PATIENCE_S = 5.0
_SKEW_MAX_S = 2.0


def store(root: str | None, url: str | None, hosts: Sequence[str] = ()) -> Survey:
    """The store of the home at ``root``, or at ``url``; ``hosts``: of the cluster. Nothing is made or changed."""
    home = Home.from_environment(root)
    if not (url or left_url(home)) and not (home.queue / "queue.sqlite").is_file():
        none_yet = Finding("queue's store", "none yet: SQLite, made by the first 'distseg jobs submit'")
        return Survey([none_yet, *_over_hosts(True, hosts)])
    try:
        database = Database(store_url(home, url), PATIENCE_S, migrate=False)
        try:
            found = _look(database)
        finally:
            database.close()
    except DistsegError as error:
        return Survey([Finding("queue's store", str(error), Level.ERROR, "see DISTSEG_QUEUE_URL and the server's log")])
    return Survey([*found, *_over_hosts(database.one_host, hosts)])


def _look(database: Database) -> list[Finding]:
    version, known = database.version(), len(steps(database.dialect))
    with database.reading() as connection:
        skew = database.now(connection) - time.time()
    value = f"{database.name}, tables of version {version}"
    name = "queue's store"
    if version > known:
        here = Finding(name, f"{value}, this program knows {known}", Level.ERROR, "upgrade distseg on this machine")
    elif version < known:
        here = Finding(name, value, Level.OK, f"the next 'distseg jobs' command brings it to version {known}")
    else:
        here = Finding(name, value)
    if abs(skew) > _SKEW_MAX_S:
        return [here, Finding("store's clock", f"{skew:+.0f} s from ours", Level.WARNING, "synchronise both with NTP")]
    return [here]


def _over_hosts(one_host: bool, hosts: Sequence[str]) -> list[Finding]:
    if not one_host or len(hosts) < 2:
        return []
    step = "set DISTSEG_QUEUE_URL to a PostgreSQL database (pip install 'distseg[postgres]')"
    value = f"SQLite serves one host; several hosts need PostgreSQL, and the cluster has {len(hosts)}"
    return [Finding("queue over hosts", value, Level.ERROR, step)]
