"""Copies of remote shards on a node, shared by all its processes: each downloaded once, the oldest leave first.

A copy is named by the sha256 of its bytes, so trials and data sets share it and a name is never wrong. The file itself
carries the lock (``flock``): shared while somebody reads it, exclusive while it is downloaded (as ``NAME.part``) or
evicted. The kernel drops a killed process's locks, and what it left half-way is overwritten or evicted.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from distseg.data import remote
from distseg.data.remote import Retry
from distseg.errors import DataError
from distseg.home import Home

_OURS = re.compile(r"[0-9a-f]{64}(\.part)?")  # whatever else lies in the folder stays


@dataclass(frozen=True)
class ShardCache:
    """A folder of copies."""

    folder: Path
    """On the node's own disk; on a file system that nodes share (with ``flock``) they share the copies."""
    bytes_max: int
    """Copies leave, least recently opened first, before this is passed. Those that are open stay whatever it says, and
    processes that download at the same moment may pass it until they are done."""
    retry: Retry = field(default_factory=Retry)

    @classmethod
    def of(cls, home: Home) -> "ShardCache":
        return cls(home.shard_cache, home.shard_cache_bytes)

    def open(self, url: str, sha256: str, size: int = 0) -> int:
        """A file descriptor of the copy of a file of this digest, downloaded first where there is none.

        The copy stays until the descriptor is closed. ``size``: its bytes, for which to make room. One process
        downloads and the others wait for it. DataError when the file cannot be had, or the folder cannot be used.
        """
        kept = self.folder / sha256
        try:
            while True:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = _lock(kept, os.O_RDONLY, fcntl.LOCK_SH)
                if file is None:
                    file = self._download(url, sha256, size)
                if file is not None:
                    _touch(file)
                    return file
        except OSError as error:
            raise self._unusable(error) from error

    def drop_if_damaged(self, sha256: str) -> None:
        """Removes a copy whose bytes are no longer those of its name, so that the next to open it downloads it."""
        kept = self.folder / sha256
        with suppress(OSError):
            with kept.open("rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            if not intact:
                kept.unlink()

    @contextmanager
    def fresh(self) -> Iterator["ShardCache"]:
        """An empty cache for a while, on the same disk: what is opened through it comes from the store."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = TemporaryDirectory(prefix="fresh-", dir=self.folder)
        except OSError as error:
            raise self._unusable(error) from error
        with aside as folder:
            yield replace(self, folder=Path(folder))

    def _unusable(self, error: OSError) -> DataError:
        return DataError(
            f"{self.folder}: cannot hold copies of remote shards ({error.strerror}); "
            "set DISTSEG_SHARD_CACHE to a folder on this machine's disk"
        )

    def _download(self, url: str, sha256: str, size: int) -> int | None:
        """The new copy under a shared lock; None when another process was at it, and has ended one way or the other."""
        kept, part = self.folder / sha256, self.folder / f"{sha256}.part"
        file = _lock(part, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file is None:
            waited = _lock(part, os.O_RDONLY, fcntl.LOCK_SH)
            if waited is not None:
                os.close(waited)
            return None
        mine = False
        try:
            try:
                if kept.exists():  # since we looked
                    part.unlink()
                    return None
                self._make_room(size)
                remote.download(url, part, sha256, self.retry)
                os.fsync(file)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            os.replace(part, kept)
            fcntl.flock(file, fcntl.LOCK_SH)
            self._make_room(0)  # for what others downloaded meanwhile
            mine = _names(kept, file)  # taking a weaker lock is not atomic: it may have been evicted
            return file if mine else None
        finally:
            if not mine:
                os.close(file)

    def _make_room(self, size: int) -> None:
        """Removes copies that nobody uses until ``size`` more bytes fit."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    with suppress(FileNotFoundError):  # evicted by another process
                        stat = entry.stat()
                        found.append((stat.st_mtime_ns, stat.st_size, Path(entry.path)))
        excess = sum(held for _, held, _ in found) + size - self.bytes_max
        for _, held, path in sorted(found):
            if excess <= 0:
                break
            if _evict(path):
                excess -= held


def _lock(path: Path, flags: int, lock: int) -> int | None:
    """Opens a file and locks it; None when it does not exist or, with LOCK_NB, is locked by somebody else.

    While one waits, the file may lose its name to another one or altogether: then all is done again.
    """
    while True:
        try:
            file = os.open(path, flags, 0o644)
        except FileNotFoundError:
            return None
        held = False
        try:
            fcntl.flock(file, lock)
            held = _names(path, file)
        except BlockingIOError:
            return None
        finally:
            if not held:
                os.close(file)
        if held:
            return file


def _names(path: Path, file: int) -> bool:
    """Whether ``path`` is still the name of an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _evict(path: Path) -> bool:
    """Removes a file unless somebody uses it, or it is another user's."""
    try:
        file = _lock(path, os.O_RDWR, fcntl.LOCK_EX | fcntl.LOCK_NB)  # NFS locks exclusively what one may write
        if file is None:
            return False
        try:
            path.unlink()
        finally:
            os.close(file)
    except PermissionError:
        return False
    return True


def _touch(file: int) -> None:
    now = time.time_ns()  # the kernel's own is some milliseconds coarse
    with suppress(PermissionError):  # another user's
        os.utime(file, ns=(now, now))
