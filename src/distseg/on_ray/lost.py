"""Runs on Ray Train that lost a worker, a node, or the room for one: what is nobody's fault and may be tried again."""

import time

import ray
import ray.train

from distseg.records import RECORD_FILE, Status, TrialRecord
from distseg.train.run_folder import RunSpec
from distseg.train.worker import is_broken_connection

STARTS_MAX = 3
"""Tries to start the workers: somebody else may take the room just before them."""


def wait_for_room(workers: int, resources: dict[str, float]) -> None:
    """Returns when what the workers need is free all at once, as far as the sum over the nodes can tell."""

    def free(name: str) -> float:
        return float(ray.available_resources().get(name, 0.0))  # type: ignore[no-untyped-call]

    while any(free(name) < workers * each - 1e-6 for name, each in resources.items()):
        time.sleep(0.2)


def is_loss(error: ray.train.TrainingFailedError) -> bool:
    """Whether a process or a node went away, or never came; the other ranks' connections fail with it."""
    if isinstance(error, ray.train.WorkerGroupError):
        return any(map(_lost, error.worker_failures.values()))
    return isinstance(error, ray.train.ControllerError)


def reason_of_loss(error: ray.train.TrainingFailedError) -> str:
    """In one line, which worker was lost and what Ray says of it."""
    if isinstance(error, ray.train.WorkerGroupError):
        lost = {rank: failure for rank, failure in sorted(error.worker_failures.items()) if _lost(failure)}
        first = min(lost.values(), key=lambda failure: not _own_of_ray(failure))
        return f"worker {', '.join(map(str, lost))} was lost: {_in_one_line(first)}"
    return f"its workers did not start: {_in_one_line(error)}"


def interrupt(spec: RunSpec, reason: str) -> None:
    """Marks a run as one that can go on, even where rank 0 took what followed for its own failure; not a pruned one."""
    if (spec.folder / RECORD_FILE).exists():
        record = TrialRecord.load(spec.folder)
        if record.status is Status.PRUNED:
            return
        record.model_copy(update={"status": Status.INTERRUPTED, "reason": reason}).save(spec.folder)


def _lost(failure: Exception) -> bool:
    return _own_of_ray(failure) or is_broken_connection(failure)


def _own_of_ray(failure: Exception) -> bool:
    """Not raised by our loop, but about the process that ran it."""
    return type(failure).__module__.startswith("ray.")


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
