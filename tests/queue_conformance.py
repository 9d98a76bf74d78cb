"""What every store of the queue must do: run against SQLite by the unit tests, against PostgreSQL by the others."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from distseg.errors import FencedError, QueueError, StoreError
from distseg.home import Home
from distseg.queue import rows
from distseg.queue.client import Queue
from distseg.queue.database import Database, store_url
from distseg.queue.leader import Ledger
from distseg.queue.lease import Lease
from distseg.queue.models import Attempt, Cluster, Job, JobSpec, Leader, Node, Policy, Share, Timing
from distseg.queue.retry import Outcome
from distseg.queue.schema import steps
from distseg.queue.states import AttemptState, JobState

HERE = (Share("here", 1.0),)
SUCCEEDED = Outcome(AttemptState.SUCCEEDED, "exit code 0", 0)
FAILED = Outcome(AttemptState.FAILED, "exit code 1", 1)
LOST = Outcome(AttemptState.LOST, "its lease ended")


def spec(name: str = "job", **options: Any) -> JobSpec:
    return JobSpec(("true",), name=name, owner="ada", **options)


class Stage:
    """A queue with a dispatcher's side, and short ways to bring a job where a test needs it."""

    def __init__(self, home: Home, url: str) -> None:
        self.url = url
        self.queue = Queue(Database(store_url(home, url)), home)
        self.database = self.queue.database
        self.ledger = Ledger(self.database, Timing())
        leader = self.ledger.lead("first")
        assert leader is not None
        self.leader: Leader = leader

    def submit(self, name: str = "job", **options: Any) -> Job:
        return self.queue.submit(spec(name, **options))

    def claim(self, *jobs: Job) -> list[Attempt]:
        return [attempt for _, attempt in self.ledger.claim(self.leader, [(job.id, HERE) for job in jobs])]

    def run(self, job: Job) -> Lease:
        """Claims and starts the next attempt of a job."""
        (attempt,) = self.claim(job)
        self.ledger.launched(self.leader, [attempt])
        lease = Lease(self.database, job.id, attempt.number)
        lease.start("here")
        return lease

    def state(self, job: Job) -> JobState:
        return self.queue.job(job.id).state

    def attempt(self, job: Job) -> Attempt:
        return self.queue.attempts(job.id)[-1]

    def waiting(self) -> list[str]:
        return [job.name for job in self.ledger.snapshot().waiting]

    def execute(self, statement: str, **values: object) -> Any:
        with self.database.writing() as connection:
            result = connection.execute(text(statement), values)
            return result.all() if result.returns_rows else None


class StoreConformance:
    """Subclass it with a fixture ``url`` that gives the address of an empty store."""

    @pytest.fixture
    def stage(self, home: Home, url: str) -> Any:
        stage = Stage(home, url)
        yield stage
        stage.database.close()

    def test_a_job_goes_through_its_life(self, stage: Stage) -> None:
        job = stage.submit(gpus=0.5, cpus=2, priority=3)
        assert (job.state, job.attempt, job.gpus, job.priority) == (JobState.QUEUED, 0, 0.5, 3)
        (attempt,) = stage.claim(job)
        assert (stage.state(job), attempt.state, attempt.number) == (JobState.STARTING, AttemptState.CLAIMED, 1)
        assert attempt.placement == HERE
        stage.ledger.launched(stage.leader, [attempt])
        assert stage.attempt(job).state is AttemptState.LAUNCHED
        lease = Lease(stage.database, job.id, 1)
        started, running = lease.start("node-7")
        assert (started.command, running.state, running.host) == (("true",), AttemptState.RUNNING, "node-7")
        assert stage.state(job) is JobState.RUNNING
        assert lease.renew() == (None, None)
        assert stage.attempt(job).renewals == 1
        assert lease.finish(SUCCEEDED) is JobState.SUCCEEDED
        done = stage.queue.job(job.id)
        assert done.finished_at is not None
        assert done.started_at is not None
        assert done.submitted_at <= done.started_at <= done.finished_at
        kinds = [(event.attempt, event.kind) for event in stage.queue.events(job.id)]
        assert kinds == [
            (None, "QUEUED"),
            (1, "CLAIMED"),
            (None, "STARTING"),
            (1, "LAUNCHED"),
            (1, "RUNNING"),
            (None, "RUNNING"),
            (1, "SUCCEEDED"),
            (None, "SUCCEEDED"),
        ]

    def test_the_line_is_priority_then_submission(self, stage: Stage) -> None:
        for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", -1), ("e", 5)):
            stage.submit(name, priority=priority)
        assert stage.waiting() == ["b", "e", "a", "c", "d"]
        stage.queue.set_priority("d", 9)
        assert stage.waiting() == ["d", "b", "e", "a", "c"]
        stage.run(stage.queue.job("c"))
        stage.queue.cancel("a")
        assert [job.name for job in stage.queue.jobs()] == ["c", "d", "b", "e", "a"]

    def test_a_job_is_claimed_once(self, stage: Stage) -> None:
        job, other = stage.submit("a"), stage.submit("b")
        assert len(stage.claim(job)) == 1
        assert [attempt.job_id for attempt in stage.claim(job, other)] == [other.id]

    def test_only_one_of_many_claims_wins(self, stage: Stage) -> None:
        jobs = [stage.submit(str(number)) for number in range(10)]
        won: list[str] = []

        def claim() -> None:
            ledger = Ledger(stage.database, Timing())
            for job in jobs:
                won.extend(attempt.job_id for _, attempt in ledger.claim(stage.leader, [(job.id, HERE)]))

        threads = [threading.Thread(target=claim) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == sorted(job.id for job in jobs)

    def test_a_stale_attempt_changes_nothing(self, stage: Stage) -> None:
        job = stage.submit()
        stale = stage.run(job)
        assert stage.ledger.give_up(stage.leader, stage.attempt(job), LOST)
        assert stage.state(job) is JobState.QUEUED
        for write in (stale.renew, stale.wanted, lambda: stale.start("x"), lambda: stale.finish(SUCCEEDED)):
            with pytest.raises(FencedError, match="attempt 1"):
                write()
        fresh = stage.run(job)
        for write in (stale.renew, stale.wanted, lambda: stale.finish(SUCCEEDED)):
            with pytest.raises(FencedError):
                write()
        assert stage.state(job) is JobState.RUNNING
        assert fresh.finish(SUCCEEDED) is JobState.SUCCEEDED
        with pytest.raises(FencedError):
            fresh.finish(FAILED)
        assert [attempt.state for attempt in stage.queue.attempts(job.id)] == ["LOST", "SUCCEEDED"]

    def test_an_attempt_starts_once(self, stage: Stage) -> None:
        job = stage.submit()
        stage.run(job)
        with pytest.raises(FencedError, match="started before, on here"):
            Lease(stage.database, job.id, 1).start("there")
        for job_id, number in ((job.id, 2), (job.id, 0), ("nobody", 1)):
            with pytest.raises(FencedError):
                Lease(stage.database, job_id, number).start("there")

    def test_a_process_may_be_quicker_than_the_note_of_its_launch(self, stage: Stage) -> None:
        job = stage.submit()
        (attempt,) = stage.claim(job)
        Lease(stage.database, job.id, 1).start("here")
        stage.ledger.launched(stage.leader, [attempt])
        assert stage.attempt(job).state is AttemptState.RUNNING

    def test_an_attempt_that_renewed_is_not_given_up(self, stage: Stage) -> None:
        job = stage.submit()
        lease = stage.run(job)
        seen = stage.attempt(job)
        lease.renew()
        assert not stage.ledger.give_up(stage.leader, seen, LOST)
        assert stage.ledger.give_up(stage.leader, stage.attempt(job), LOST)
        assert not stage.ledger.give_up(stage.leader, seen, LOST)  # it is over

    def test_an_attempt_that_started_is_not_given_up_as_one_that_did_not(self, stage: Stage) -> None:
        job = stage.submit()
        (seen,) = stage.claim(job)
        Lease(stage.database, job.id, 1).start("here")
        assert not stage.ledger.give_up(stage.leader, seen, FAILED)

    # leadership

    def test_one_dispatcher_leads(self, stage: Stage) -> None:
        assert stage.ledger.lead("second") is None
        stage.ledger.hold(stage.leader)
        stage.ledger.resign(stage.leader)
        second = stage.ledger.lead("second")
        assert second is not None
        assert second.epoch == stage.leader.epoch + 1

    def test_a_dispatcher_whose_lease_is_over_changes_nothing(self, stage: Stage) -> None:
        job, running = stage.submit("a"), stage.submit("b")
        stage.run(running)
        attempt = stage.attempt(running)
        stage.execute("UPDATE leadership SET lease_until = 1")  # it slept too long; nobody has taken over yet
        before = stage.execute("SELECT count(*) FROM events")
        writes: list[Callable[[], object]] = [
            lambda: stage.ledger.hold(stage.leader),
            lambda: stage.ledger.claim(stage.leader, [(job.id, HERE)]),
            lambda: stage.ledger.launched(stage.leader, [attempt]),
            lambda: stage.ledger.stop(stage.leader, attempt, AttemptState.TIMED_OUT, "late"),
            lambda: stage.ledger.give_up(stage.leader, attempt, LOST),
            lambda: stage.ledger.describe(stage.leader, Cluster()),
            lambda: stage.ledger.resign(stage.leader),
        ]
        for write in writes:
            with pytest.raises(FencedError, match="first: no longer leads"):
                write()
        second = stage.ledger.lead("second")
        assert second is not None
        for write in writes:
            with pytest.raises(FencedError, match="first: no longer leads"):
                write()
        assert [count + 1 for (count,) in before] == [n for (n,) in stage.execute("SELECT count(*) FROM events")]
        assert (stage.state(job), stage.state(running)) == (JobState.QUEUED, JobState.RUNNING)

    def test_a_clock_set_back_does_not_keep_leadership_for_ever(self, stage: Stage) -> None:
        stage.execute("UPDATE leadership SET lease_until = lease_until + 3600")
        assert stage.ledger.lead("second") is not None

    # ends

    def test_failures_are_charged_and_losses_are_not(self, stage: Stage) -> None:
        job = stage.submit(retries=1)
        ends = [LOST, Outcome(AttemptState.PREEMPTED, "for x"), FAILED, LOST, FAILED]
        states = [stage.run(job).finish(end) for end in ends]
        assert states == [JobState.QUEUED] * 4 + [JobState.FAILED]
        job = stage.queue.job(job.id)
        assert (job.failures, job.losses, job.attempt) == (2, 2, 5)
        assert job.reason == "exit code 1; all 1 retries used"

    def test_retries_wait(self, stage: Stage) -> None:
        job = stage.submit(retries=2)
        stage.run(job).finish(FAILED)
        seen = stage.ledger.snapshot()
        assert 9 < seen.waiting[0].not_before - seen.now <= 10
        assert "Waits 10 s more before attempt 2: exit code 1; retry 1 of 2" in self.explained(stage, job)

    @pytest.mark.parametrize("moment", ["QUEUED", "PAUSED", "CLAIMED", "LAUNCHED"])
    def test_cancel_ends_what_does_not_run_at_once(self, stage: Stage, moment: str) -> None:
        job = stage.submit()
        if moment == "PAUSED":
            stage.queue.pause(job.id)
        if moment in ("CLAIMED", "LAUNCHED"):
            attempts = stage.claim(job)
            if moment == "LAUNCHED":
                stage.ledger.launched(stage.leader, attempts)
        assert stage.queue.cancel(job.id).state is JobState.CANCELLED
        with pytest.raises(FencedError):
            Lease(stage.database, job.id, 1).start("here")  # however far its process was on its way
        assert stage.ledger.snapshot().live == ()

    def test_cancel_tells_what_runs_and_waits_for_its_end(self, stage: Stage) -> None:
        job = stage.submit(retries=5)
        lease = stage.run(job)
        assert stage.queue.cancel(job.id).state is JobState.CANCELLING
        assert stage.queue.cancel(job.id).state is JobState.CANCELLING  # twice is once
        assert lease.wanted() == (AttemptState.CANCELLED, "cancelled by its owner")
        assert lease.renew()[0] is AttemptState.CANCELLED
        assert lease.finish(Outcome(AttemptState.CANCELLED, "cancelled by its owner", -15)) is JobState.CANCELLED

    @pytest.mark.parametrize(("end", "state"), [(LOST, "CANCELLED"), (FAILED, "CANCELLED"), (SUCCEEDED, "SUCCEEDED")])
    def test_a_cancelled_job_does_not_run_again(self, stage: Stage, end: Outcome, state: str) -> None:
        job = stage.submit(retries=5)
        lease = stage.run(job)
        stage.queue.cancel(job.id)
        assert lease.finish(end) == state

    def test_a_job_that_ran_out_of_time_is_not_run_again_even_if_lost(self, stage: Stage) -> None:
        job = stage.submit(retries=5, timeout_s=1)
        stage.run(job)
        stage.ledger.stop(stage.leader, stage.attempt(job), AttemptState.TIMED_OUT, "ran longer than 1 s")
        assert stage.ledger.give_up(stage.leader, stage.attempt(job), LOST)
        assert stage.queue.job(job.id).state is JobState.TIMED_OUT

    def test_a_first_wish_to_stop_is_not_overruled_but_by_cancel(self, stage: Stage) -> None:
        job = stage.submit()
        lease = stage.run(job)
        stage.ledger.stop(stage.leader, stage.attempt(job), AttemptState.PREEMPTED, "for another")
        stage.ledger.stop(stage.leader, stage.attempt(job), AttemptState.LOST, "later")
        assert lease.wanted() == (AttemptState.PREEMPTED, "for another")
        stage.queue.cancel(job.id)
        assert lease.wanted()[0] is AttemptState.CANCELLED

    # what users change

    def test_states_that_allow_a_change_and_those_that_do_not(self, stage: Stage) -> None:
        job = stage.submit()
        assert stage.queue.pause(job.id).state is JobState.PAUSED
        assert stage.waiting() == []
        with pytest.raises(QueueError, match="is PAUSED, want one that is QUEUED"):
            stage.queue.pause(job.id)
        assert stage.queue.unpause(job.id).state is JobState.QUEUED
        with pytest.raises(QueueError, match="is QUEUED; want one that is FAILED"):
            stage.queue.retry(job.id)
        lease = stage.run(job)
        with pytest.raises(QueueError, match="is RUNNING, want one that is QUEUED"):
            stage.queue.pause(job.id)
        lease.finish(FAILED)
        for change in (stage.queue.cancel, lambda ref: stage.queue.set_priority(ref, 1), stage.queue.unpause):
            with pytest.raises(QueueError, match="is FAILED"):
                change(job.id)
        again = stage.queue.retry(job.id)
        assert (again.state, again.failures, again.finished_at) == (JobState.QUEUED, 0, None)
        assert stage.run(job).number == 2

    def test_jobs_are_found_by_name(self, stage: Stage) -> None:
        first = stage.submit("twin")
        assert stage.queue.job("twin") == first
        second = stage.submit("twin")
        with pytest.raises(QueueError, match=f"2 jobs have this name; want an id, such as {first.id}, {second.id}"):
            stage.queue.job("twin")
        stage.queue.cancel(first.id)
        assert stage.queue.job("twin") == second  # the only one that is not over
        with pytest.raises(QueueError, match="'nobody': no such id or name"):
            stage.queue.job("nobody")

    # dependencies

    def test_after_waits_for_success(self, stage: Stage) -> None:
        parent = stage.submit("parent")
        child = stage.submit("child", after=("parent",))
        assert stage.waiting() == ["parent"]
        assert self.explained(stage, child) == f"Waits for the end of parent ({parent.id}, QUEUED)."
        lease = stage.run(parent)
        lease.finish(SUCCEEDED)
        assert stage.waiting() == ["child"]

    def test_dependants_of_a_failed_job_end_with_a_reason(self, stage: Stage) -> None:
        parent = stage.submit("parent")
        child = stage.submit("child", after=(parent.id,))
        grandchild = stage.submit("grandchild", after=(child.id,))
        stage.queue.pause(grandchild.id)
        patient = stage.submit("patient", after_any=(child.id,))
        stage.run(parent).finish(FAILED)
        ended = stage.queue.job(child.id)
        assert (ended.state, ended.reason) == (
            JobState.CANCELLED,
            f"parent ({parent.id}), which had to succeed first, ended FAILED",
        )
        assert stage.state(grandchild) is JobState.CANCELLED
        assert stage.waiting() == ["patient"]
        assert stage.state(patient) is JobState.QUEUED
        with pytest.raises(QueueError, match=f"needs the success of {parent.id}, which failed"):
            stage.queue.retry(child.id)
        with pytest.raises(QueueError, match="has ended FAILED; retry it first"):
            stage.submit("late", after=(parent.id,))
        stage.submit("late", after_any=(parent.id,))
        stage.queue.retry(parent.id)
        stage.queue.retry(child.id)
        assert stage.waiting() == ["parent"]  # child waits for it again

    def test_a_job_after_nobody_is_not_added(self, stage: Stage) -> None:
        with pytest.raises(QueueError, match="'nobody'"):
            stage.submit(after=("nobody",))
        assert stage.queue.jobs() == []

    # what the store itself enforces

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE jobs SET state = 'RUNNING'",  # from QUEUED
            "UPDATE jobs SET state = 'SUCCEEDED', finished_at = 1",
            "UPDATE jobs SET state = 'NONSENSE'",
            "UPDATE jobs SET state = 'CANCELLED'",  # without the time of its end
            "UPDATE jobs SET gpus = -1",
            "UPDATE events SET text = 'it never happened'",
            "DELETE FROM events",
            "INSERT INTO attempts (job_id, number, state, placement, lease_s, grace_s, lease_until, claimed_at) "
            "VALUES ('nobody', 1, 'CLAIMED', '[]', 1, 1, 1, 1)",
        ],
    )
    def test_the_store_refuses(self, stage: Stage, statement: str) -> None:
        stage.submit()
        with pytest.raises(StoreError) as error:
            stage.execute(statement)
        assert "\n" not in str(error.value)

    def test_the_store_refuses_two_live_attempts(self, stage: Stage) -> None:
        job = stage.submit()
        stage.run(job)
        with pytest.raises(StoreError):
            stage.execute(
                "INSERT INTO attempts (job_id, number, state, placement, lease_s, grace_s, lease_until, claimed_at) "
                "VALUES (:id, 2, 'CLAIMED', '[]', 1, 1, 1, 1)",
                id=job.id,
            )
        with pytest.raises(StoreError):
            stage.execute("UPDATE attempts SET state = 'LAUNCHED'")  # backwards, from RUNNING

    def test_a_transaction_that_fails_leaves_nothing(self, stage: Stage) -> None:
        def fail() -> None:
            with stage.database.writing() as connection:
                connection.execute(text("UPDATE leadership SET holder = 'half'"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert stage.execute("SELECT holder FROM leadership") == [("first",)]

    def test_the_cluster_is_left_for_others(self, stage: Stage) -> None:
        cluster = Cluster((Node("a", 4, 2, "10.0.0.1"), Node("b", 4)), Policy(max_per_owner=3, preempt=True))
        stage.ledger.describe(stage.leader, cluster)
        with stage.database.reading() as connection:
            found = rows.cluster_of(connection)
        assert (found.nodes, found.policy) == (cluster.nodes, cluster.policy)
        assert found.seen_at is not None

    def test_its_clock_is_the_time(self, stage: Stage) -> None:
        import time

        with stage.database.reading() as connection:
            assert abs(stage.database.now(connection) - time.time()) < 2

    # versions

    def test_a_store_of_an_earlier_version_is_brought_up_to_date(self, stage: Stage) -> None:
        job = stage.submit()
        newest = len(steps(stage.database.dialect))
        drop = {
            "sqlite": ["DROP TRIGGER {}_{}"],
            "postgresql": ["DROP TRIGGER {0} ON {2}", "DROP FUNCTION {0}()"],
        }[stage.database.dialect]
        for name, action, table in (
            ("events_stay", "update", "events"),
            ("events_stay", "delete", "events"),
            ("jobs_follow", "update", "jobs"),
            ("attempts_follow", "update", "attempts"),
        ):
            if stage.database.dialect == "sqlite" or action == "update":
                for statement in drop:
                    stage.execute(statement.format(name, action, table))
        stage.execute("DELETE FROM schema_version WHERE version = 2")
        stage.execute("UPDATE events SET text = 'no rule yet'")
        upgraded = Database(stage.database.url)
        try:
            assert stage.execute("SELECT max(version) FROM schema_version") == [(newest,)]
            assert stage.queue.job(job.id) == job
            with pytest.raises(StoreError):
                stage.execute("UPDATE events SET text = 'a rule now'")
        finally:
            upgraded.close()

    def test_a_store_of_a_newer_version_is_refused(self, stage: Stage) -> None:
        stage.execute("INSERT INTO schema_version VALUES (99)")
        with pytest.raises(QueueError, match="tables of version 99, this one knows 2"):
            Database(stage.database.url)

    def test_two_programs_make_the_tables_at_once(self, home: Home, url: str) -> None:
        errors: list[Exception] = []

        def make() -> None:
            try:
                Database(store_url(home, url)).close()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

    def explained(self, stage: Stage, job: Job) -> str:
        stage.ledger.describe(stage.leader, Cluster((Node("here", 4),)))
        return stage.queue.explain(job.id)


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'queue.sqlite'}"
