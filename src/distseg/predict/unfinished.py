"""What a submission has so far, in a file beside it: whoever is interrupted goes on from there.

The first line says of what (models, options, images); each other line holds the run lengths of one chunk of images,
with size and time of change of their files, and why images among them could not be read. A line is there whole or not
at all: a torn last one is dropped.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from distseg.errors import InputError
from distseg.predict.inputs import Job

Runs = tuple[str, ...]
"""Of one image, the run lengths of its rows."""


class Unfinished:
    """A context that holds the file open; another process that opens it is told to wait, where files can be locked.

    ``begun_anew``: there was one, of other models, options or images.
    """

    def __init__(
        self,
        out: Path,
        identity: Mapping[str, Any],
        chunks: Sequence[Sequence[Job]],
        *,
        empty_if_unreadable: bool = False,
    ) -> None:
        """Chunks with an image that could not be read are missing again, unless ``empty_if_unreadable``."""
        self.path = out.with_name(f".{out.name}.unfinished")
        self.begun_anew = False
        self._out = out
        self._chunks = chunks
        self._header = json.dumps({"distseg": "unfinished submission", **identity}, sort_keys=True).encode() + b"\n"
        self._empty_if_unreadable = empty_if_unreadable
        self._places = np.full(len(chunks), -1, np.int64)  # where each chunk's line begins
        self._unreadable: dict[int, Sequence[str]] = {}  # by chunk
        self._read_chunk: tuple[int, list[list[str]]] = (-1, [])
        self._file: BinaryIO

    def __enter__(self) -> "Unfinished":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise InputError(f"{self._out}: another process is writing it; wait for its end") from error
        except OSError:
            pass  # a file system without locks: nobody is kept from writing at the same time
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def missing(self) -> list[int]:
        """Numbers of the chunks that are not there yet."""
        return [int(number) for number in np.flatnonzero(self._places < 0)]

    @property
    def unreadable(self) -> list[str]:
        """Why images could not be read, of the chunks that are there, in the images' order."""
        return [reason for _, reasons in sorted(self._unreadable.items()) for reason in reasons]

    def add(self, number: int, rows: Sequence[Runs], unreadable: Sequence[str]) -> None:
        """The run lengths of a chunk's images, and why some could not be read; both survive this process."""
        line = json.dumps([number, [_state(job) for job in self._chunks[number]], rows, unreadable]).encode() + b"\n"
        self._places[number] = self._file.seek(0, os.SEEK_END)
        self._unreadable[number] = unreadable
        self._file.write(line)
        self._file.flush()

    def rows(self) -> Iterator[tuple[Job, Runs]]:
        """Every image with its run lengths, in order; all chunks are there."""
        return map(self.row, range(sum(map(len, self._chunks))))

    def row(self, image: int) -> tuple[Job, Runs]:
        """One image with its run lengths; quick for images that are neighbours."""
        number, place = divmod(image, len(self._chunks[0]))  # all chunks but the last are equally long
        if number != self._read_chunk[0]:
            self._file.seek(int(self._places[number]))
            self._read_chunk = number, json.loads(self._file.readline())[2]
        return self._chunks[number][place], tuple(self._read_chunk[1][place])

    def remove(self) -> None:
        """Once the submission stands in its place."""
        self.path.unlink()

    def _read(self) -> None:
        self._file.seek(0)
        header = self._file.readline()
        if header != self._header:
            self.begun_anew = header.endswith(b"\n")
            self._file.truncate(0)
            self._file.write(self._header)
            self._file.flush()
            return
        place = self._file.tell()
        for line in iter(self._file.readline, b""):
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                break
            number, states, _, unreadable = json.loads(line)
            unchanged = states == [_state(job) for job in self._chunks[number]]
            if unchanged and (self._empty_if_unreadable or not unreadable):
                self._places[number] = place
                self._unreadable[number] = unreadable
            place += len(line)


def _state(job: Job) -> list[int]:
    """Size and time of change of an image's file; zeros when it is gone."""
    try:
        stat = job.path.stat()
    except OSError:
        return [0, 0]
    return [stat.st_size, stat.st_mtime_ns]
