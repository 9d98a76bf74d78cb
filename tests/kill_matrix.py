"""The queue's kill matrix: SIGKILL of each part at each step of a job on a real Ray, and what became of the job.

    python tests/kill_matrix.py [--cells dispatcher:claimed,head:running] [--write cluster/RECOVERY.md]

A cell starts from a job that is held at a step by a gate (a file that a process waits at), kills its victim, opens the
gate, and lets the job end. Then: the job has succeeded and its last checkpoint is whole (nothing lost); its command
never ran twice at once (it holds a file lock); whatever an earlier attempt still tries to write is refused; no attempt
is live and nobody holds leadership. The gates are put into the real dispatcher and the real attempt from outside.

The Ray has a head without CPUs and two worker nodes of one CPU; the job's driver runs on a worker node (``--alone``).
"""

import argparse
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = ("submitted", "claimed", "launched", "running", "checkpointing", "finishing", "recording")
VICTIMS = ("dispatcher", "head", "node", "driver")
NAMES = {
    "dispatcher": "dispatcher",
    "head": "Ray head",
    "node": "worker node",
    "driver": "job driver",
    "frozen": "dispatcher, frozen",
}
WORK = 3
"""Steps of the command, each with a checkpoint."""
NO_DRIVER = "-"
GATES = "DISTSEG_TEST_GATES"
TIMEOUT_S = 240.0
STARTS = 3


@dataclass(frozen=True)
class Row:
    """What became of one cell."""

    victim: str
    step: str
    attempts: str
    """How the attempts ended, in order."""
    seconds: float
    """From the kill to the job's success."""


def cells() -> list[tuple[str, str]]:
    """All that can be: there is no driver before the launch. And a dispatcher frozen past its lease, then thawed."""
    wanted = [(victim, step) for victim in VICTIMS for step in STEPS]
    return [cell for cell in wanted if cell not in (("driver", "submitted"), ("driver", "claimed"))] + [
        ("frozen", "submitted"),
        ("frozen", "claimed"),
    ]


# gates


def gate(folder: Path, step: str) -> None:
    """Waits here for as long as the step is held."""
    if (folder / f"{step}.hold").exists():
        aside = folder / f"{step}.aside"
        aside.write_text(str(os.getpid()))
        aside.rename(folder / f"{step}.reached")
        while (folder / f"{step}.hold").exists():
            time.sleep(0.02)


# the processes of a cell


def command(folder: Path) -> None:
    """The job's command: works in steps, each saved whole or not at all, and goes on from the last that was."""
    gates = Path(os.environ[GATES])
    with open(folder / "history", "a") as history, open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            history.write("OVERLAP\n")
            raise
        saved = folder / "checkpoint.json"
        done = json.loads(saved.read_text()) if saved.exists() else 0
        history.write(f"begin at {done}\n")
        history.flush()
        for step in range(done + 1, WORK + 1):
            if step == 2:
                gate(gates, "running")
            with open(folder / "checkpoint.aside", "w") as aside:
                aside.write(" ")
                aside.flush()
                if step == 3:
                    gate(gates, "checkpointing")
                aside.write(str(step))
            os.replace(folder / "checkpoint.aside", saved)
        history.write("end\n")


def attempt(words: list[str]) -> int:
    """``distseg.queue.attempt`` with gates."""
    from distseg.queue import attempt as module
    from distseg.queue import rows
    from distseg.queue.lease import Lease

    gates = Path(os.environ[GATES])
    gate(gates, "launched")
    finish, end = Lease.finish, rows.end_attempt

    def held_finish(self: Lease, outcome: Any) -> Any:
        gate(gates, "finishing")
        return finish(self, outcome)

    def held_end(*arguments: Any) -> Any:
        state = end(*arguments)
        gate(gates, "recording")  # written, not yet committed
        return state

    Lease.finish = held_finish  # type: ignore[method-assign]
    rows.end_attempt = held_end
    return module.main(words)


def dispatcher(home_folder: Path, address: str) -> None:
    """``distseg jobs serve`` with gates and short times, so that a matrix ends before the day does."""
    from distseg.home import Home
    from distseg.on_ray.jobs import RayJobs
    from distseg.queue.backend import Submission
    from distseg.queue.database import Database, store_url
    from distseg.queue.dispatcher import Dispatcher
    from distseg.queue.leader import Ledger

    gates = Path(os.environ[GATES])
    home = Home(home_folder)
    claim = Ledger.claim

    class Gated(RayJobs):
        def submit(self, submission: Submission) -> None:
            gate(gates, "claimed")
            job, number = submission.command[-2:]
            super().submit(
                Submission(
                    submission.id,
                    (sys.executable, str(Path(__file__).resolve()), "attempt", job, number),
                    {**submission.environment, GATES: str(gates)},
                    cpus=submission.cpus,
                )
            )

    def held_claim(self: Ledger, leader: Any, chosen: Any) -> Any:
        gate(gates, "submitted")
        return claim(self, leader, chosen)

    Ledger.claim = held_claim  # type: ignore[method-assign]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    serving = Dispatcher(
        Database(store_url(home, None)), Gated(address), home, f"dispatcher {os.getpid()}", timing=timing(),
        tell=lambda line: print(f"{time.strftime('%H:%M:%S')} {line}", flush=True),
    )  # fmt: skip
    serving.serve(lambda: bool(stopped))


def timing() -> Any:
    from distseg.queue.models import Timing

    return Timing(lease_s=6.0, grace_s=2.0, leadership_s=4.0, leadership_renew_s=1.0, poll_cluster_s=1.0)


# the cluster


def local_ray() -> ModuleType:
    """``cluster/local.py``, which is no package."""
    spec = importlib.util.spec_from_file_location("distseg_local_ray", REPOSITORY / "cluster" / "local.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Nodes:
    """A head without CPUs and worker nodes of one, each a set of processes that carry its mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.local = local_ray()
        self.port, self.dashboard = self.local._free_ports(2)
        self.token = folder / "token"
        self.token.write_text("0123456789abcdef" * 4)
        self.count = 0
        self.workers: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def client(self) -> dict[str, str]:
        """What a process needs in order to ask this Ray."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def start_head(self) -> None:
        # every agent takes a port of its own choice; the two that others call stay the same
        self._start(
            "head",
            *("--head", f"--port={self.port}", "--num-cpus=0", "--num-gpus=0", f"--temp-dir={self._temporary()}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"),
        )

    def start_worker(self) -> None:
        name = f"worker{self.count}"
        self._start(name, f"--address=127.0.0.1:{self.port}", "--num-cpus=1", "--num-gpus=0")
        self.workers.append(name)

    def kill(self, name: str) -> None:
        """SIGKILL for all of a node's processes, until none is left: as when its machine goes."""
        while pids := self.pids(name):
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
        if name in self.workers:
            self.workers.remove(name)

    def pids(self, name: str) -> set[int]:
        found: set[int] = self.local._marked(self.folder / name)
        return found

    def node_of(self, pid: int) -> str:
        """The worker node that a process belongs to."""
        return next(name for name in self.workers if pid in self.pids(name))

    def stop(self) -> None:
        for name in [*self.workers, "head"]:
            self.kill(name)

    def _temporary(self) -> Path:
        return self.folder / f"ray{self.count}"

    def _start(self, name: str, *words: str) -> None:
        self.count += 1
        ports = self.local._free_ports(6)
        names = ("ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
        names += ("runtime-env-agent-port", "metrics-export-port", "node-manager-port")
        chosen = [f"--{option}={port}" for option, port in zip(names, ports, strict=True)]
        if "--head" not in words:
            chosen = chosen[1:]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= self.local.SETTINGS | self.client | {self.local.MARK: str(self.folder / name)}
        # a worker node whose head has gone ends itself, after a minute by default
        environment |= {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "PYTHONPATH": str(REPOSITORY / "src")}
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", *words, *chosen, "--min-worker-port=0", "--max-worker-port=0", "--log-color=false"]
        for _ in range(STARTS):  # on a busy machine Ray gives up on itself after 30 s
            done = subprocess.run(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            if done.returncode == 0:
                return
            self.kill(name)
        raise AssertionError(done.stdout)


class Lab:
    """Nodes, a home, dispatchers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes = Nodes(folder)
        self.dispatchers: list[subprocess.Popen[bytes]] = []

    def start_dispatcher(self, home: Path, gates: Path) -> "subprocess.Popen[bytes]":
        words = [sys.executable, str(Path(__file__).resolve()), "dispatcher", str(home), self.nodes.address]
        environment = {**os.environ, **self.nodes.client, GATES: str(gates), "PYTHONPATH": str(REPOSITORY / "src")}
        with open(self.folder / "dispatchers.log", "ab") as log:
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        self.dispatchers.append(process)
        return process

    def log(self) -> str:
        path = self.folder / "dispatchers.log"
        return path.read_text()[-4000:] if path.exists() else ""

    def end(self) -> None:
        for process in self.dispatchers:
            process.kill()
            process.wait()
        self.nodes.stop()


@contextmanager
def lab() -> Iterator[Lab]:
    """A cluster for one or more cells."""
    with TemporaryDirectory(prefix="km-", dir="/tmp") as folder:
        made = Lab(Path(folder))
        try:
            made.nodes.start_head()
            for _ in range(2):
                made.nodes.start_worker()
            yield made
        finally:
            made.end()


def until(happened: Callable[[], Any], what: str, lab: Lab) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (result := happened()):
        assert time.monotonic() < deadline, f"{what}: not after {TIMEOUT_S:g} s\n{lab.log()}"
        time.sleep(0.05)
    return result


def play(lab: Lab, victim: str, step: str) -> Row:
    """One cell; AssertionError when a promise is broken."""
    from distseg.home import Home
    from distseg.queue import JobSpec, Queue

    folder = lab.folder / f"{victim}-{step}"
    gates = folder / "gates"
    gates.mkdir(parents=True)
    hold, reached = gates / f"{step}.hold", gates / f"{step}.reached"
    hold.touch()
    queue = Queue.open(Home(folder / "home"))
    own = (sys.executable, str(Path(__file__).resolve()), "command", str(folder))
    job = queue.submit(JobSpec(own, name=f"{victim}-{step}", cpus=1, alone=True))
    serving = lab.start_dispatcher(folder / "home", gates)
    until(reached.exists, f"{victim} at {step}: the step", lab)
    killed_at = time.monotonic()
    if victim == "dispatcher":
        serving.kill()
        serving.wait()
        serving = lab.start_dispatcher(folder / "home", gates)
    elif victim == "frozen":
        frozen, serving = serving, lab.start_dispatcher(folder / "home", gates)
        frozen.send_signal(signal.SIGSTOP)
        hold.unlink()
        until(lambda: queue.job(job.id).attempt and queue.job(job.id).started_at, "the second dispatcher's start", lab)
        frozen.send_signal(signal.SIGCONT)
        until(lambda: f"dispatcher {frozen.pid}: no longer leads" in lab.log(), "the frozen one's refusal", lab)
        frozen.kill()
        frozen.wait()
    elif victim == "head":
        lab.nodes.kill("head")
        hold.unlink()
        for name in list(lab.nodes.workers):  # they cannot join another head, and end themselves sooner or later
            until(lambda name=name: not raylets(lab.nodes.pids(name)), f"{name}'s end", lab)
            lab.nodes.kill(name)
        lab.nodes.start_head()
        for _ in range(2):
            lab.nodes.start_worker()
    elif victim == "node":
        at = int(reached.read_text())
        lab.nodes.kill(lab.nodes.node_of(at) if at in everything(lab.nodes) else lab.nodes.workers[0])
    else:
        os.kill(driver(lab.nodes, job.id), signal.SIGKILL)
    hold.unlink(missing_ok=True)
    until(lambda: queue.job(job.id).state.over, f"{victim} at {step}: the job's end", lab)
    seconds = time.monotonic() - killed_at
    check(queue, job.id, folder, lab)
    # the job may have ended while the second dispatcher was starting
    until(lambda: f"dispatcher {serving.pid} leads" in lab.log(), f"{victim} at {step}: leadership", lab)
    serving.terminate()
    assert serving.wait(60) == 0, lab.log()
    with queue.database.reading() as connection:
        lease = connection.exec_driver_sql("SELECT lease_until FROM leadership").scalar_one()
    assert lease == 0, "leadership was left behind"
    ends = ", ".join(attempt.state.value for attempt in queue.attempts(job.id))
    queue.database.close()
    if victim == "node":
        lab.nodes.start_worker()
    return Row(victim, step, ends, seconds)


def check(queue: Any, job_id: str, folder: Path, lab: Lab) -> None:
    """The promises, once the job is over."""
    import pytest

    from distseg.errors import FencedError
    from distseg.queue.lease import Lease
    from distseg.queue.retry import Outcome
    from distseg.queue.states import AttemptState, JobState

    job = queue.job(job_id)
    assert job.state is JobState.SUCCEEDED, f"{job.state}: {job.reason}\n{lab.log()}"
    history = (folder / "history").read_text().splitlines()
    assert "OVERLAP" not in history, history
    assert history[-1] == "end", history
    assert json.loads((folder / "checkpoint.json").read_text()) == WORK
    attempts = queue.attempts(job_id)
    assert not any(attempt.state.live for attempt in attempts)
    assert [attempt.state for attempt in attempts].count(AttemptState.SUCCEEDED) == 1
    assert attempts[-1].state is AttemptState.SUCCEEDED
    events = len(queue.events(job_id))
    for attempt in attempts:
        lease = Lease(queue.database, job_id, attempt.number)
        for write in (lease.renew, lambda lease=lease: lease.finish(Outcome(AttemptState.FAILED, "stale", 1))):
            with pytest.raises(FencedError):
                write()
    assert len(queue.events(job_id)) == events


def everything(nodes: Nodes) -> set[int]:
    return set().union(*(nodes.pids(name) for name in nodes.workers))


def raylets(pids: set[int]) -> list[int]:
    return [pid for pid in pids if b"raylet/raylet" in command_line(pid)]


def driver(nodes: Nodes, job_id: str) -> int:
    """The process that is the job's attempt: not the shell around it, nor the guard beside it, which it made itself."""
    wanted = [b"attempt", job_id.encode()]
    found = [pid for pid in everything(nodes) if command_line(pid).split(b"\0")[2:4] == wanted]
    (oldest,) = [pid for pid in found if parent(pid) not in found]
    return oldest


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# the page


def page(rows: Sequence[Row]) -> str:
    """``cluster/RECOVERY.md``."""
    from importlib.metadata import version

    from distseg.queue.models import Timing

    found = {(row.victim, row.step): row for row in rows}
    times, usual = timing(), Timing()
    lines = [
        "# What a kill does to a job",
        "",
        "SIGKILL of each part at each step of a job on a real Ray (a head, two worker nodes, token authentication),",
        "the store in SQLite. Every cell was checked: the job succeeded and its last checkpoint is whole; its command",
        "never ran twice at once; what an earlier attempt still tried to write was refused; no lease was left behind.",
        "",
        "A cell shows how the attempts ended, and the seconds from the kill to the job's success. In them are: an",
        f"attempt's lease ({times.lease_s:g} s here, {usual.lease_s:g} s in `distseg jobs serve`), the grace after it",
        f"({times.grace_s:g} s, else {usual.grace_s:g} s), the lease of leadership ({times.leadership_s:g} s, else",
        f"{usual.leadership_s:g} s), 5 s before the attempt after a lost one, and the time in which Ray notices and",
        "nodes start again.",
        "",
        f"| killed | {' | '.join(STEPS)} |",
        f"|---|{'---|' * len(STEPS)}",
    ]
    for victim in (*VICTIMS, "frozen"):
        shown = [found.get((victim, step)) for step in STEPS]
        if any(shown):
            texts = [f"{row.attempts}; {row.seconds:.0f} s" if row else NO_DRIVER for row in shown]
            lines.append(f"| {NAMES[victim]} | {' | '.join(texts)} |")
    lines += [
        "",
        f"`{NO_DRIVER}`: nothing to kill there. *Frozen*: SIGSTOP past its lease until a second one leads, then",
        "SIGCONT: its writes are refused. LOST: the attempt's lease ended, or it never began; it costs no retry.",
        "",
        f"Made on {datetime.now(UTC):%Y-%m-%d} with Ray {version('ray')} on {os.cpu_count()} cores, by:",
        "",
        "    python tests/kill_matrix.py --write cluster/RECOVERY.md",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", help="victim:step,... Default: all.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the table as a page")
    options = parser.parse_args()
    chosen = [tuple(cell.split(":")) for cell in options.cells.split(",")] if options.cells else cells()
    rows = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # its nodes are ended then, too
    with lab() as made:
        for victim, step in chosen:
            rows.append(play(made, victim, step))
            print(f"{NAMES[victim]:20} {step:14} {rows[-1].attempts:24} {rows[-1].seconds:6.1f} s", flush=True)
    if options.write:
        options.write.write_text(page(rows))


if __name__ == "__main__":
    parts: dict[str, Callable[[], object]] = {
        "command": lambda: command(Path(sys.argv[2])),
        "attempt": lambda: attempt(sys.argv[2:]),
        "dispatcher": lambda: dispatcher(Path(sys.argv[2]), sys.argv[3]),
    }
    sys.exit(parts[sys.argv[1]]() if sys.argv[1:2] and sys.argv[1] in parts else main())  # type: ignore[arg-type]
