"""Auditing and packing on a Ray cluster: a shard, or its worth of samples, is a task; all nodes see the same files."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from distseg.data.crew import Elsewhere
from distseg.errors import DataError, DistsegError
from distseg.on_ray.session import cluster_total, session

_TASKS_PER_CPU = 2  # under way at once: one runs, one waits


@contextmanager
def cluster(workers: int | None = None) -> Iterator[Elsewhere]:
    """Runs tasks on the Ray at RAY_ADDRESS, one CPU each, or on one that is started and ended here.

    ``workers``: how many at once; None takes every CPU.
    """
    with session():
        yield partial(_in_order, workers=workers)


def _in_order(function: Callable[[Any], Any], tasks: Sequence[Any], workers: int | None) -> Iterator[Any]:
    import ray

    remote = ray.remote(num_cpus=1)(_on_node)
    ahead = workers or max(1, int(cluster_total("CPU"))) * _TASKS_PER_CPU
    waiting: deque[Any] = deque()
    try:
        for task in tasks:
            if len(waiting) == ahead:
                yield _result(waiting.popleft())
            waiting.append(remote.remote(function, task))
        while waiting:
            yield _result(waiting.popleft())
    finally:
        for left in waiting:
            ray.cancel(left)


def _result(reference: Any) -> Any:
    """What a task returned, or raised: Ray puts the whole traceback of the other process in its message."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, DistsegError):
            raise error.cause from None
        raise
    except RayError as error:
        reason = str(error).splitlines()[0]
        raise DistsegError(f"a packing task was lost ({reason}) and nothing was packed; pack again") from error


def _on_node(function: Callable[[Any], Any], task: Any) -> Any:
    import cv2

    cv2.setNumThreads(0)  # tasks are the parallelism
    path = getattr(task, "path", None)
    if isinstance(path, Path) and not path.parent.is_dir():
        raise DataError(f"{path.parent.parent}: not seen by every node; give --out a folder that all nodes share")
    for folder in {sample.image.parent for sample in task.samples}:
        if not folder.is_dir():
            raise DataError(f"{folder}: not seen by every node; put the raw data in a folder that all nodes share")
    return function(task)
