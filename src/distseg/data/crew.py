"""Who does the work on many samples: this process, others of this machine, or a cluster."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from distseg.data.processes import start_helper
from distseg.errors import DistsegError

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""
Elsewhere = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Applies a function to tasks in other processes that see the same files; results in the tasks' order."""


class Run:
    """Runs tasks here or elsewhere and counts their samples. A task has ``samples``, a sequence."""

    def __init__(self, elsewhere: Elsewhere | None, steps: int, progress: Progress | None) -> None:
        self._elsewhere = elsewhere
        self._steps = steps
        self._progress = progress
        self._done = 0

    def __call__(self, function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        """Results in the tasks' order. Steps are samples in this process, whole tasks when others do them."""
        if self._elsewhere is None:
            for task in tasks:
                yield function(task, self._advance)
            return
        for task, result in zip(tasks, self._elsewhere(function, tasks), strict=True):
            self._advance(len(task.samples))
            yield result

    def _advance(self, samples: int = 1) -> None:
        self._done += samples
        if self._progress is not None:
            self._progress(self._done, self._steps)


@contextmanager
def crew(workers: int, elsewhere: Elsewhere | None) -> Iterator[Elsewhere | None]:
    """Where tasks run: ``elsewhere``, in processes of this machine, or (None) here."""
    if elsewhere is not None or workers == 1:
        yield elsewhere
        return
    # spawn: a fork would copy the threads of whoever calls
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=start_helper)
    try:
        yield pool.map
    except BrokenProcessPool as error:
        raise DistsegError(
            "a helper process was killed (out of memory?) and nothing was written; try fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def nothing() -> None:
    """Takes the place of a count of steps where tasks run elsewhere."""
