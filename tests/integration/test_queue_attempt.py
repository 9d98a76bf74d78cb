"""``python -m distseg.queue.attempt`` as a process: what it gives its command, records, kills, and refuses."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_conformance import LOST, Stage, sqlite_url

from distseg.home import Home
from distseg.queue.models import Attempt, Job, JobSpec, Timing
from distseg.queue.states import AttemptState, JobState

TIMING = Timing(lease_s=6.0, grace_s=1.5)


class Bench(Stage):
    """Starts attempts as processes of their own, as a cluster would."""

    def __init__(self, home: Home, url: str) -> None:
        super().__init__(home, url)
        self.ledger.timing = TIMING
        self.processes: list[subprocess.Popen[str]] = []

    def launch(self, *command: str, **options: Any) -> tuple[Job, "subprocess.Popen[str]"]:
        job = self.queue.submit(JobSpec(command, owner="ada", name="job", **options))
        (attempt,) = self.claim(job)
        return job, self.start_process(job.id, attempt.number)

    def start_process(self, job_id: str, number: int) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "distseg.queue.attempt", job_id, str(number)],
            env=os.environ | {"DISTSEG_HOME": str(self.queue.home.root), "DISTSEG_QUEUE_URL": self.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def finish(self, process: "subprocess.Popen[str]") -> str:
        out, _ = process.communicate(timeout=60)
        return out

    def output(self, job: Job) -> str:
        return "".join(path.read_text() for path in self.queue.log_paths(job.id))

    def last(self, job: Job) -> Attempt:
        return self.queue.attempts(job.id)[-1]


@pytest.fixture
def bench(home: Home, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(home, sqlite_url(tmp_path))
    yield bench
    for process in bench.processes:
        process.kill()
        process.communicate()
    bench.database.close()


def until(happened: Callable[[], Any], timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (result := happened()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return result


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def group_of(bench: Bench, job: Job) -> list[int]:
    """The two processes of a command that prints its own number and that of a child."""
    return [int(word) for word in until(lambda: bench.output(job).count("\n") >= 2 and bench.output(job)).split()[:2]]


FAMILY = "sleep 300 & echo $$; echo $!; wait"
STUBBORN = "trap '' TERM; sleep 300 & echo $$; echo $!; wait; wait; sleep 300"


def test_a_command_is_run_with_its_lease_and_its_end_recorded(bench: Bench) -> None:
    script = "echo $DISTSEG_JOB_ID $DISTSEG_JOB_ATTEMPT $DISTSEG_LEASE_GPUS $DISTSEG_LEASE_CPUS; env"
    job, process = bench.launch("sh", "-c", script, gpus=0.5, cpus=3)
    bench.finish(process)
    assert process.returncode == 0
    assert f"{job.id} 1 0.5 3\n" in bench.output(job)
    assert "DISTSEG_QUEUE_URL" not in bench.output(job)
    assert bench.url not in bench.output(job)
    assert bench.state(job) is JobState.SUCCEEDED


def test_arguments_arrive_as_they_are(bench: Bench) -> None:
    words = ["a b", "$HOME", "'; rm -rf x; '", "*", ""]
    job, process = bench.launch(sys.executable, "-c", "import sys; print(sys.argv[1:])", *words)
    bench.finish(process)
    assert bench.output(job) == f"{words}\n"


@pytest.mark.parametrize(
    ("command", "code", "state", "reason"),
    [
        (("sh", "-c", "exit 3"), 3, "QUEUED", "exit code 3; retry 1 of 1"),
        (("sh", "-c", "exit 2"), 2, "FAILED", "exit code 2: bad input; not retried"),
        (("sh", "-c", "kill -SEGV $$"), 139, "QUEUED", "killed by SIGSEGV; retry 1 of 1"),
        (
            ("no-such-program",),
            127,
            "FAILED",
            "no-such-program: .*: no such program; not retried",
        ),
        (
            ("/etc/passwd",),
            126,
            "FAILED",
            "/etc/passwd: .*: the program cannot be executed; not retried",
        ),
        (
            ("sh", "-c", "echo 'torch.OutOfMemoryError: CUDA out of memory.'; exit 1"),
            1,
            "FAILED",
            "exit code 1: out of memory; not retried",
        ),
    ],
)
def test_failures(bench: Bench, command: tuple[str, ...], code: int, state: str, reason: str) -> None:
    job, process = bench.launch(*command, retries=1)
    bench.finish(process)
    found = bench.queue.job(job.id)
    assert (process.returncode, found.state) == (code, state)
    assert re.fullmatch(reason, str(found.reason))


def test_what_a_command_leaves_behind_is_killed(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", "sleep 300 & echo $$; echo $!")
    bench.finish(process)
    left = group_of(bench, job)[1]
    until(lambda: not alive(left))
    assert bench.state(job) is JobState.SUCCEEDED


def test_cancel_stops_the_whole_group(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", FAMILY)
    group = group_of(bench, job)
    bench.queue.cancel(job.id)
    bench.finish(process)
    assert not any(map(alive, group))
    assert bench.state(job) is JobState.CANCELLED


def test_a_command_may_save_its_work_before_it_stops(bench: Bench) -> None:
    script = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo ready; while true; do sleep 0.1; done"
    job, process = bench.launch("sh", "-c", script)
    until(lambda: "ready" in bench.output(job))
    bench.ledger.stop(bench.leader, bench.last(job), AttemptState.PREEMPTED, "made room for another")
    bench.finish(process)
    assert "saved" in bench.output(job)
    assert (bench.state(job), bench.last(job).state) == (JobState.QUEUED, AttemptState.PREEMPTED)  # not: succeeded


def test_a_command_that_does_not_stop_is_killed_after_the_grace(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", STUBBORN, timeout_s=0.5)
    group = group_of(bench, job)
    bench.finish(process)
    assert not any(map(alive, group))
    last = bench.last(job)
    assert (last.state, last.exit_code, last.reason) == (AttemptState.TIMED_OUT, -9, "ran for 0.5 s")
    assert last.finished_at is not None
    assert last.running_at is not None
    assert last.finished_at - last.running_at >= 0.5 + TIMING.grace_s


def test_a_signal_from_outside_is_passed_on_and_not_charged(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", FAMILY)
    group = group_of(bench, job)
    process.send_signal(signal.SIGTERM)
    bench.finish(process)
    assert not any(map(alive, group))
    found = bench.queue.job(job.id)
    assert (found.state, found.failures, bench.last(job).state) == (JobState.QUEUED, 0, AttemptState.LOST)


def test_a_killed_attempt_takes_its_group_along(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", STUBBORN)
    group = group_of(bench, job)
    process.kill()
    until(lambda: not any(map(alive, group)))
    assert bench.state(job) is JobState.RUNNING  # until its lease has ended


def test_one_that_stands_still_past_its_lease_is_killed_with_its_group(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", STUBBORN)
    group = group_of(bench, job)
    stopped = time.monotonic()
    process.send_signal(signal.SIGSTOP)
    until(lambda: not any(map(alive, group)))
    assert time.monotonic() - stopped <= TIMING.lease_s + 1  # before anybody may begin another attempt
    assert process.wait(timeout=30) == -signal.SIGKILL


def test_one_that_was_given_up_stops_and_changes_nothing(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", STUBBORN)
    group = group_of(bench, job)
    until(lambda: bench.ledger.give_up(bench.leader, bench.last(job), LOST))
    out = bench.finish(process)
    assert not any(map(alive, group))
    assert process.returncode == 1
    assert "attempt 1 is not live (the job is QUEUED, attempt 1)" in out
    assert bench.last(job).reason == "its lease ended"


def test_a_stale_or_foreign_attempt_runs_nothing(bench: Bench, tmp_path: Path) -> None:
    marker, go = tmp_path / "ran", tmp_path / "go"
    job, process = bench.launch("sh", "-c", f"echo once >> {marker}; while [ ! -e {go} ]; do sleep 0.1; done")
    until(marker.exists)
    second = bench.start_process(job.id, 1)
    assert "was started before" in bench.finish(second)
    assert "of no job in this store" in bench.finish(bench.start_process("j00000000", 1))
    go.touch()
    bench.finish(process)
    assert "not live" in bench.finish(bench.start_process(job.id, 1))
    assert marker.read_text() == "once\n"
    assert bench.finish(bench.start_process(job.id, -1)).startswith("usage: ")


def test_a_home_that_this_node_does_not_see_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distseg.queue.attempt", "j12345678", "1"],
        env=os.environ | {"DISTSEG_HOME": str(tmp_path / "elsewhere")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "queue.sqlite: no store here; want DISTSEG_HOME on a folder that all nodes see\n" in done.stderr


def test_a_store_out_of_reach_is_waited_for_then_the_command_is_stopped(bench: Bench) -> None:
    job, process = bench.launch("sh", "-c", FAMILY)
    group = group_of(bench, job)
    with bench.database.writing() as connection:
        connection.exec_driver_sql("UPDATE cluster SET preempt = 0")  # and so holds the lock
        until(lambda: not any(map(alive, group)))
    bench.finish(process)
    last = bench.last(job)
    assert (bench.state(job), last.state, last.exit_code) == (JobState.QUEUED, AttemptState.LOST, -15)
    assert "database is locked" in str(last.reason)
