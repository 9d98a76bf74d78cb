"""``python -m distseg.queue.attempt JOB ATTEMPT``: runs a job's command while the store allows it.

It takes the attempt's lease (once, or not at all), runs the command in a process group of its own, renews the lease,
passes on the wish to stop, and records the end. It kills the group when the lease cannot be renewed: then another
attempt may begin. Of the store's address nothing stands in its arguments; it is found in the home.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from distseg.errors import DistsegError, FencedError, StoreError
from distseg.home import Home
from distseg.queue.client import log_path
from distseg.queue.database import Database, store_url
from distseg.queue.guard import Guard
from distseg.queue.lease import Lease
from distseg.queue.models import Attempt, Job
from distseg.queue.retry import Outcome
from distseg.queue.states import AttemptState

STORE_S = 2.0
"""How long one call to the store may take: the lease runs meanwhile."""
POLL_S = 1.0
"""How soon a wish to stop is seen."""
PATIENCE_S = 600.0
"""How long a store that does not answer is tried again, before the command starts and after it has ended."""
RENEWALS_PER_LEASE = 6
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 8192
_OUT_OF_MEMORY = re.compile(rb"out of memory|OutOfMemory|MemoryError|can't allocate memory|bad_alloc", re.IGNORECASE)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Stop:
    """Why the command was told to end, and when it will be killed."""

    end: AttemptState
    reason: str
    kill_at: float


class Runner:
    """Runs one attempt; ``guard`` must have been made first, and the signals of this module be blocked."""

    def __init__(self, lease: Lease, home: Home, guard: Guard) -> None:
        self.lease = lease
        self.home = home
        self.guard = guard
        self.stop: _Stop | None = None

    def run(self) -> int:
        """The command's exit code, 128 + N after signal N; FencedError when the attempt's turn is over."""
        asked = time.monotonic()
        job, attempt = _patiently(lambda: self.lease.start(socket.gethostname()))
        killed_before = _kernel_kills()
        log = log_path(self.home, job.id, attempt.number)
        try:
            process = self._start(job, attempt, log)
        except OSError as error:
            code = 126 if isinstance(error, PermissionError) else 127
            reason = f"{job.command[0]}: {error.strerror or error}"
            _patiently(lambda: self.lease.finish(Outcome(AttemptState.FAILED, reason, code)))
            return code
        code = self._watch(process, job, attempt, asked)
        outcome = self._outcome(code, log, killed_before)
        state = _patiently(lambda: self.lease.finish(outcome))
        print(f"{attempt.submission_id}: {outcome.end}, {outcome.reason}; the job is {state}", flush=True)
        return code if code >= 0 else 128 - code

    def _start(self, job: Job, attempt: Attempt, log: Path) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name != "DISTSEG_QUEUE_URL"}
        environment |= {
            "DISTSEG_HOME": str(self.home.root),
            "DISTSEG_JOB_ID": job.id,
            "DISTSEG_JOB_ATTEMPT": str(attempt.number),
            "DISTSEG_LEASE_GPUS": f"{job.gpus:g}",
            "DISTSEG_LEASE_CPUS": f"{job.cpus:g}",
            # `distseg` and `python` are those of the environment that this module is from
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
        }
        program = job.command[0]
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"{attempt.submission_id}: output in {log}", flush=True)
        with open(log, "ab") as output:
            return subprocess.Popen(
                job.command,
                executable=_found(program, environment["PATH"]),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_in_command(),
            )

    def _watch(self, process: "subprocess.Popen[bytes]", job: Job, attempt: Attempt, asked: float) -> int:
        """Waits for the command's end, or brings it about; its exit code."""
        begun = renewed = time.monotonic()
        deadline = asked + attempt.lease_s
        every = attempt.lease_s / RENEWALS_PER_LEASE
        self.guard.watch(process.pid, deadline)
        while not _has_ended(process.pid):
            received = signal.sigtimedwait(_SIGNALS, min(POLL_S, every))
            now = time.monotonic()
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._ask(process.pid, AttemptState.LOST, "stopped from outside by a signal", attempt.grace_s)
            if job.timeout_s is not None and now - begun >= job.timeout_s:
                self._ask(process.pid, AttemptState.TIMED_OUT, f"ran for {job.timeout_s:g} s", attempt.grace_s)
            try:
                if now - renewed >= every:
                    end, reason = self.lease.renew()
                    renewed, deadline = now, now + attempt.lease_s
                    self.guard.watch(process.pid, deadline)
                else:
                    end, reason = self.lease.wanted()
                if end is not None:
                    self._ask(process.pid, end, reason or "", attempt.grace_s)
            except FencedError as error:
                self._ask(process.pid, AttemptState.LOST, str(error), 0.0)
            except StoreError as error:
                # one more call may stand still for STORE_S; at the deadline the guard would kill this process too
                if deadline - time.monotonic() <= attempt.grace_s + STORE_S + every:
                    self._ask(process.pid, AttemptState.LOST, f"no lease: {error}", attempt.grace_s)
            if self.stop is not None and time.monotonic() >= self.stop.kill_at:
                _signal(process.pid, signal.SIGKILL)
        _signal(process.pid, signal.SIGKILL)  # what the command left behind; the group's number is still its own
        code = process.wait()
        self.guard.release()
        return code

    def _ask(self, group: int, end: AttemptState, reason: str, grace_s: float) -> None:
        """Tells the command to end, the first time; afterwards only less time may be left to it."""
        kill_at = time.monotonic() + grace_s
        if self.stop is None:
            self.stop = _Stop(end, reason, kill_at)
            _signal(group, signal.SIGTERM)
        elif kill_at < self.stop.kill_at:
            self.stop = _Stop(self.stop.end, self.stop.reason, kill_at)

    def _outcome(self, code: int, log: Path, killed_before: int) -> Outcome:
        if self.stop is not None:  # a program that saves its work and leaves with 0 has not finished it
            return Outcome(self.stop.end, self.stop.reason, code)
        if code == 0:
            return Outcome(AttemptState.SUCCEEDED, "exit code 0", 0)
        reason = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        kernel = code in (-signal.SIGKILL, 128 + signal.SIGKILL) and _kernel_kills() > killed_before
        return Outcome(AttemptState.FAILED, reason, code, kernel or bool(_OUT_OF_MEMORY.search(_tail(log))))


def _patiently(call: Callable[[], _Result]) -> _Result:
    """What ``call`` returns once the store answers."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except StoreError as error:
            if time.monotonic() > give_up:
                raise
            print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(POLL_S)


def _in_command() -> Callable[[], None]:
    """Runs in the command's process before the command: signals as usual, and SIGKILL when its parent dies."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux only; elsewhere the guard alone does it

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


def _found(program: str, path: str) -> str:
    """The file to run; the PATH of the command counts, not that of this process."""
    import shutil

    return shutil.which(program, path=path) or program


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; its number stays taken until somebody waits for it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _kernel_kills() -> int:
    """How often this machine's kernel has killed a process for memory; 0 where it does not tell."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _tail(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return file.read()


def main(words: list[str]) -> int:
    """Runs the attempt that two words name; the exit code."""
    if len(words) != 2 or not words[1].isdecimal():
        print("usage: python -m distseg.queue.attempt JOB ATTEMPT", file=sys.stderr)
        return 2
    guard = Guard()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        home = Home.from_environment()
        url = store_url(home, os.environ.get("DISTSEG_QUEUE_URL"))
        if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
            raise StoreError(f"{url.database}: no store here; want DISTSEG_HOME on a folder that all nodes see")
        database = _patiently(lambda: Database(url, STORE_S))
        return Runner(Lease(database, words[0], int(words[1])), home, guard).run()
    except DistsegError as error:
        print(f"attempt: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
