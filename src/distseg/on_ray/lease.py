"""What the queue granted to the job that this process runs in."""

import os
from dataclasses import dataclass

from distseg.errors import InputError


@dataclass(frozen=True)
class Lease:
    """CPUs and GPUs that a job may hold; None: no limit but the cluster's."""

    cpus: float | None = None
    gpus: float | None = None

    @classmethod
    def from_environment(cls) -> "Lease":
        """``DISTSEG_LEASE_CPUS`` and ``DISTSEG_LEASE_GPUS``; InputError when one is no number.

        Called at the command line only.
        """
        return cls(_number("DISTSEG_LEASE_CPUS"), _number("DISTSEG_LEASE_GPUS"))

    def __str__(self) -> str:
        limits = ((self.cpus, "CPUs"), (self.gpus, "GPUs"))
        return " and ".join(f"{limit:g} {name}" for limit, name in limits if limit is not None)

    def holds(self, cpus: float, gpus: float) -> int | None:
        """How many trials (or workers) of this size it has room for; None: any number."""
        pairs = ((self.cpus, cpus), (self.gpus, gpus))
        rooms = [int(limit / each + 1e-9) for limit, each in pairs if limit is not None and each > 0]
        return min(rooms, default=None)


UNBOUNDED = Lease()


def job_id_from_environment() -> str | None:
    """``DISTSEG_JOB_ID``: the queue's job that this process runs in. Called at the command line only."""
    return os.environ.get("DISTSEG_JOB_ID") or None


def _number(name: str) -> float | None:
    word = os.environ.get(name)
    if not word:
        return None
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{name}: got '{word}', want a number of at least 0; the queue sets it")
    return value
