"""What the dispatcher needs of a cluster, and a cluster in memory for tests and benchmarks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from distseg.errors import BackendError
from distseg.queue.models import Node


class Status(StrEnum):
    """What the cluster says of a submission."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class Report:
    """A submission's status, and the cluster's words about it."""

    status: Status
    message: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """One attempt, as it is handed to the cluster."""

    id: str
    """``<job>-<attempt>``; the cluster runs an id once, however often it is submitted."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Added to the cluster's; anybody who may look at the cluster can read it, so it holds no secret."""
    working_dir: str | None = None
    """Path of a zip in which the command is to start."""
    cpus: float = 0.0
    """Set aside for the command's own process; its workers ask for theirs."""
    gpus: float = 0.0


class Backend(Protocol):
    """A cluster. Every method raises BackendError when it does not answer."""

    def nodes(self) -> tuple[Node, ...]:
        """Its living nodes."""

    def submit(self, submission: Submission) -> None:
        """Hands an attempt over; nothing happens when its id is known. ClusterError when it can never be run."""

    def reports(self) -> dict[str, Report]:
        """All submissions that the cluster knows of; asked for only while some are under way."""

    def stop(self, submission_id: str) -> None:
        """Ends a submission if it can; one that is unknown or over is none of its business."""


@dataclass
class MemoryBackend:
    """A cluster in memory. It runs nothing: tests say what becomes of each submission."""

    cluster: Iterable[Node]
    known: dict[str, Report] = field(default_factory=dict)
    submissions: dict[str, Submission] = field(default_factory=dict)
    """Each id once, in the order of their arrival; kept when the cluster forgets."""
    stopped: list[str] = field(default_factory=list)
    answers: bool = True

    def nodes(self) -> tuple[Node, ...]:
        self._reach()
        return tuple(self.cluster)

    def submit(self, submission: Submission) -> None:
        self._reach()
        if submission.id not in self.known:
            self.known[submission.id] = Report(Status.PENDING)
            self.submissions[submission.id] = submission

    def reports(self) -> dict[str, Report]:
        self._reach()
        return dict(self.known)

    def stop(self, submission_id: str) -> None:
        self._reach()
        self.stopped.append(submission_id)

    def _reach(self) -> None:
        if not self.answers:
            raise BackendError("cluster in memory: does not answer")
