"""``distseg jobs serve``: what is checked before a dispatcher starts, and how it is stopped."""

import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from distseg.errors import ClusterError, DistsegError

if TYPE_CHECKING:
    from distseg.queue.database import Database
    from distseg.queue.dispatcher import Dispatcher
    from distseg.queue.models import Node

DEFAULT_ADDRESS = "http://127.0.0.1:8265"


def serve_queue(
    home_given: str | None,
    address: str | None,
    *,
    once: bool,
    max_per_owner: int | None,
    preempt: bool,
    insecure: bool,
) -> None:
    """Serves until SIGTERM or Ctrl-C. ClusterError when the cluster is open to others or refuses our token."""
    from distseg.home import Home
    from distseg.queue.database import Database, leave_url, store_url
    from distseg.queue.dispatcher import Dispatcher
    from distseg.queue.models import Policy

    home = Home.from_environment(home_given)
    given = os.environ.get("DISTSEG_QUEUE_URL")
    database = Database(store_url(home, given))
    from distseg.on_ray.jobs import RayJobs, is_loopback, is_open

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    backend = RayJobs(address)
    if is_open(address) and not is_loopback(address) and not insecure:
        raise ClusterError(
            f"Ray at {address}: anybody who reaches it may run commands there (no token is asked for); start it with "
            "RAY_AUTH_MODE=token, or accept that with --insecure"
        )
    if given:
        leave_url(home, database.url)  # attempts find the store there: its address may hold a password
    holder = f"{socket.gethostname()}:{os.getpid()}"
    dispatcher = Dispatcher(database, backend, home, holder, policy=Policy(max_per_owner, preempt), tell=_tell)
    _warn_of_hosts(database, backend.nodes())
    if once:
        _serve_once(dispatcher)
        return
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    _tell(f"serving queue {database.name} on {address}; Ctrl-C stops it, and jobs that run go on")
    dispatcher.serve(stopping.is_set)


def _serve_once(dispatcher: "Dispatcher") -> None:
    """One look at everything; DistsegError when another dispatcher leads."""
    patience = time.monotonic() + dispatcher.timing.leadership_s + 1
    dispatcher.step()
    while dispatcher.leader is None:  # one that was killed a moment ago leaves a lease behind
        if time.monotonic() > patience:
            raise DistsegError("--once: another dispatcher serves this queue, and starts jobs by itself")
        time.sleep(dispatcher.timing.poll_store_s)
        dispatcher.step()
    dispatcher.resign()


def _warn_of_hosts(database: "Database", nodes: "tuple[Node, ...]") -> None:
    hosts = sorted({node.host for node in nodes})
    if database.one_host and len(hosts) > 1:
        _tell(
            f"warning: the store is SQLite, which serves one host, and the cluster has {len(hosts)} "
            f"({', '.join(hosts[:3])}); set DISTSEG_QUEUE_URL to a PostgreSQL database"
        )


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
