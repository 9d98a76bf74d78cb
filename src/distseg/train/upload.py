"""Copies of checkpoints on remote storage, made in the background."""

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import fsspec

from distseg.errors import TrainingError


class Uploads:
    """Copies files to an fsspec URL, one after another, while training goes on.

    A file is opened when it is handed over: what is open stays what it was when the next checkpoint takes its name. Of
    several waiting versions of one file only the newest is copied. Leaving waits for the copies; a failed one is a
    TrainingError then, and never costs a step.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._pool = ThreadPoolExecutor(1)
        self._waiting: dict[str, Future[None]] = {}
        self._errors: list[str] = []

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if self._errors and kind is None:
            raise TrainingError(
                f"train.upload: {len(self._errors)} copies to {self._url} failed, first: {self._errors[0]}; "
                "the run is whole in its own folder"
            )

    def copy(self, path: Path) -> None:
        """Copies ``path`` to ``URL/NAME``; does nothing without a URL."""
        if self._url is None:
            return
        older = self._waiting.get(path.name)
        if older is not None:
            older.cancel()
        source = open(path, "rb")  # noqa: SIM115 (closed when its copy is made, or given up for a newer one)
        self._waiting[path.name] = self._pool.submit(self._send, source, path.name)
        self._waiting[path.name].add_done_callback(lambda _: source.close())

    def _send(self, source: BinaryIO, name: str) -> None:
        try:
            with fsspec.open(f"{self._url}/{name}", "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except Exception as error:  # whatever the storage's library raises
            self._errors.append(f"{name}: {type(error).__name__}: {error}")
