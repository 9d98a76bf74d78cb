"""Rows of the store as values, and the few statements that several of the store's users share."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, text

from distseg.errors import FencedError, QueueError
from distseg.queue.models import Attempt, Cluster, Job, Node, Policy, Share
from distseg.queue.retry import Outcome, judge
from distseg.queue.states import LIVE, OVER, AttemptState, JobState

SCHEDULING_ORDER = "priority DESC, seq"


def words(states: Sequence[str] | frozenset[JobState] | frozenset[AttemptState]) -> str:
    """States as a list for SQL's IN."""
    return ", ".join(f"'{state}'" for state in sorted(states))


IS_OVER, IS_LIVE = f"state IN ({words(OVER)})", f"state IN ({words(LIVE)})"


def job_of(row: RowMapping | dict[str, Any]) -> Job:
    values = dict(row)
    values["command"] = tuple(json.loads(values["command"]))
    values["alone"] = bool(values["alone"])
    values["state"] = JobState(values["state"])
    return Job(**values)


def attempt_of(row: RowMapping | dict[str, Any]) -> Attempt:
    values = dict(row)
    values["placement"] = tuple(Share.from_json(share) for share in json.loads(values["placement"]))
    values["state"] = AttemptState(values["state"])
    values["stop"] = AttemptState(values["stop"]) if values["stop"] else None
    return Attempt(**values)


def jobs(connection: Connection, where: str = "TRUE", order: str = "seq", **values: object) -> list[Job]:
    found = connection.execute(text(f"SELECT * FROM jobs WHERE {where} ORDER BY {order}"), values)
    return [job_of(row) for row in found.mappings()]


def attempts(connection: Connection, where: str, order: str = "number", **values: object) -> list[Attempt]:
    found = connection.execute(text(f"SELECT * FROM attempts WHERE {where} ORDER BY {order}"), values)
    return [attempt_of(row) for row in found.mappings()]


def lock_job(connection: Connection, job_id: str) -> Job:
    """A job that nobody else changes until this transaction ends; QueueError when there is none."""
    # SQLite's writer has the whole file to itself already. NO KEY: an event's reference to a job does not wait for it
    lock = " FOR NO KEY UPDATE" if connection.dialect.name == "postgresql" else ""
    row = connection.execute(text(f"SELECT * FROM jobs WHERE id = :id{lock}"), {"id": job_id}).mappings().one_or_none()
    if row is None:
        raise QueueError(f"job '{job_id}': no such job; 'distseg jobs list' shows those there are")
    return job_of(row)


def lock_attempt(connection: Connection, job_id: str, number: int) -> tuple[Job, Attempt]:
    """A job and its live attempt, locked; FencedError when that attempt is not, or no longer, live."""
    try:
        job = lock_job(connection, job_id)
    except QueueError as error:
        raise FencedError(f"job {job_id}: attempt {number} is of no job in this store") from error
    found = attempts(connection, f"job_id = :id AND number = :number AND {IS_LIVE}", id=job_id, number=number)
    if not found or job.attempt != number:
        raise FencedError(f"job {job_id}: attempt {number} is not live (the job is {job.state}, attempt {job.attempt})")
    return job, found[0]


def journal(
    connection: Connection, now: float, kind: str, what: str, job_id: str | None = None, attempt: int | None = None
) -> None:
    """Adds an event."""
    connection.execute(
        text("INSERT INTO events (at, job_id, attempt, kind, text) VALUES (:at, :job_id, :attempt, :kind, :text)"),
        {"at": now, "job_id": job_id, "attempt": attempt, "kind": kind, "text": what},
    )


def end_job(connection: Connection, now: float, job: Job, state: JobState, reason: str) -> None:
    """A job is over; those that needed its success end too, from one to the next."""
    connection.execute(
        text("UPDATE jobs SET state = :state, reason = :reason, finished_at = :now, not_before = 0 WHERE id = :id"),
        {"state": state, "reason": reason, "now": now, "id": job.id},
    )
    journal(connection, now, state, reason, job.id)
    if state is JobState.SUCCEEDED:
        return
    dependants = jobs(
        connection, "id IN (SELECT job_id FROM dependencies WHERE on_id = :id AND needs = 'success')", id=job.id
    )
    for (
        dependant
    ) in dependants:  # in the order of submission, as everywhere: two transactions never wait for each other
        current = lock_job(connection, dependant.id)
        if current.state in (JobState.QUEUED, JobState.PAUSED):
            why = f"{job.name} ({job.id}), which had to succeed first, ended {state}"
            end_job(connection, now, current, JobState.CANCELLED, why)


def end_attempt(connection: Connection, now: float, job: Job, attempt: Attempt, outcome: Outcome) -> JobState:
    """An attempt is over, and its job is over too or waits again; both must be locked. The job's new state."""
    connection.execute(
        text(
            "UPDATE attempts SET state = :state, finished_at = :now, exit_code = :code, reason = :reason "
            "WHERE job_id = :id AND number = :number"
        ),
        {
            "state": outcome.end,
            "now": now,
            "code": outcome.exit_code,
            "reason": outcome.reason,
            "id": job.id,
            "number": attempt.number,
        },
    )
    journal(connection, now, outcome.end, outcome.reason, job.id, attempt.number)
    verdict = judge(job, attempt, outcome)
    connection.execute(
        text("UPDATE jobs SET failures = :failures, losses = :losses WHERE id = :id"),
        {"failures": verdict.failures, "losses": verdict.losses, "id": job.id},
    )
    if verdict.state.over:
        end_job(connection, now, job, verdict.state, verdict.reason)
        return verdict.state
    connection.execute(
        text("UPDATE jobs SET state = :state, reason = :reason, not_before = :then WHERE id = :id"),
        {"state": verdict.state, "reason": verdict.reason, "then": now + verdict.delay_s, "id": job.id},
    )
    wait = f"; not before {verdict.delay_s:g} s from now" if verdict.delay_s else ""
    journal(connection, now, verdict.state, verdict.reason + wait, job.id)
    return verdict.state


def ask_stop(
    connection: Connection, now: float, job: Job, attempt: Attempt, end: AttemptState, reason: str
) -> JobState | None:
    """Tells a live attempt to end; one that has not begun to run ends at once, and the job's new state is returned.

    Nothing can be running then: an attempt's process runs its command only once the store has accepted its start.
    """
    if attempt.state is not AttemptState.RUNNING:
        return end_attempt(connection, now, job, attempt, Outcome(end, reason))
    connection.execute(
        text(
            "UPDATE attempts SET stop = :stop, stop_at = :now, reason = :reason WHERE job_id = :id AND number = :number"
        ),
        {"stop": end, "now": now, "reason": reason, "id": job.id, "number": attempt.number},
    )
    journal(connection, now, "STOP", f"{end}: {reason}", job.id, attempt.number)
    return None


def cluster_of(connection: Connection) -> Cluster:
    """What the dispatcher last left of the cluster."""
    row = connection.execute(text("SELECT * FROM cluster")).mappings().one()
    return Cluster(
        nodes=tuple(Node(**node) for node in json.loads(row["nodes"])),
        policy=Policy(row["max_per_owner"], bool(row["preempt"])),
        seen_at=row["seen_at"],
    )
