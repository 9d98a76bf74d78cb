"""Images through a model: decoded ahead, batched by shape, finished behind; results in the order of the images.

Which images share a batch is a rule of the images alone: those of one shape among CHUNK neighbours. So a file that is
interrupted and continued, or made on many machines, is the file that one run here would have made: convolutions round
differently in batches of other sizes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from distseg.data.codec import Pixels
from distseg.predict.decode import Decoders, Unreadable
from distseg.predict.inputs import Job
from distseg.predict.segmenter import Segmenter, batch_size

CHUNK = 16
_BATCHES_AHEAD = 2  # one in the model's hands, one filled meanwhile
_FINISHERS = 2

Result = TypeVar("Result")
Run = Callable[[Sequence[Job]], Iterator[Result | Unreadable]]
"""Results of images in their order: a Pipeline here, or one on each machine of a cluster."""


@dataclass(frozen=True)
class Answer:
    """What the model says of one image."""

    job: Job
    labels: Pixels
    """(H, W) uint8."""
    probabilities: npt.NDArray[np.float32] | None
    """(C, H, W); None unless they were asked for."""
    image: Pixels | None
    """(H, W, 3) uint8 RGB; None unless it was asked for."""


class Finish(Generic[Result]):
    """Makes of an answer what is kept of it; runs in threads, and in processes on other machines."""

    wants_probabilities = False
    wants_image = False

    def __call__(self, answer: Answer) -> Result:
        raise NotImplementedError


class Pipeline(Generic[Result]):
    """Calls return results in order; an image that cannot be read is one Unreadable among them."""

    def __init__(self, segmenter: Segmenter, finish: Finish[Result], decoders: Decoders) -> None:
        self._segmenter = segmenter
        self._finish = finish
        self._decoders = decoders

    def __call__(self, jobs: Sequence[Job]) -> Iterator[Result | Unreadable]:
        """Two chunks are under way at most, so memory does not depend on the number of images."""
        with ExitStack() as stack:
            model = stack.enter_context(_Threads(1))
            finishers = stack.enter_context(_Threads(_FINISHERS))
            work = _Work(self._segmenter, self._finish, model, finishers)
            images = self._decoders([job.path for job in jobs])
            waiting: deque[list[Future[Result | Unreadable]]] = deque()
            for first in range(0, len(jobs), CHUNK):
                waiting.append(work.start(jobs[first : first + CHUNK], images))
                while len(waiting) > 1:
                    yield from (future.result() for future in waiting.popleft())
            while waiting:
                yield from (future.result() for future in waiting.popleft())


class _Work(Generic[Result]):
    """The threads of one call: this one gathers batches, one runs the model, some finish."""

    def __init__(
        self, segmenter: Segmenter, finish: Finish[Result], model: ThreadPoolExecutor, finishers: ThreadPoolExecutor
    ) -> None:
        self._segmenter = segmenter
        self._finish = finish
        self._model = model
        self._finishers = finishers
        self._room = BoundedSemaphore(_BATCHES_AHEAD)

    def start(self, chunk: Sequence[Job], images: Iterator[Pixels | Unreadable]) -> list[Future[Result | Unreadable]]:
        """Takes the chunk's images and hands on its batches; the results are there when the futures are done."""
        futures: list[Future[Result | Unreadable]] = [Future() for _ in chunk]
        gathering: dict[tuple[int, ...], _Batch[Result]] = {}
        for job, future in zip(chunk, futures, strict=True):
            image = next(images)
            if isinstance(image, Unreadable):
                future.set_result(image)
                continue
            batch = gathering.get(image.shape)
            if batch is None:
                batch = gathering[image.shape] = _Batch(image.shape, self._segmenter.channels)
            batch.add(job, future, image)
            if batch.full:
                self._hand_on(gathering.pop(image.shape))
        for batch in gathering.values():
            self._hand_on(batch)
        return futures

    def _hand_on(self, batch: "_Batch[Result]") -> None:
        self._room.acquire()
        self._model.submit(self._run, batch)

    def _run(self, batch: "_Batch[Result]") -> None:
        try:
            labels, probabilities = self._answers(batch)
        except BaseException as error:  # whatever it is, the caller gets it, from the future
            for future in batch.futures:
                future.set_exception(error)
            return
        finally:
            self._room.release()
        for place, (job, future) in enumerate(zip(batch.jobs, batch.futures, strict=True)):
            image = batch.pixels[place] if self._finish.wants_image else None
            answer = Answer(job, labels[place], None if probabilities is None else probabilities[place], image)
            self._finishers.submit(self._complete, future, answer)

    def _answers(self, batch: "_Batch[Result]") -> tuple[Pixels, npt.NDArray[np.float32] | None]:
        """Labels (B, H, W) and, when wanted, probabilities (B, C, H, W)."""
        images = torch.from_numpy(batch.pixels).permute(0, 3, 1, 2).to(self._segmenter.device)
        labels = self._segmenter.labels(images).cpu().numpy()
        if not self._finish.wants_probabilities:
            return labels, None
        return labels, self._segmenter.probabilities(images).cpu().numpy()

    def _complete(self, future: "Future[Result | Unreadable]", answer: Answer) -> None:
        try:
            future.set_result(self._finish(answer))
        except BaseException as error:  # as above
            future.set_exception(error)


class _Batch(Generic[Result]):
    """Images of one shape, copied together as they arrive."""

    def __init__(self, shape: tuple[int, ...], channels: int) -> None:
        height, width, _ = shape
        self._memory = np.empty((batch_size(height, width, channels), *shape), np.uint8)
        self.jobs: list[Job] = []
        self.futures: list[Future[Result | Unreadable]] = []

    def add(self, job: Job, future: "Future[Result | Unreadable]", image: Pixels) -> None:
        self._memory[len(self.jobs)] = image
        self.jobs.append(job)
        self.futures.append(future)

    @property
    def full(self) -> bool:
        return len(self.jobs) == len(self._memory)

    @property
    def pixels(self) -> Pixels:
        """(B, H, W, 3)."""
        return self._memory[: len(self.jobs)]


class _Threads(ThreadPoolExecutor):
    """A pool that drops what has not begun when its context ends early."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)
