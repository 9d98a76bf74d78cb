"""The queue's speed: admissions, commands on a full store, reuse of a freed GPU, the cost of an idle dispatcher.

    python benchmarks/job_queue.py [--jobs 10000] [--only admissions|commands|reuse|idle]

Prints one JSON line a figure, with the bound that it is held to. The cluster is one in memory, so Ray's own time is
not in it; the attempts' side of the store (two transactions a job) is. PostgreSQL is one that this script starts; where
there is none its figures are left out, saying so. Kueue's gate, for scale: 15,000 jobs in 425 s, 35 a second.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

# in place of this folder, where this very file would be taken for Python's own `queue`
sys.path[0] = str(Path(__file__).resolve().parents[1] / "tests")

from postgres import programs, serving  # noqa: E402

from distseg.home import Home  # noqa: E402
from distseg.queue.backend import MemoryBackend, Report, Status, Submission  # noqa: E402
from distseg.queue.client import Queue  # noqa: E402
from distseg.queue.database import Database, store_url  # noqa: E402
from distseg.queue.dispatcher import Dispatcher  # noqa: E402
from distseg.queue.lease import Lease  # noqa: E402
from distseg.queue.models import JobSpec, Node, Timing  # noqa: E402
from distseg.queue.retry import Outcome  # noqa: E402
from distseg.queue.states import AttemptState, JobState  # noqa: E402

DONE = Outcome(AttemptState.SUCCEEDED, "exit code 0", 0)
NODES = tuple(Node(f"node{number:02d}", 64, 8) for number in range(50))
GPUS = (0.5, 1.0, 1.0, 2.0, 4.0)
NO_WAITING = Timing(poll_cluster_s=0.0)


def say(figure: str, store: str, value: float, bound: str, **more: object) -> None:
    line = {"figure": figure, "store": store, "value": round(value, 4), "bound": bound, **more}
    print(json.dumps(line), flush=True)


class Stores:
    """A home with a store in it."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = name
        self.url = url
        self.home = Home(folder)
        self.queue = Queue(Database(store_url(self.home, url)), self.home)

    def spec(self, number: int) -> JobSpec:
        gpus = GPUS[number % len(GPUS)]
        return JobSpec(
            ("python", "train.py", f"seed={number}"),
            name=f"job{number}",
            owner=f"user{number % 7}",
            gpus=gpus,
            cpus=2 * gpus,
            priority=number % 3,
            timeout_s=3600 if number % 2 else None,
        )

    def fill(self, jobs: int) -> float:
        """Submissions a second."""
        begun = time.perf_counter()
        for number in range(jobs):
            self.queue.submit(self.spec(number))
        return jobs / (time.perf_counter() - begun)


@contextmanager
def stores() -> Iterator[list[Callable[[], Stores]]]:
    """Makers of an empty store of each kind that this machine has."""
    with TemporaryDirectory() as folder:
        count = iter(range(1000))

        def sqlite() -> Stores:
            home = Path(folder) / f"home{next(count)}"
            home.mkdir()
            return Stores("sqlite", f"sqlite:///{home / 'queue.sqlite'}", home)

        if programs() is None:
            print("no PostgreSQL programs (initdb) on this machine: its figures are left out", file=sys.stderr)
            yield [sqlite]
            return
        with serving() as server:
            yield [sqlite, lambda: Stores("postgresql", server.empty(), Path(folder) / f"home{next(count)}")]


def admissions(store: Stores) -> None:
    """Runs all jobs through the dispatcher, checking at each step what the queue promises."""
    jobs = sum(store.queue.counts().values())
    backend = MemoryBackend(NODES)
    dispatcher = Dispatcher(store.queue.database, backend, store.home, "bench", timing=NO_WAITING)
    begun = time.perf_counter()
    working = 0.0
    steps = 0
    started: set[str] = set()
    while len(started) < jobs:
        before = time.perf_counter()
        dispatcher.step()
        working += time.perf_counter() - before
        steps += 1
        check(dispatcher)
        for name, report in list(backend.known.items()):
            if report.status is Status.PENDING:
                assert name not in started, f"{name} was started twice"
                started.add(name)
                job_id, _, number = name.rpartition("-")
                lease = Lease(store.queue.database, job_id, int(number))
                lease.start("here")
                lease.finish(DONE)
                del backend.known[name]  # a cluster that is asked for 10,000 ended jobs at each look is not the point
    elapsed = time.perf_counter() - begun
    assert store.queue.counts() == {JobState.SUCCEEDED: jobs}, store.queue.counts()
    assert all(job.attempt == 1 for job in store.queue.jobs())
    say("admissions_per_s", store.name, jobs / working, ">= 200", jobs=jobs, steps=steps)
    say("jobs_per_s_attempts_included", store.name, jobs / elapsed, "", jobs=jobs)


def check(dispatcher: Dispatcher) -> None:
    """No node and no GPU holds more than it has, and each job has one live attempt at most."""
    live = [attempt for _, attempt in dispatcher.ledger.snapshot().live]
    assert len({attempt.job_id for attempt in live}) == len(live)
    cpus = dict.fromkeys((node.name for node in NODES), 0.0)
    gpus: dict[tuple[str, int], float] = {}
    for attempt in live:
        for share in attempt.placement:
            cpus[share.node] += share.cpus
            for index, part in share.gpus:
                gpus[share.node, index] = gpus.get((share.node, index), 0.0) + part
    assert all(cpus[node.name] <= node.cpus + 1e-6 for node in NODES)
    assert all(part <= 1 + 1e-6 and index < 8 for (_, index), part in gpus.items())


def commands(store: Stores, jobs: int, rounds: int) -> None:
    """Wall time of whole commands; that of ``distseg --version`` beside it is Python's and the command line's own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"DISTSEG_HOME": str(store.home.root), "DISTSEG_QUEUE_URL": store.url}
    taken: dict[str, list[float]] = {}
    for _ in range(rounds + 1):  # the first writes byte code
        for words in ("--version", "jobs submit -- true", "jobs list", "jobs list --json", "jobs explain job7"):
            before = time.perf_counter()
            command = [sys.executable, "-m", "distseg.cli.main", *words.split()]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            taken.setdefault(words, []).append(time.perf_counter() - before)
    for words, times in taken.items():
        bound = "< 0.3" if words in ("jobs submit -- true", "jobs list") else ""
        say("command_s", store.name, median(times[1:]), bound, command=words, jobs=jobs, low=min(times[1:]))


class Noting(MemoryBackend):
    """Notes when each submission arrives."""

    arrived: threading.Event

    def submit(self, submission: Submission) -> None:
        super().submit(submission)
        self.known[submission.id] = Report(Status.RUNNING)
        self.arrived.set()


def reuse(make: Callable[[], Stores], rounds: int) -> None:
    """From the end of a job that holds the only GPU to the submission of the next, by a dispatcher as it is served."""
    store = make()
    backend = Noting((Node("only", 4, 1),))
    backend.arrived = threading.Event()
    for number in range(rounds + 1):
        store.queue.submit(JobSpec(("true",), name=f"job{number}", gpus=1))
    stop = threading.Event()
    dispatcher = Dispatcher(store.queue.database, backend, store.home, "bench")
    serving_it = threading.Thread(target=dispatcher.serve, args=(stop.is_set,))
    serving_it.start()
    waits = []
    ended = time.perf_counter()
    for _ in range(rounds + 1):
        assert backend.arrived.wait(30)
        waits.append(time.perf_counter() - ended)
        backend.arrived.clear()
        job_id, _, attempt = list(backend.submissions)[-1].rpartition("-")
        lease = Lease(store.queue.database, job_id, int(attempt))
        lease.start("here")
        lease.finish(DONE)
        ended = time.perf_counter()
    stop.set()
    serving_it.join()
    del waits[0]  # that of the dispatcher's own start
    say("freed_gpu_used_again_s", store.name, max(waits), "< 1", median=round(median(waits), 4), rounds=rounds)


def idle(make: Callable[[], Stores], seconds: float) -> None:
    """Processor time of a dispatcher with nothing to do, over wall time."""
    store = make()
    dispatcher = Dispatcher(store.queue.database, MemoryBackend(NODES), store.home, "bench")
    end = time.monotonic() + 5
    dispatcher.serve(lambda: time.monotonic() > end)  # what it does once
    wall, cpu = time.perf_counter(), time.process_time()
    end = time.monotonic() + seconds
    dispatcher.serve(lambda: time.monotonic() > end)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    say("idle_dispatcher_cores", store.name, share, "< 0.01", seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=30.0, help="of an idle dispatcher")
    parser.add_argument("--only", choices=("admissions", "commands", "reuse", "idle"))
    options = parser.parse_args()
    with stores() as makers:
        for make in makers:
            if options.only in (None, "admissions", "commands"):
                store = make()
                say("submissions_per_s", store.name, store.fill(options.jobs), "", jobs=options.jobs)
            if options.only in (None, "commands"):
                commands(store, options.jobs, options.rounds)
            if options.only in (None, "admissions"):
                admissions(store)
            if options.only in (None, "reuse"):
                reuse(make, options.rounds)
            if options.only in (None, "idle"):
                idle(make, options.seconds)


if __name__ == "__main__":
    main()
