"""The queue as its users see it: submit, look, wait, change. The command line is this and no more."""

import getpass
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import Connection, text

from distseg.errors import DistsegError, QueueError
from distseg.home import Home
from distseg.queue import rows
from distseg.queue.admission import plan
from distseg.queue.database import Database, store_url
from distseg.queue.explain import explain
from distseg.queue.leader import snapshot
from distseg.queue.models import Attempt, Event, Job, JobSpec, check_priority
from distseg.queue.states import ACTIVE, AttemptState, JobState
from distseg.queue.working_dir import zip_folder

_WAIT_S = 0.5
_PIECE_BYTES = 2**16
_SCHEDULING = f"""CASE WHEN finished_at IS NOT NULL THEN 2 WHEN state IN ({rows.words(ACTIVE)}) THEN 0 ELSE 1 END,
    finished_at DESC, {rows.SCHEDULING_ORDER}"""


class Queue:
    """A queue of jobs. Jobs are named by id, or by a name that only one of them has (or only one that is not over)."""

    def __init__(self, database: Database, home: Home) -> None:
        self.database = database
        self.home = home

    @classmethod
    def open(cls, home: Home | None = None, url: str | None = None) -> "Queue":
        """The queue of a home (default: ``DISTSEG_HOME``), in the store at ``url`` (default: ``DISTSEG_QUEUE_URL``,
        else the one that ``distseg jobs serve`` was last given, else an SQLite file in the home)."""
        home = home or Home.from_environment()
        return cls(Database(store_url(home, url or os.environ.get("DISTSEG_QUEUE_URL"))), home)

    def submit(self, spec: JobSpec) -> Job:
        """Adds a job; QueueError, and nothing added, when a job that it is to follow is missing or has failed."""
        owner = spec.owner or _user()
        folder = zip_folder(Path(spec.working_dir), self.home.queue / "working_dirs") if spec.working_dir else None
        with self.database.writing() as connection:
            parents = {self._find(connection, name).id: "end" for name in spec.after_any}
            parents |= {self._find(connection, name).id: "success" for name in spec.after}
            in_order = sorted((rows.lock_job(connection, job_id) for job_id in parents), key=lambda job: job.seq)
            for parent in in_order:
                if parents[parent.id] == "success" and parent.state.over and parent.state is not JobState.SUCCEEDED:
                    raise QueueError(
                        f"--after: job {parent.id} ({parent.name}) has ended {parent.state}; retry it first "
                        f"('distseg jobs retry {parent.id}'), or use --after-any"
                    )
            now = self.database.now(connection)
            made = connection.execute(
                text(
                    "INSERT INTO jobs (id, name, owner, command, working_dir, priority, gpus, cpus, workers, alone, "
                    "retries, timeout_s, state, submitted_at) VALUES (:id, :name, :owner, :command, :working_dir, "
                    ":priority, :gpus, :cpus, :workers, :alone, :retries, :timeout_s, 'QUEUED', :now) RETURNING *"
                ),
                {
                    "id": f"j{secrets.token_hex(4)}",
                    "name": spec.name,
                    "owner": owner,
                    "command": json.dumps(spec.command),
                    "working_dir": str(folder) if folder else None,
                    "priority": spec.priority,
                    "gpus": spec.gpus,
                    "cpus": spec.cpus,
                    "workers": spec.workers,
                    "alone": int(spec.alone),
                    "retries": spec.retries,
                    "timeout_s": spec.timeout_s,
                    "now": now,
                },
            )
            job = rows.job_of(made.mappings().one())
            for parent_id, needs in parents.items():
                connection.execute(
                    text("INSERT INTO dependencies (job_id, on_id, needs) VALUES (:job_id, :on_id, :needs)"),
                    {"job_id": job.id, "on_id": parent_id, "needs": needs},
                )
            after = f"; after {', '.join(parents)}" if parents else ""
            rows.journal(connection, now, JobState.QUEUED, f"submitted by {owner}{after}", job.id)
        return job

    def job(self, ref: str) -> Job:
        """One job, by id or name; QueueError when there is none or more than one."""
        with self.database.reading() as connection:
            return self._find(connection, ref)

    def jobs(self, limit: int | None = None) -> list[Job]:
        """Jobs in scheduling order: those that run, those that wait with the next one first, the latest ended."""
        with self.database.reading() as connection:
            return rows.jobs(connection, order=_SCHEDULING + (f" LIMIT {int(limit)}" if limit else ""))

    def counts(self) -> dict[JobState, int]:
        """How many jobs are in each state, of those that some job is in."""
        with self.database.reading() as connection:
            found = connection.execute(text("SELECT state, count(*) FROM jobs GROUP BY state")).all()
        counted = {JobState(state): count for state, count in found}
        return {state: counted[state] for state in JobState if state in counted}

    def attempts(self, ref: str) -> list[Attempt]:
        with self.database.reading() as connection:
            return rows.attempts(connection, "job_id = :id", id=self._find(connection, ref).id)

    def events(self, ref: str) -> list[Event]:
        """All that ever happened to a job, oldest first."""
        with self.database.reading() as connection:
            found = connection.execute(
                text("SELECT * FROM events WHERE job_id = :id ORDER BY id"), {"id": self._find(connection, ref).id}
            )
            return [Event(**row) for row in found.mappings()]

    def explain(self, ref: str) -> str:
        """In a sentence, what a job waits for and what would free it, or how it ended."""
        with self.database.reading() as connection:
            job = self._find(connection, ref)
            blocking = [f"{parent.name} ({parent.id}, {parent.state})" for parent in _blocking(connection, job.id)]
            seen = snapshot(self.database, connection)
            cluster = rows.cluster_of(connection)
            until = connection.execute(text("SELECT lease_until FROM leadership")).scalar_one()
            last = rows.attempts(connection, "job_id = :id", order="number DESC", id=job.id)[:1]
        sentence = explain(job, seen, plan(seen, cluster), cluster, blocking, last[0] if last else None)
        if not job.state.over and until <= seen.now:
            sentence += " No dispatcher is at work: start one with 'distseg jobs serve'."
        return sentence

    def waits_for(self, ref: str) -> list[Job]:
        """The jobs that have to end before this one may start, and have not."""
        with self.database.reading() as connection:
            return _blocking(connection, self._find(connection, ref).id)

    def log_paths(self, ref: str) -> list[Path]:
        """The logs of a job's attempts, one each, oldest first; one that has not begun yet has none."""
        found = [log_path(self.home, attempt.job_id, attempt.number) for attempt in self.attempts(ref)]
        return [path for path in found if path.exists()]

    def cancel(self, ref: str, reason: str = "cancelled by its owner") -> Job:
        """Ends a job, whatever it is doing; one whose command runs is CANCELLING until that has stopped."""
        with self.database.writing() as connection:
            job = self._locked(connection, ref)
            now = self.database.now(connection)
            if job.state.over:
                raise QueueError(f"job {job.id}: is {job.state} already; want one that waits or runs")
            if job.state in (JobState.QUEUED, JobState.PAUSED):
                rows.end_job(connection, now, job, JobState.CANCELLED, reason)
            elif job.state is not JobState.CANCELLING:
                _, attempt = rows.lock_attempt(connection, job.id, job.attempt)
                if rows.ask_stop(connection, now, job, attempt, AttemptState.CANCELLED, reason) is None:
                    self._turn(connection, now, job, JobState.CANCELLING, reason)
            return self._find(connection, job.id)

    def retry(self, ref: str) -> Job:
        """Queues a job again that failed, timed out or was cancelled, with its whole budget of retries."""
        with self.database.writing() as connection:
            job = self._locked(connection, ref)
            if not job.state.over or job.state is JobState.SUCCEEDED:
                raise QueueError(f"job {job.id}: is {job.state}; want one that is FAILED, TIMED_OUT or CANCELLED")
            unmet = connection.execute(
                text(
                    "SELECT jobs.id FROM dependencies JOIN jobs ON jobs.id = on_id WHERE job_id = :id AND "
                    "needs = 'success' AND finished_at IS NOT NULL AND state <> 'SUCCEEDED' ORDER BY seq"
                ),
                {"id": job.id},
            ).scalar()
            if unmet:
                raise QueueError(f"job {job.id}: needs the success of {unmet}, which failed; retry that one first")
            now = self.database.now(connection)
            connection.execute(
                text(
                    "UPDATE jobs SET state = 'QUEUED', reason = NULL, failures = 0, losses = 0, not_before = 0, "
                    "finished_at = NULL WHERE id = :id"
                ),
                {"id": job.id},
            )
            rows.journal(connection, now, JobState.QUEUED, "to be tried again", job.id)
            return self._find(connection, job.id)

    def set_priority(self, ref: str, priority: int) -> Job:
        """Moves a job that waits (or one that runs, should it have to wait again)."""
        with self.database.writing() as connection:
            job = self._locked(connection, ref)
            if job.state.over:
                raise QueueError(f"job {job.id}: is {job.state}; want one that waits or runs")
            check_priority(priority)
            connection.execute(
                text("UPDATE jobs SET priority = :priority WHERE id = :id"), {"priority": priority, "id": job.id}
            )
            rows.journal(connection, self.database.now(connection), "PRIORITY", f"{job.priority} -> {priority}", job.id)
            return self._find(connection, job.id)

    def pause(self, ref: str) -> Job:
        """Holds a waiting job back."""
        return self._switch(ref, JobState.QUEUED, JobState.PAUSED)

    def unpause(self, ref: str) -> Job:
        """Lets a paused job wait for its turn again."""
        return self._switch(ref, JobState.PAUSED, JobState.QUEUED)

    def wait(self, refs: Iterable[str], timeout_s: float | None = None) -> list[Job]:
        """Returns the jobs once all are over; DistsegError when that takes longer than ``timeout_s``."""
        ids = [self.job(ref).id for ref in refs]
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            found = [self.job(job_id) for job_id in ids]
            left = [job for job in found if not job.state.over]
            if not left:
                return found
            if deadline is not None and time.monotonic() > deadline:
                raise DistsegError(
                    f"job {left[0].id}: still {left[0].state} after {timeout_s:g} s; wait on, or cancel it"
                )
            time.sleep(_WAIT_S)

    def _switch(self, ref: str, before: JobState, after: JobState) -> Job:
        with self.database.writing() as connection:
            job = self._locked(connection, ref)
            if job.state is not before:
                raise QueueError(f"job {job.id}: is {job.state}, want one that is {before}")
            self._turn(connection, self.database.now(connection), job, after, "by its owner")
            return self._find(connection, job.id)

    def _turn(self, connection: Connection, now: float, job: Job, state: JobState, reason: str) -> None:
        kept = None if state is JobState.QUEUED else reason
        connection.execute(
            text("UPDATE jobs SET state = :state, reason = :reason WHERE id = :id"),
            {"state": state, "reason": kept, "id": job.id},
        )
        rows.journal(connection, now, state, reason, job.id)

    def _locked(self, connection: Connection, ref: str) -> Job:
        return rows.lock_job(connection, self._find(connection, ref).id)

    def _find(self, connection: Connection, ref: str) -> Job:
        found = rows.jobs(connection, "id = :ref", ref=ref) or rows.jobs(connection, "name = :ref", ref=ref)
        unfinished = [job for job in found if not job.state.over]
        if len(found) == 1 or len(unfinished) == 1:
            return (found if len(found) == 1 else unfinished)[0]
        if not found:
            raise QueueError(f"job '{ref}': no such id or name; 'distseg jobs list' shows those there are")
        some = ", ".join(job.id for job in found[-3:])
        raise QueueError(f"job '{ref}': {len(found)} jobs have this name; want an id, such as {some}")


def _blocking(connection: Connection, job_id: str) -> list[Job]:
    where = "finished_at IS NULL AND id IN (SELECT on_id FROM dependencies WHERE job_id = :id)"
    return rows.jobs(connection, where, id=job_id)


def _user() -> str:
    """Who we are; in a container, perhaps only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def output_of(queue: Queue, ref: str, follow: bool) -> Iterator[bytes]:
    """Pieces of a job's output, attempt by attempt; with ``follow`` until the job is over. Between attempts a line."""
    job = queue.job(ref)
    read: dict[Path, int] = {}
    while True:
        over = queue.job(job.id).state.over  # asked before reading: what comes later is read once more
        for path in queue.log_paths(job.id):
            if path not in read and read:
                yield f"--- attempt {path.stem.rpartition('-')[2]}\n".encode()
            with open(path, "rb") as file:
                file.seek(read.get(path, 0))
                while piece := file.read(_PIECE_BYTES):
                    yield piece
                read[path] = file.tell()
        if over or not follow:
            return
        time.sleep(_WAIT_S)


def log_path(home: Home, job_id: str, attempt: int) -> Path:
    """Where the command's output goes, in the home, which all nodes see."""
    return home.queue / "logs" / f"{job_id}-{attempt}.log"


def to_json(job: Job) -> dict[str, object]:
    """The fields that other programs rely on; times in UTC, ISO 8601."""
    from datetime import UTC, datetime

    def when(seconds: float | None) -> str | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

    return {
        "id": job.id,
        "name": job.name,
        "state": job.state.value,
        "priority": job.priority,
        "gpus": job.gpus,
        "cpus": job.cpus,
        "attempt": job.attempt,
        "owner": job.owner,
        "submitted_at": when(job.submitted_at),
        "started_at": when(job.started_at),
        "finished_at": when(job.finished_at),
        "reason": job.reason,
        "command": list(job.command),
    }
