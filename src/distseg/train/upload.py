"""Copies of checkpoints on remote storage, made in the background."""

import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import fsspec

from distseg.errors import TrainingError


class Uploads:
    """Copies files to an fsspec URL, one after another, while training goes on.

    A file is linked aside when it is handed over, so that the next checkpoint may replace it. Of several waiting
    versions of one file only the newest is copied. Leaving waits for the copies; a failed one is a TrainingError then,
    and never costs a step.
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
                f"train.upload={self._url}: {len(self._errors)} copies failed, first: {self._errors[0]}; "
                "the run is whole in its own folder"
            )

    def copy(self, path: Path) -> None:
        """Copies ``path`` to ``URL/NAME``; does nothing without a URL."""
        if self._url is None:
            return
        older = self._waiting.get(path.name)
        if older is not None:
            older.cancel()
        snapshot = Path(tempfile.mkdtemp(prefix=".upload-", dir=path.parent)) / path.name
        snapshot.hardlink_to(path)
        self._waiting[path.name] = self._pool.submit(self._send, snapshot)
        self._waiting[path.name].add_done_callback(lambda _: shutil.rmtree(snapshot.parent, ignore_errors=True))

    def _send(self, snapshot: Path) -> None:
        try:
            with open(snapshot, "rb") as source, fsspec.open(f"{self._url}/{snapshot.name}", "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except Exception as error:  # whatever the storage's library raises
            self._errors.append(f"{snapshot.name}: {type(error).__name__}: {error}")
