"""Work on a Ray cluster by actors that hold a model: results in order, the part of a lost node done again.

All nodes see the same files. Actors that die are replaced as long as a part does not kill each that takes it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from distseg.data.cache import ShardCache
from distseg.errors import DistsegError
from distseg.on_ray.session import check_workers, cluster_total, cpus_beside_a_gpu, session
from distseg.predict.decode import Decoders, Unreadable
from distseg.predict.evaluate import Counted, Evaluator, Part
from distseg.predict.inputs import Job
from distseg.predict.pipeline import CHUNK, Finish, Pipeline, Run
from distseg.predict.segmenter import Recipe, Segmenter

Result = TypeVar("Result")

_PORTION = 4 * CHUNK  # images handed to an actor at once; whole chunks, so batches are those of one run here
_AHEAD = 2  # parts done or under way for each actor, beyond the first that is not done
_DEATHS_MAX = 3
_CPUS_MAX = 16  # decoders beyond that wait for the GPU


@dataclass(frozen=True)
class PortionWorker(Generic[Result]):
    """What an actor makes of a recipe: portions of images to results. It is made anew on each node."""

    recipe: Recipe
    finish: Finish[Result]

    def __call__(self) -> Callable[[Sequence[Job]], list[Result | Unreadable]]:
        import ray

        cpus = ray.get_runtime_context().get_assigned_resources()["CPU"]  # type: ignore[no-untyped-call]
        pipeline = Pipeline(Segmenter.open(self.recipe), self.finish, Decoders(int(cpus)))
        return lambda jobs: list(pipeline(jobs))


@contextmanager
def pipelines(recipe: Recipe, finish: Finish[Result], workers: int) -> Iterator[Run[Result]]:
    """A Pipeline spread over so many actors of the Ray at RAY_ADDRESS, or of one that is started and ended here."""

    def run(jobs: Sequence[Job]) -> Iterator[Result | Unreadable]:
        portions = [jobs[first : first + _PORTION] for first in range(0, len(jobs), _PORTION)]
        return chain.from_iterable(spread(PortionWorker(recipe, finish), portions, workers))

    with session():
        yield run


@contextmanager
def evaluators(
    recipe: Recipe, data: Path | str, split: str, cache: ShardCache, workers: int
) -> Iterator[Callable[[Sequence[Part]], Iterator[Counted]]]:
    """Parts of a split counted by so many actors of the Ray at RAY_ADDRESS, or of one started and ended here."""
    with session():
        yield lambda parts: spread(partial(Evaluator, recipe, data, split, cache), parts, workers)


def spread(make: Callable[[], Callable[[Any], Any]], tasks: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results of ``make()(task)`` in the tasks' order, by as many actors.

    An actor takes a CPU; where the cluster has GPUs, one of them with its share of its node's CPUs, which feed it.

    ClusterError when the cluster can never hold them; what ``make`` or a task raises on purpose is raised here.
    DistsegError when a part is lost with its actor three times.
    """
    if not tasks:
        return
    gpus = 1 if cluster_total("GPU") >= 1 else 0
    cpus = max(1, min(int(cpus_beside_a_gpu()), _CPUS_MAX)) if gpus else 1
    check_workers(workers, cpus, gpus)
    crew = _Crew(make, cpus, gpus, min(workers, len(tasks)))
    try:
        yield from crew.run(tasks)
    finally:
        crew.end()


class _Actor:
    """Lives on a node; opens its models once."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make
        self._work: Callable[[Any], Any]

    def open(self) -> None:
        import cv2

        cv2.setNumThreads(0)  # actors are the parallelism
        self._work = self._make()

    def run(self, task: Any) -> Any:
        return self._work(task)


@dataclass
class _Crew:
    make: Callable[[], Callable[[Any], Any]]
    cpus: int
    gpus: int
    size: int
    opening: dict[Any, Any] = field(default_factory=dict)  # reference -> actor
    running: dict[Any, tuple[Any, int]] = field(default_factory=dict)  # reference -> (actor, number of its task)
    idle: list[Any] = field(default_factory=list)

    def run(self, tasks: Sequence[Any]) -> Iterator[Any]:
        import ray

        for _ in range(self.size):
            self._hire()
        todo = deque(range(len(tasks)))
        deaths = [0] * len(tasks)
        failed_starts = 0
        done: dict[int, Any] = {}
        for wanted in range(len(tasks)):
            while wanted not in done:
                while self.idle and todo and todo[0] < wanted + _AHEAD * self.size:
                    actor, number = self.idle.pop(), todo.popleft()
                    self.running[actor.run.remote(tasks[number])] = actor, number
                [reference], _ = ray.wait([*self.opening, *self.running], num_returns=1)
                if reference in self.opening:
                    actor = self.opening.pop(reference)
                    lost = _lost(reference)
                    failed_starts = failed_starts + 1 if lost else 0
                    _give_up_after(failed_starts, "an actor cannot start", lost)
                    if not lost:
                        self.idle.append(actor)
                else:
                    actor, number = self.running.pop(reference)
                    lost = _lost(reference, done, number)
                    if lost:
                        todo.appendleft(number)
                        todo = deque(sorted(todo))
                        deaths[number] += 1
                        _give_up_after(deaths[number], f"part {number + 1} of {len(tasks)} was lost", lost)
                    else:
                        self.idle.append(actor)
                if lost:
                    self._dismiss(actor)
                    self._hire()
            yield done.pop(wanted)

    def end(self) -> None:
        for actor in [*self.opening.values(), *(actor for actor, _ in self.running.values()), *self.idle]:
            self._dismiss(actor)

    def _hire(self) -> None:
        import ray

        remote: Any = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)(_Actor)
        actor = remote.remote(self.make)
        self.opening[actor.open.remote()] = actor

    def _dismiss(self, actor: Any) -> None:
        import ray

        ray.kill(actor)


def _lost(reference: Any, results: dict[int, Any] | None = None, number: int = 0) -> str:
    """Why the actor, or its result, is lost; "" when it answered, which goes to ``results``."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        result = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, DistsegError):
            raise error.cause from None  # without Ray's, which holds the whole traceback of the other process
        raise
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[-1 if "creation task" in lines[0] else 0]  # of a traceback the last line says what it is
    if results is not None:
        results[number] = result
    return ""


def _give_up_after(times: int, what: str, reason: str) -> None:
    if times >= _DEATHS_MAX:
        raise DistsegError(f"{what} {times} times ({reason}); look at the memory of the nodes, or use fewer --workers")
