"""What the process of an attempt may write, each time fenced by the attempt's number: a stale one changes nothing."""

from typing import Any

from sqlalchemy import Row, text

from distseg.errors import FencedError
from distseg.queue import rows
from distseg.queue.database import Database
from distseg.queue.models import Attempt, Job
from distseg.queue.retry import Outcome
from distseg.queue.states import AttemptState, JobState


class Lease:
    """One attempt's lease. StoreError when the store does not answer: nothing is known then, so try again."""

    def __init__(self, database: Database, job_id: str, number: int) -> None:
        self.database = database
        self.job_id = job_id
        self.number = number

    def start(self, host: str) -> tuple[Job, Attempt]:
        """Takes the lease, once; FencedError when the attempt is over, was started before, or is of no job."""
        with self.database.writing() as connection:
            job, attempt = rows.lock_attempt(connection, self.job_id, self.number)
            if attempt.state is AttemptState.RUNNING:
                raise FencedError(f"job {job.id}: attempt {self.number} was started before, on {attempt.host}")
            now = self.database.now(connection)
            connection.execute(
                text(
                    "UPDATE attempts SET state = 'RUNNING', running_at = :now, lease_until = :now + lease_s, "
                    "launched_at = coalesce(launched_at, :now), host = :host WHERE job_id = :id AND number = :number"
                ),
                {"now": now, "host": host, "id": job.id, "number": self.number},
            )
            connection.execute(
                text(
                    "UPDATE jobs SET state = 'RUNNING', reason = NULL, started_at = coalesce(started_at, :now) "
                    "WHERE id = :id"
                ),
                {"now": now, "id": job.id},
            )
            before = rows.attempts(connection, "job_id = :id AND number = :number", id=job.id, number=self.number - 1)
            since = before[0].stop_at or before[0].finished_at if before else None
            gap = f"on {host}" + (f", {now - since:.1f} s after attempt {self.number - 1} was to end" if since else "")
            rows.journal(connection, now, AttemptState.RUNNING, gap, job.id, self.number)
            rows.journal(connection, now, JobState.RUNNING, gap, job.id)
            started = rows.attempts(connection, "job_id = :id AND number = :number", id=job.id, number=self.number)
            return job, started[0]

    def renew(self) -> tuple[AttemptState | None, str | None]:
        """Renews the lease; the end that somebody wants of the attempt, or None, and why. FencedError when over."""
        with self.database.writing() as connection:
            now = self.database.now(connection)
            found = connection.execute(
                text(
                    "UPDATE attempts SET lease_until = :now + lease_s, renewals = renewals + 1 "
                    "WHERE job_id = :id AND number = :number AND state = 'RUNNING' RETURNING stop, reason"
                ),
                {"now": now, "id": self.job_id, "number": self.number},
            ).one_or_none()
        return self._wanted(found)

    def wanted(self) -> tuple[AttemptState | None, str | None]:
        """As ``renew``, without renewing."""
        with self.database.reading() as connection:
            found = connection.execute(
                text("SELECT stop, reason FROM attempts WHERE job_id = :id AND number = :number AND state = 'RUNNING'"),
                {"id": self.job_id, "number": self.number},
            ).one_or_none()
        return self._wanted(found)

    def finish(self, outcome: Outcome) -> JobState:
        """Records the end; the job's new state. FencedError when the attempt was given up: nothing is changed."""
        with self.database.writing() as connection:
            job, attempt = rows.lock_attempt(connection, self.job_id, self.number)
            return rows.end_attempt(connection, self.database.now(connection), job, attempt, outcome)

    def _wanted(self, found: Row[Any] | None) -> tuple[AttemptState | None, str | None]:
        if found is None:
            raise FencedError(f"job {self.job_id}: attempt {self.number} has lost its lease")
        return (AttemptState(found.stop) if found.stop else None), found.reason
