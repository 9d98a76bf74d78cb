"""Random histories of users, dispatchers, clusters, processes and clocks against what the queue promises.

A process of the model does what ``distseg.queue.attempt`` and its guard do: it runs its command only once the store has
accepted its start, renews its lease unless it stands still, and is dead when its lease has ended on its own clock.
"""

import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from queue_conformance import sqlite_url
from test_queue_dispatcher import World

from distseg.errors import FencedError, QueueError
from distseg.home import Home
from distseg.queue import rows
from distseg.queue.backend import Report, Status
from distseg.queue.dispatcher import Dispatcher
from distseg.queue.lease import Lease
from distseg.queue.models import Job, Node, Policy, Timing
from distseg.queue.retry import Outcome
from distseg.queue.states import ACTIVE, AttemptState, JobState

LEASE_S = Timing().lease_s
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
NODES = (Node("a", 4, 2), Node("b", 2, 1))
ENDS = [("SUCCEEDED", 0), ("FAILED", 1), ("FAILED", 2)]


@dataclass
class Process:
    """One that runs a command."""

    lease: Lease
    until: float
    """On the clock that nobody sets: then its guard kills it."""
    frozen: bool = False


class Histories(RuleBasedStateMachine):
    @initialize(preempt=st.booleans(), cap=st.sampled_from([None, None, 2]))
    def begin(self, preempt: bool, cap: int | None) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)  # nobody pulls the plug of this test
        self.world = World(Home(Path(self.folder.name)), sqlite_url(Path(self.folder.name)), NODES)
        self.options: dict[str, Any] = {"policy": Policy(cap, preempt)}
        self.dispatchers: list[Dispatcher] = [self.world.new_dispatcher(name, **self.options) for name in "AB"]
        self.processes: dict[str, Process] = {}
        self.started: Counter[str] = Counter()
        self.submitted = 0

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.database.close()
            self.folder.cleanup()

    # users

    @rule(
        gpus=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]),
        cpus=st.sampled_from([1.0, 2.0]),
        priority=st.integers(0, 2),
        timeout=st.sampled_from([None, 50.0, 500.0]),
        retries=st.integers(0, 1),
        follow=st.booleans(),
    )
    def submit(
        self, gpus: float, cpus: float, priority: int, timeout: float | None, retries: int, follow: bool
    ) -> None:
        waiting = [job.id for job in self.world.queue.jobs() if not job.state.over]
        after = tuple(waiting[-1:]) if follow else ()
        self.submitted += 1
        self.world.submit(gpus=gpus, cpus=cpus, priority=priority, timeout_s=timeout, retries=retries, after=after)

    @precondition(lambda self: self.submitted > 0)
    @rule(which=st.integers(0, 100), what=st.sampled_from(["cancel", "pause", "unpause", "retry", "priority"]))
    def change(self, which: int, what: str) -> None:
        jobs = self.world.queue.jobs()
        job = jobs[which % len(jobs)]
        queue = self.world.queue
        try:
            if what == "priority":
                queue.set_priority(job.id, which % 4)
            else:
                getattr(queue, what)(job.id)
        except QueueError:
            pass  # its state does not allow that, which the store has checked

    # dispatchers

    @rule(which=st.integers(0, 1), times=st.integers(1, 3))
    def work(self, which: int, times: int) -> None:
        for _ in range(times):
            self._advance(1.0)
            self.dispatchers[which].step()

    @rule(which=st.integers(0, 1))
    def kill_dispatcher(self, which: int) -> None:
        self.dispatchers[which] = self.world.new_dispatcher("AB"[which], **self.options)

    @rule(which=st.integers(0, 1), where=st.sampled_from(["submit", "launched"]))
    def kill_dispatcher_half_way(self, which: int, where: str) -> None:
        dispatcher = self.dispatchers[which]
        target: Any = self.world.backend if where == "submit" else dispatcher.ledger

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        original = getattr(target, where)
        setattr(target, where, die)
        try:
            dispatcher.step()
        except KeyboardInterrupt:
            pass
        finally:
            setattr(target, where, original)
        self.kill_dispatcher(which)

    # the cluster

    @rule()
    def cluster_starts_processes(self) -> None:
        for name, report in list(self.world.backend.known.items()):
            if report.status is Status.PENDING:
                self._start(name)

    @rule(which=st.integers(0, 100))
    def stale_submission_starts_again(self, which: int) -> None:
        names = list(self.world.backend.submissions)
        if names:
            self._start(names[which % len(names)])

    @rule()
    def head_dies(self) -> None:
        """It forgets everything; processes live on as orphans."""
        self.world.backend.known.clear()

    @rule(answers=st.booleans())
    def cluster_answers(self, answers: bool) -> None:
        self.world.backend.answers = answers

    # processes

    @precondition(lambda self: self.processes)
    @rule(which=st.integers(0, 100), end=st.sampled_from(ENDS))
    def command_ends(self, which: int, end: tuple[str, int]) -> None:
        name, process = self._process(which)
        if not process.frozen:
            self._finish(name, Outcome(AttemptState(end[0]), f"exit code {end[1]}", end[1]))

    @precondition(lambda self: self.processes)
    @rule(which=st.integers(0, 100))
    def process_dies(self, which: int) -> None:
        name, _ = self._process(which)
        self._gone(name)

    @precondition(lambda self: self.processes)
    @rule(which=st.integers(0, 100))
    def process_freezes_or_thaws(self, which: int) -> None:
        _, process = self._process(which)
        process.frozen = not process.frozen

    # time

    @rule(seconds=st.sampled_from([3.0, 12.0, 61.0, 75.0, 900.0]))
    def time_passes(self, seconds: float) -> None:
        self._advance(seconds)

    @rule(seconds=st.sampled_from([-100_000.0, -20.0, 20.0, 100_000.0]))
    def clock_jumps(self, seconds: float) -> None:
        self.world.database.wall += seconds

    # promises

    @invariant()
    def never_two_at_once(self) -> None:
        if hasattr(self, "processes"):
            running = Counter(name.rpartition("-")[0] for name in self.processes)
            assert all(count == 1 for count in running.values()), running

    @invariant()
    def an_attempt_starts_at_most_once(self) -> None:
        if hasattr(self, "started"):
            assert all(count == 1 for count in self.started.values()), self.started

    @invariant()
    def nothing_is_oversubscribed(self) -> None:
        if not hasattr(self, "world"):
            return
        live = [attempt for _, attempt in self.world.dispatcher.ledger.snapshot().live]
        shares = [share for attempt in live for share in attempt.placement]
        for node in NODES:
            here = [share for share in shares if share.node == node.name]
            assert sum(share.cpus for share in here) <= node.cpus + 1e-6
            for index in range(node.gpus):
                assert sum(part for share in here for i, part in share.gpus if i == index) <= 1 + 1e-6
        names = {attempt.submission_id for attempt in live}
        assert self.processes.keys() <= names, "a command runs without resources set aside for it"

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "world"):
            return
        jobs = self.world.queue.jobs()
        assert len(jobs) == self.submitted
        with self.world.database.reading() as connection:
            attempts = rows.attempts(connection, "TRUE")
        live = Counter(attempt.job_id for attempt in attempts if attempt.state.live)
        for job in jobs:
            assert live[job.id] == (1 if job.state in ACTIVE else 0)
            numbers = sorted(attempt.number for attempt in attempts if attempt.job_id == job.id)
            assert numbers == list(range(1, job.attempt + 1))
            charged = [a for a in attempts if a.job_id == job.id and a.state is AttemptState.FAILED]
            assert job.failures <= len(charged)

    @rule()
    def all_is_well_in_the_end(self) -> None:
        """With a cluster that works and processes that end, every job that can run comes to an end."""
        self.world.backend.answers = True
        for process in self.processes.values():
            process.frozen = False
        for _ in range(400):
            left = [job for job in self.world.queue.jobs() if not job.state.over]
            if all(job.state is JobState.PAUSED or self._blocked(job, left) for job in left):
                return
            self._advance(3.0)
            self.dispatchers[0].step()
            self.cluster_starts_processes()
            for name in list(self.processes):
                self._finish(name, Outcome(AttemptState.SUCCEEDED, "exit code 0", 0))
            self.never_two_at_once()
            self.nothing_is_oversubscribed()
        raise AssertionError(f"not over: {[(job.id, job.state, job.reason) for job in left]}")

    def _blocked(self, job: Job, left: list[Job]) -> bool:
        """It comes after a paused job, directly or not."""
        return job.state is JobState.QUEUED and "Waits for the end of" in self.world.queue.explain(job.id)

    def _process(self, which: int) -> tuple[str, Process]:
        names = sorted(self.processes)
        name = names[which % len(names)]
        return name, self.processes[name]

    def _start(self, name: str) -> None:
        try:
            lease = self.world.begin(name)
        except FencedError:
            self.world.backend.known[name] = Report(Status.ENDED, "refused")
            return
        self.started[name] += 1
        self.processes[name] = Process(lease, self.world.monotonic + LEASE_S)

    def _finish(self, name: str, outcome: Outcome) -> None:
        process = self.processes[name]
        try:
            stop, reason = process.lease.wanted()
            if stop is not None:
                outcome = Outcome(stop, reason or "", -15)
            process.lease.finish(outcome)
        except FencedError:
            pass
        self._gone(name)

    def _gone(self, name: str) -> None:
        del self.processes[name]
        if name in self.world.backend.known:
            self.world.backend.known[name] = Report(Status.ENDED, "gone")

    def _advance(self, seconds: float) -> None:
        """Time in steps of a renewal; whoever cannot renew is killed in time."""
        while seconds > 0:
            step = min(seconds, 5.0) if self.processes else seconds
            seconds -= step
            self.world.pass_time(step)
            for name, process in list(self.processes.items()):
                if self.world.monotonic >= process.until:
                    self._gone(name)
                elif not process.frozen:
                    try:
                        stop, reason = process.lease.renew()
                        process.until = self.world.monotonic + LEASE_S
                        if stop is not None:
                            self._finish(name, Outcome(stop, reason or "", -15))
                    except FencedError:
                        self._gone(name)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
