"""What a dispatcher may write, each time with proof that it still leads: one that was replaced changes nothing."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from distseg.errors import FencedError
from distseg.queue import rows
from distseg.queue.database import Database
from distseg.queue.models import Attempt, Cluster, Job, Leader, Share, Snapshot, Timing
from distseg.queue.retry import Outcome
from distseg.queue.states import AttemptState

_CLOCK_SLACK_S = 1.0

_WAITING = """state = 'QUEUED' AND NOT EXISTS (
    SELECT 1 FROM dependencies JOIN jobs AS parents ON parents.id = dependencies.on_id
    WHERE dependencies.job_id = jobs.id AND parents.finished_at IS NULL)"""


class Ledger:
    """The dispatcher's side of the store."""

    def __init__(self, database: Database, timing: Timing) -> None:
        self.database = database
        self.timing = timing

    def lead(self, holder: str) -> Leader | None:
        """Leadership, or None while somebody else's lease lasts.

        A lease that ends later than any could was made before the clock was set back; it counts as over.
        """
        length = self.timing.leadership_s
        with self.database.writing() as connection:
            now = self.database.now(connection)
            epoch = connection.execute(
                text(
                    "UPDATE leadership SET holder = :holder, epoch = epoch + 1, lease_until = :until "
                    "WHERE lease_until <= :now OR lease_until > :absurd RETURNING epoch"
                ),
                {"holder": holder, "until": now + length, "now": now, "absurd": now + length + _CLOCK_SLACK_S},
            ).scalar_one_or_none()
            if epoch is None:
                return None
            rows.journal(connection, now, "LEADER", f"{holder} leads, number {epoch}")
        return Leader(holder, epoch)

    def hold(self, leader: Leader) -> None:
        """Renews leadership; FencedError when its lease is over."""
        with self._as(leader) as (connection, now):
            connection.execute(
                text("UPDATE leadership SET lease_until = :until WHERE epoch = :epoch"),
                {"until": now + self.timing.leadership_s, "epoch": leader.epoch},
            )

    def resign(self, leader: Leader) -> None:
        """Gives leadership up, so that another need not wait for the end of the lease."""
        with self._as(leader) as (connection, now):
            connection.execute(
                text("UPDATE leadership SET lease_until = 0 WHERE epoch = :epoch"), {"epoch": leader.epoch}
            )
            rows.journal(connection, now, "LEADER", f"{leader.holder} resigns")

    def last_event(self) -> int:
        """Number of the newest event; cheap, for asking often whether anything happened."""
        with self.database.reading() as connection:
            return int(connection.execute(text("SELECT coalesce(max(id), 0) FROM events")).scalar_one())

    def snapshot(self) -> Snapshot:
        with self.database.reading() as connection:
            return snapshot(self.database, connection)

    def claim(self, leader: Leader, chosen: Iterable[tuple[str, tuple[Share, ...]]]) -> list[tuple[Job, Attempt]]:
        """A new attempt for each job that is still QUEUED, in one transaction; others are left out."""
        claimed = []
        skip = " FOR NO KEY UPDATE SKIP LOCKED" if self.database.dialect == "postgresql" else ""
        with self._as(leader) as (connection, now):
            for job_id, placement in chosen:
                found = connection.execute(
                    text(f"SELECT * FROM jobs WHERE id = :id AND state = 'QUEUED'{skip}"), {"id": job_id}
                )
                row = found.mappings().one_or_none()
                if row is not None:
                    claimed.append(self._claim(connection, now, rows.job_of(row), placement))
        return claimed

    def _claim(self, connection: Connection, now: float, job: Job, placement: tuple[Share, ...]) -> tuple[Job, Attempt]:
        number = job.attempt + 1
        made = connection.execute(
            text(
                "INSERT INTO attempts (job_id, number, state, placement, lease_s, grace_s, lease_until, claimed_at) "
                "VALUES (:id, :number, 'CLAIMED', :placement, :lease_s, :grace_s, :until, :now) RETURNING *"
            ),
            {
                "id": job.id,
                "number": number,
                "placement": json.dumps([share.to_json() for share in placement]),
                "lease_s": self.timing.lease_s,
                "grace_s": self.timing.grace_s,
                "until": now + self.timing.start_s,
                "now": now,
            },
        )
        attempt = rows.attempt_of(made.mappings().one())
        changed = connection.execute(
            text("UPDATE jobs SET state = 'STARTING', reason = NULL, attempt = :number WHERE id = :id RETURNING *"),
            {"number": number, "id": job.id},
        )
        job = rows.job_of(changed.mappings().one())
        where = f"{job.gpus:g} GPU, {job.cpus:g} CPU on {', '.join(sorted({share.node for share in placement}))}"
        rows.journal(connection, now, AttemptState.CLAIMED, where, job.id, number)
        rows.journal(connection, now, job.state, where, job.id)
        return job, attempt

    def launched(self, leader: Leader, accepted: Iterable[Attempt]) -> None:
        """The cluster has accepted these attempts; those that are further already, or over, stay as they are."""
        with self._as(leader) as (connection, now):
            for attempt in accepted:
                changed = connection.execute(
                    text(
                        "UPDATE attempts SET state = 'LAUNCHED', launched_at = :now "
                        "WHERE job_id = :id AND number = :number AND state = 'CLAIMED'"
                    ),
                    {"now": now, "id": attempt.job_id, "number": attempt.number},
                )
                if changed.rowcount:
                    rows.journal(
                        connection, now, AttemptState.LAUNCHED, attempt.submission_id, attempt.job_id, attempt.number
                    )

    def stop(self, leader: Leader, attempt: Attempt, end: AttemptState, reason: str) -> None:
        """Tells an attempt to end, unless it was told before or is over."""
        with self._as(leader) as (connection, now):
            try:
                job, current = rows.lock_attempt(connection, attempt.job_id, attempt.number)
            except FencedError:
                return
            if current.stop is None:
                rows.ask_stop(connection, now, job, current, end, reason)

    def give_up(self, leader: Leader, attempt: Attempt, outcome: Outcome) -> bool:
        """Ends an attempt that shows no life; False when it did in the meantime (it renewed, started or ended)."""
        with self._as(leader) as (connection, now):
            try:
                job, current = rows.lock_attempt(connection, attempt.job_id, attempt.number)
            except FencedError:
                return False
            begun = current.state is AttemptState.RUNNING and attempt.state is not AttemptState.RUNNING
            if begun or current.renewals != attempt.renewals:
                return False
            rows.end_attempt(connection, now, job, current, outcome)
            return True

    def describe(self, leader: Leader, cluster: Cluster) -> None:
        """Leaves in the store what the cluster has and how this dispatcher chooses, for ``jobs explain``."""
        with self._as(leader) as (connection, now):
            connection.execute(
                text("UPDATE cluster SET nodes = :nodes, max_per_owner = :cap, preempt = :preempt, seen_at = :now"),
                {
                    "nodes": json.dumps(
                        [
                            {"name": node.name, "cpus": node.cpus, "gpus": node.gpus, "host": node.host}
                            for node in cluster.nodes
                        ]
                    ),
                    "cap": cluster.policy.max_per_owner,
                    "preempt": int(cluster.policy.preempt),
                    "now": now,
                },
            )

    @contextmanager
    def _as(self, leader: Leader) -> Iterator[tuple[Connection, float]]:
        """A writing transaction, with the time, during which leadership cannot change; FencedError when it is over."""
        share = " FOR SHARE" if self.database.dialect == "postgresql" else ""
        with self.database.writing() as connection:
            epoch, until = connection.execute(text(f"SELECT epoch, lease_until FROM leadership{share}")).one()
            now = self.database.now(connection)
            if epoch != leader.epoch or until <= now:
                raise FencedError(f"dispatcher {leader.holder}: no longer leads; nothing was changed")
            yield connection, now


def snapshot(database: Database, connection: Connection) -> Snapshot:
    """All that admission looks at; the transaction must be one."""
    last_event = connection.execute(text("SELECT coalesce(max(id), 0) FROM events")).scalar_one()
    active = {job.id: job for job in rows.jobs(connection, "state IN ('STARTING', 'RUNNING', 'CANCELLING')")}
    live = rows.attempts(connection, rows.IS_LIVE, order="claimed_at, job_id")
    return Snapshot(
        now=database.now(connection),
        waiting=tuple(rows.jobs(connection, _WAITING, order=rows.SCHEDULING_ORDER)),
        live=tuple((active[attempt.job_id], attempt) for attempt in live),
        last_event=int(last_event),
    )
