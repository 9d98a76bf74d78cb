"""The values of the queue. Times are seconds since 1970 by the store's clock; all values are frozen.

Plain dataclasses rather than pydantic models: the store checks them, and a list of 10,000 jobs is read in an instant.
"""

import math
from dataclasses import dataclass
from typing import Any

from distseg.errors import QueueError
from distseg.queue.states import AttemptState, JobState

NAME_CHARACTERS_MAX = 80


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a user asks for; QueueError at once when it cannot be.

    ``gpus`` and ``cpus`` are totals over the job's ``workers``, which share them evenly; a worker fits on one node.
    Default of ``workers``: one a GPU (a started one counts), else one a CPU; one when ``alone``. What the command
    itself (the driver) uses beside its workers is not counted: it starts them on Ray and waits.
    """

    command: tuple[str, ...]
    name: str = ""
    """Default: made from the command. Several jobs may share a name."""
    owner: str = ""
    priority: int = 0
    """Higher goes first."""
    gpus: float = 0.0
    cpus: float = 1.0
    workers: int = 0
    """0: the default above."""
    alone: bool = False
    """The command computes in its own process, on one node, rather than in Ray workers that it starts."""
    after: tuple[str, ...] = ()
    """Jobs, by id or name, that must succeed first."""
    after_any: tuple[str, ...] = ()
    """Jobs that must end first, however they end."""
    retries: int = 0
    """How many real failures may be followed by another attempt."""
    timeout_s: float | None = None
    """Of each attempt, from the start of its command; None: it never ends by itself."""
    working_dir: str | None = None
    """Folder that is zipped into the home now, and in which the command starts."""

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise QueueError("command: got none; want it after '--', e.g. distseg jobs submit -- python train.py")
        for what, words in (("command", self.command), ("name", (self.name,)), ("owner", (self.owner,))):
            if any("\0" in word for word in words):
                raise QueueError(f"{what}: holds a NUL character, which no command line can")
        if not self.name:
            object.__setattr__(self, "name", name_of(self.command))
        if len(self.name) > NAME_CHARACTERS_MAX or not self.name.isprintable():
            raise QueueError(
                f"--name: got {self.name[:20]!r}..., want at most {NAME_CHARACTERS_MAX} printable characters"
            )
        for what, value in (("--gpus", self.gpus), ("--cpus", self.cpus)):
            if not (math.isfinite(value) and value >= 0):
                raise QueueError(f"{what}: got {value}, want 0 or more")
        if self.gpus == 0 and self.cpus == 0:
            raise QueueError(
                "--gpus and --cpus: got 0 of both; want what the job uses, so that others can be fitted in"
            )
        check_priority(self.priority)
        if not 0 <= self.retries < 2**31:
            raise QueueError(f"--retries: got {self.retries}, want 0 or more")
        if self.timeout_s is not None and not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise QueueError(f"--timeout-s: got {self.timeout_s:g}, want more than 0 seconds")
        if self.alone and self.workers > 1:
            raise QueueError(f"--workers: got {self.workers} beside --alone, want 1: the command is the only worker")
        if self.workers < 0:
            raise QueueError(f"--workers: got {self.workers}, want 1 or more")
        if not self.workers:
            object.__setattr__(self, "workers", 1 if self.alone else max(1, math.ceil(self.gpus or self.cpus)))
        each = self.gpus / self.workers
        if each > 1 and each != int(each):
            raise QueueError(
                f"--gpus: got {self.gpus:g} over {self.workers} workers, {each:g} each; "
                "want whole GPUs or a fraction of one for each worker"
            )


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the store has it."""

    seq: int
    """Place in the order of submission."""
    id: str
    name: str
    owner: str
    command: tuple[str, ...]
    working_dir: str | None
    """Path of the zip in the home."""
    priority: int
    gpus: float
    cpus: float
    workers: int
    alone: bool
    retries: int
    timeout_s: float | None
    state: JobState
    reason: str | None
    """Why it waits again, or ended, in one line."""
    attempt: int
    """Number of the latest attempt; 0 before the first."""
    failures: int
    """Attempts charged to the budget of retries."""
    losses: int
    """Attempts lost, not charged."""
    not_before: float
    """It waits until then before its next attempt."""
    submitted_at: float
    started_at: float | None
    """When its command first ran."""
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker of a job is planned to use of a node."""

    node: str
    cpus: float
    gpus: tuple[tuple[int, float], ...] = ()
    """(index of a GPU on the node, part of it in (0, 1])."""

    def to_json(self) -> list[Any]:
        return [self.node, self.cpus, [list(part) for part in self.gpus]]

    @classmethod
    def from_json(cls, value: list[Any]) -> "Share":
        return cls(value[0], value[1], tuple((index, part) for index, part in value[2]))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at running a job."""

    job_id: str
    number: int
    """From 1; a new one fences off all before it."""
    state: AttemptState
    placement: tuple[Share, ...]
    lease_s: float
    """Length of its lease in seconds; its process renews it more often."""
    grace_s: float
    """From SIGTERM to SIGKILL when it is told to stop, and from the end of its lease to the next attempt."""
    lease_until: float
    """While CLAIMED or LAUNCHED: until when it has to start."""
    renewals: int
    stop: AttemptState | None
    """The end it was told to make, with the reason in ``reason``."""
    stop_at: float | None
    claimed_at: float
    launched_at: float | None
    running_at: float | None
    finished_at: float | None
    exit_code: int | None
    """Of the command; -N when signal N ended it."""
    reason: str | None
    host: str | None

    @property
    def submission_id(self) -> str:
        """Its name in Ray, which refuses a name used twice."""
        return f"{self.job_id}-{self.number}"


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the store's append-only journal."""

    id: int
    at: float
    job_id: str | None
    attempt: int | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Node:
    """A living node of the cluster and all that it has, free or not."""

    name: str
    cpus: float
    gpus: int = 0
    host: str = ""
    """Its address; nodes of one host share it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a dispatcher chooses."""

    max_per_owner: int | None = None
    """Jobs of one owner that may run at once."""
    preempt: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the dispatcher last knew of the cluster, left in the store for ``jobs explain``."""

    nodes: tuple[Node, ...] = ()
    policy: Policy = Policy()
    seen_at: float | None = None
    """None: no dispatcher has ever reached a cluster."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that admission looks at, read in one transaction."""

    now: float
    waiting: tuple[Job, ...]
    """QUEUED jobs whose dependencies are satisfied, in scheduling order."""
    live: tuple[tuple[Job, Attempt], ...]
    """In the order of their claims."""
    last_event: int
    """Number of the newest event that it contains."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    lease_s: float = 60.0
    """An attempt whose lease was not renewed for so long has lost it. Long enough for PostgreSQL to be restarted."""
    grace_s: float = 10.0
    """Between asking a command to stop and killing it; and between a lost lease and the next attempt."""
    start_s: float = 840.0
    """From claim to the start of the command; Ray gives up after 900."""
    leadership_s: float = 10.0
    leadership_renew_s: float = 3.0
    poll_store_s: float = 0.25
    poll_cluster_s: float = 2.0
    work_s: float = 1.0
    """Between two full looks at jobs that wait or run."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Proof of leadership; every write of a dispatcher shows it."""

    holder: str
    epoch: int
    """Grows with every change of leader, so that writes of an earlier one are refused."""


def name_of(command: tuple[str, ...]) -> str:
    """For a job that was given none: ``python jobs/pack.py --x`` -> ``pack``; ``distseg tune a.yaml`` -> ``tune``."""
    words = [word.rsplit("/", 1)[-1] for word in command if not word.startswith("-")] or ["job"]
    if words[0].startswith("python") and len(words) > 1:
        words = words[1:]
    if words[0] == "distseg" and len(words) > 1:
        words = words[1:]
    name = words[0].removesuffix(".py").removesuffix(".sh")
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:NAME_CHARACTERS_MAX] or "job"


def check_priority(priority: int) -> None:
    """QueueError when it does not fit into the store."""
    if not -(2**31) <= priority < 2**31:
        raise QueueError(f"priority: got {priority}, want a number from {-(2**31)} to {2**31 - 1}")
