"""Images decoded ahead in processes of their own, into memory that is there already.

A decoder that crashes on a file takes no run with it. Decoders load no torch: they start in a third of a second.
"""

import io
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from distseg.data.codec import Pixels
from distseg.data.processes import start_helper
from distseg.data.raw_image import HEADER_ERRORS, shown_size
from distseg.errors import BadSampleError, DataError
from distseg.predict.images import decode_image, read_bytes, read_image

_AHEAD = 2  # images under way for each decoder: one being decoded, one waiting
_NICENESS = 10
"""On a CPU the model's threads wait for one another, spinning, while a decoder has the core of one of them; decoders
are ahead of the model anyway. Submissions on two cores ran 1.1 times as fast with a small network, 1.01 with a large.
"""
_PROBED = 32  # headers looked at to choose the size of a slot
_SLOT_BYTES_MIN, _SLOT_BYTES_MAX = 1 << 20, 100 << 20


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be used."""

    path: Path
    reason: str
    """One line that begins with the path."""


class Decoders:
    """A context in which images are decoded ahead, in order, by so many processes; by this one when there are none.

    An image too large for a slot (100 MB at most) is decoded here when its turn comes, so never two at once.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._slots: Any = None
        self._slot_bytes = 0
        self._helpers: list[_Helper] = []

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for helper in self._helpers:
            helper.stop()
        self._helpers = []

    def __call__(self, paths: Sequence[Path]) -> Iterator[Pixels | Unreadable]:
        """(H, W, 3) uint8 RGB of each image in order; the pixels are valid until the next image is asked for."""
        if not self._processes:
            yield from map(_decoded_here, paths)
            return
        self._start(paths)
        pixels = np.frombuffer(self._slots, np.uint8).reshape(-1, self._slot_bytes)
        todo = zip(count(), paths, strict=False)
        for _ in range(len(pixels) - 1):  # one slot is in the caller's hands
            self._send(todo, len(pixels))
        for number, path in enumerate(paths):
            helper = self._helpers[number % len(self._helpers)]
            answer = helper.next()
            if answer is None:
                answer = Unreadable(path, f"{path}: its decoder crashed; remove or replace the file")
            if isinstance(answer, Unreadable):
                yield answer
            elif not answer:
                yield _decoded_here(path)
            else:
                height, width = answer
                yield pixels[number % len(pixels), : height * width * 3].reshape(height, width, 3)
            self._send(todo, len(pixels))

    def _send(self, todo: Iterator[tuple[int, Path]], slots: int) -> None:
        for number, path in todo:
            self._helpers[number % len(self._helpers)].ask(path, number % slots)
            return

    def _start(self, paths: Sequence[Path]) -> None:
        if self._helpers:  # drop what a caller that stopped early left under way
            for helper in self._helpers:
                helper.drain()
            return
        spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of whoever calls
        self._slot_bytes = _slot_bytes(paths[:_PROBED])
        # one block: its size is compared with the room in /dev/shm, and it goes elsewhere if that is too small
        self._slots = spawn.RawArray("B", self._slot_bytes * (_AHEAD * self._processes + 1))
        self._helpers = [_Helper(self._slots, self._slot_bytes) for _ in range(self._processes)]


class _Helper:
    """One process, what it was asked for and has not answered, and a new process when it dies."""

    def __init__(self, slots: Any, slot_bytes: int) -> None:
        self._slots, self._slot_bytes = slots, slot_bytes
        self._asked: deque[tuple[Path, int]] = deque()
        self._start()

    def ask(self, path: Path, slot: int) -> None:
        self._asked.append((path, slot))
        self._tell((path, slot))

    def next(self) -> Any:
        """The answer to the oldest question: (height, width), () when too large, Unreadable; None: it died of it."""
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            self.stop()
            self._asked.popleft()
            self._start()
            for question in self._asked:
                self._tell(question)
            return None
        self._asked.popleft()
        return answer

    def drain(self) -> None:
        while self._asked:
            self.next()

    def stop(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def _tell(self, question: tuple[Path, int]) -> None:
        try:
            self._connection.send(question)
        except OSError:
            return  # it died: `next` finds that out

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process: BaseProcess = spawn.Process(
            target=_answer, args=(theirs, self._slots, self._slot_bytes), daemon=True
        )
        self._process.start()
        theirs.close()


def _answer(connection: Connection, slots: Any, slot_bytes: int) -> None:
    """The life of a decoder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the starter's business
    os.nice(_NICENESS)
    start_helper()
    memory = np.frombuffer(slots, np.uint8).reshape(-1, slot_bytes)
    while True:
        try:
            path, slot = connection.recv()
        except EOFError:
            return
        connection.send(_decode_into(memory[slot], path))


def _decode_into(memory: Pixels, path: Path) -> tuple[int, ...] | Unreadable:
    try:
        data = read_bytes(path)
        if _declared_bytes(data) > memory.size:
            return ()
        image = decode_image(data, path)
    except DataError as error:
        return Unreadable(path, str(error))
    if image.size > memory.size:
        return ()
    memory[: image.size] = image.reshape(-1)
    return image.shape[0], image.shape[1]


def _declared_bytes(data: bytes) -> int:
    try:
        with Image.open(io.BytesIO(data)) as header:
            return header.width * header.height * 3
    except HEADER_ERRORS:
        return 0  # OpenCV may know the format; if not, it says so


def _decoded_here(path: Path) -> Pixels | Unreadable:
    try:
        return read_image(path)
    except DataError as error:
        return Unreadable(path, str(error))


def _slot_bytes(paths: Sequence[Path]) -> int:
    """Enough for each of these images, within limits."""
    needed = _SLOT_BYTES_MIN
    for path in paths:
        try:
            width, height = shown_size(path)
        except BadSampleError:
            continue
        needed = max(needed, width * height * 3)
    return min(needed, _SLOT_BYTES_MAX)
