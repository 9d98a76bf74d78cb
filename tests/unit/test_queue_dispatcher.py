"""The dispatcher over a cluster in memory, with clocks that the tests turn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from queue_conformance import sqlite_url
from sqlalchemy import Connection

from distseg.errors import ClusterError, FencedError, StoreError
from distseg.home import Home
from distseg.queue.backend import MemoryBackend, Report, Status
from distseg.queue.client import Queue
from distseg.queue.database import Database, store_url
from distseg.queue.dispatcher import Dispatcher
from distseg.queue.lease import Lease
from distseg.queue.models import Job, JobSpec, Node, Policy
from distseg.queue.retry import Outcome
from distseg.queue.states import AttemptState, JobState


class Clocks(Database):
    """A store whose clock is turned by hand."""

    wall = 1e9

    def now(self, connection: Connection) -> float:
        return self.wall


class World:
    """A queue, a cluster in memory, dispatchers, and the processes that the cluster runs."""

    def __init__(self, home: Home, url: str, nodes: tuple[Node, ...] = (Node("a", 4, 2),)) -> None:
        self.home = home
        self.database = Clocks(store_url(home, url))
        self.queue = Queue(self.database, home)
        self.backend = MemoryBackend(nodes)
        self.monotonic = 0.0
        self.told: list[str] = []
        self.dispatcher = self.new_dispatcher("first")

    def new_dispatcher(self, name: str, **options: Any) -> Dispatcher:
        return Dispatcher(
            self.database,
            self.backend,
            self.home,
            name,
            tell=self.told.append,
            clock=lambda: self.monotonic,
            **options,
        )

    def submit(self, name: str = "job", **options: Any) -> Job:
        return self.queue.submit(JobSpec(("true",), name=name, owner="ada", **options))

    def step(self, dispatcher: Dispatcher | None = None, times: int = 1, seconds: float = 2.5) -> None:
        """Lets time pass, then a dispatcher work; enough time by default for it to ask the cluster again."""
        for _ in range(times):
            self.pass_time(seconds)
            (dispatcher or self.dispatcher).step()

    def pass_time(self, seconds: float) -> None:
        self.monotonic += seconds
        self.database.wall += seconds

    def begin(self, submission_id: str) -> Lease:
        """The cluster starts an attempt's process, which takes its lease; FencedError when it may not."""
        job_id, _, number = submission_id.rpartition("-")
        self.backend.known[submission_id] = Report(Status.RUNNING)
        lease = Lease(self.database, job_id, int(number))
        lease.start("a")
        return lease

    def run(self, name: str = "job", **options: Any) -> tuple[Job, Lease]:
        job = self.submit(name, **options)
        self.step()
        return job, self.begin(f"{job.id}-{self.queue.job(job.id).attempt}")

    def state(self, job: Job) -> JobState:
        return self.queue.job(job.id).state

    def ends(self, job: Job) -> list[str]:
        return [attempt.state.value for attempt in self.queue.attempts(job.id)]


@pytest.fixture
def world(home: Home, tmp_path: Path) -> Iterator[World]:
    world = World(home, sqlite_url(tmp_path))
    yield world
    world.database.close()


def test_a_job_is_submitted_with_all_it_needs(world: World, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print(1)")
    job = world.submit(gpus=1, cpus=2, working_dir=str(tmp_path / "code"))
    world.step()
    (submission,) = world.backend.submissions.values()
    assert submission.id == f"{job.id}-1"
    assert submission.command == ("python", "-m", "distseg.queue.attempt", job.id, "1")
    assert submission.environment == {"DISTSEG_HOME": str(world.home.root)}
    assert submission.working_dir == job.working_dir
    assert (submission.cpus, submission.gpus) == (0, 0)  # its workers ask for theirs
    assert world.ends(job) == ["LAUNCHED"]
    alone = world.submit(gpus=1, cpus=2, alone=True)
    world.step()
    submission = world.backend.submissions[f"{alone.id}-1"]
    assert (submission.cpus, submission.gpus) == (2, 1)


def test_a_freed_gpu_is_used_at_the_next_look(world: World) -> None:
    first, lease = world.run("first", gpus=2)
    second = world.submit("second", gpus=2)
    world.step()
    assert world.state(second) is JobState.QUEUED
    lease.finish(Outcome(AttemptState.SUCCEEDED, "exit code 0", 0))
    world.step(seconds=0.25)  # long before it is time to look at everything again
    assert (world.state(first), world.state(second)) == (JobState.SUCCEEDED, JobState.STARTING)


def test_an_idle_dispatcher_hears_of_a_new_job(world: World) -> None:
    world.step(times=3)
    job = world.submit()
    world.step(seconds=0.25)
    assert world.state(job) is JobState.STARTING


def test_a_second_dispatcher_stands_by_and_takes_over(world: World) -> None:
    second = world.new_dispatcher("second")
    job = world.submit()
    world.step()
    world.step(second, times=2)
    assert (world.dispatcher.leader is not None, second.leader) == (True, None)
    world.step(second, times=5)  # the first is heard of no more
    assert second.leader is not None
    assert list(world.backend.submissions) == [f"{job.id}-1"]


def test_a_dispatcher_that_slept_changes_nothing_and_stands_by(world: World) -> None:
    world.step()
    leader = world.dispatcher.leader
    second = world.new_dispatcher("second")
    world.step(second, times=5)
    job = world.submit()
    assert leader is not None
    with pytest.raises(FencedError):
        world.dispatcher.ledger.claim(leader, [(job.id, ())])
    world.dispatcher.step()
    assert world.dispatcher.leader is None
    assert any("first: no longer leads" in line for line in world.told)
    world.step(second)
    assert world.state(job) is JobState.STARTING


def test_one_killed_between_claim_and_submission_is_followed_up(world: World, monkeypatch: Any) -> None:
    world.step()
    job = world.submit()
    with monkeypatch.context() as patch:
        patch.setattr(world.backend, "submit", lambda submission: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.step()
    assert world.ends(job) == ["CLAIMED"]
    world.step(world.new_dispatcher("second"), times=6)
    assert world.ends(job) == ["LAUNCHED"]
    assert list(world.backend.submissions) == [f"{job.id}-1"]


def test_one_killed_between_submission_and_the_note_of_it_is_followed_up(world: World, monkeypatch: Any) -> None:
    world.step()
    job = world.submit()
    with monkeypatch.context() as patch:
        patch.setattr(world.dispatcher.ledger, "launched", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            world.step()
    assert world.ends(job) == ["CLAIMED"]
    world.begin(f"{job.id}-1")
    world.step(world.new_dispatcher("second"), times=6)
    assert world.ends(job) == ["RUNNING"]
    assert list(world.backend.submissions) == [f"{job.id}-1"]


def test_a_cluster_that_does_not_answer_admits_nothing_and_loses_nothing(world: World) -> None:
    running, lease = world.run("running")
    world.backend.answers = False
    waiting = world.submit("waiting")
    for _ in range(40):
        world.step()
        lease.renew()
    assert (world.state(running), world.state(waiting)) == (JobState.RUNNING, JobState.QUEUED)
    assert world.told.count("cluster in memory: does not answer") == 1
    world.backend.answers = True
    world.step()
    assert world.state(waiting) is JobState.STARTING
    assert "all is well again" in world.told


def test_one_that_falls_silent_during_submission_is_submitted_later(world: World) -> None:
    world.run("another")
    job = world.submit()
    world.backend.answers = False
    world.dispatcher.step()  # it was asked for its nodes a moment ago
    assert world.ends(job) == ["CLAIMED"]
    world.backend.answers = True
    world.step()
    assert world.ends(job) == ["LAUNCHED"]


def test_an_attempt_unknown_to_a_new_cluster_is_told_to_stop_then_lost(world: World) -> None:
    job, lease = world.run()
    del world.backend.known[f"{job.id}-1"]  # the head came back without its list
    world.step()
    assert lease.wanted() == (None, None)  # asked once more
    world.step()
    assert lease.wanted() == (AttemptState.LOST, "the cluster does not know it")
    world.step(times=24)  # 60 s: the lease is over, the grace is not
    assert world.state(job) is JobState.RUNNING
    world.step(times=5)
    assert world.ends(job)[0] == "LOST"
    with pytest.raises(FencedError):
        lease.finish(Outcome(AttemptState.SUCCEEDED, "late", 0))
    world.step(times=3)
    assert world.ends(job) == ["LOST", "LAUNCHED"]


def test_an_attempt_whose_process_has_ended_without_a_word_is_lost_after_its_lease(world: World) -> None:
    job, _ = world.run()
    world.backend.known[f"{job.id}-1"] = Report(Status.ENDED, "killed")
    world.step(times=24)
    assert world.state(job) is JobState.RUNNING
    world.step(times=5)
    assert world.queue.attempts(job.id)[0].reason == (
        "its process has ended: killed; its lease was not renewed for 70 s"
    )
    assert world.backend.stopped == [f"{job.id}-1"]


def test_an_attempt_that_renews_its_lease_is_left_alone(world: World) -> None:
    job, lease = world.run()
    for _ in range(60):
        world.step()
        lease.renew()
    assert world.ends(job) == ["RUNNING"]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_loses_nothing(world: World, jump: float) -> None:
    job, lease = world.run()
    world.step()
    world.database.wall += jump
    for _ in range(10):
        world.step()
        lease.renew()
    assert world.ends(job) == ["RUNNING"]
    assert world.dispatcher.leader is not None


def test_an_attempt_is_lost_even_if_the_clock_was_set_back(world: World) -> None:
    job, _ = world.run()
    world.step()
    world.database.wall -= 3600
    world.step(times=29)
    assert world.ends(job)[0] == "LOST"


def test_an_attempt_that_never_begins_is_lost_in_time(world: World) -> None:
    job = world.submit()
    world.step()
    world.pass_time(840)
    world.step(times=2)
    assert world.ends(job)[0] == "LOST"
    with pytest.raises(FencedError):
        world.begin(f"{job.id}-1")


def test_an_attempt_that_can_never_begin_fails_after_a_few_tries(world: World) -> None:
    job = world.submit()
    for number in range(1, 5):
        world.step(times=12)
        world.backend.known[f"{job.id}-{number}"] = Report(Status.ENDED, "no such environment")
        world.step()
    assert world.ends(job) == ["LOST", "LOST", "LOST", "FAILED"]
    found = world.queue.job(job.id)
    assert (found.state, found.reason) == (
        JobState.FAILED,
        "could not be started: its process has ended: no such environment",
    )


def test_a_launched_attempt_that_the_cluster_forgot_is_lost(world: World) -> None:
    job = world.submit()
    world.step()
    world.backend.known.clear()
    world.step(times=5)
    assert world.ends(job) == ["LOST", "LAUNCHED"]


def test_preemption(world: World) -> None:
    dispatcher = world.new_dispatcher("preempting", policy=Policy(preempt=True))
    low = world.submit("low", gpus=2)
    world.step(dispatcher)
    lease = world.begin(f"{low.id}-1")
    high = world.submit("high", gpus=1, priority=5)
    world.step(dispatcher)
    reason = f"made room for high ({high.id}) of priority 5"
    assert lease.wanted() == (AttemptState.PREEMPTED, reason)
    world.step(dispatcher)
    assert world.state(high) is JobState.QUEUED
    lease.finish(Outcome(AttemptState.PREEMPTED, reason, -15))
    world.step(dispatcher)
    assert (world.state(high), world.state(low)) == (JobState.STARTING, JobState.QUEUED)
    world.begin(f"{high.id}-1").finish(Outcome(AttemptState.SUCCEEDED, "exit code 0", 0))
    world.step(dispatcher)
    world.begin(f"{low.id}-2")
    assert world.queue.job(low.id).failures == 0
    (event,) = [event for event in world.queue.events(low.id) if event.kind == "RUNNING" and event.attempt == 2]
    assert event.text == "on a, 7.5 s after attempt 1 was to end"  # the time that it cost


def test_a_zip_that_has_gone_fails_the_job(world: World, monkeypatch: Any) -> None:
    def refuse(submission: object) -> None:
        raise ClusterError("x.zip: the zipped folder is gone")

    job = world.submit()
    monkeypatch.setattr(world.backend, "submit", refuse)
    world.step()
    assert world.queue.job(job.id).reason == "could not be started: x.zip: the zipped folder is gone"


def test_a_store_that_fails_for_a_while_is_asked_again(world: World) -> None:
    world.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.dispatcher.ledger, "hold", _locked)
        world.step(seconds=3.5)
    job = world.submit()
    world.step()
    assert world.state(job) is JobState.STARTING
    assert any("database is locked" in line for line in world.told)


def _locked(leader: object) -> None:
    raise StoreError("queue x: database is locked")


def test_resigning_lets_another_lead_at_once(world: World) -> None:
    world.step()
    world.dispatcher.resign()
    second = world.new_dispatcher("second")
    second.step()
    assert second.leader is not None
