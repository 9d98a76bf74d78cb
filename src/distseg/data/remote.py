"""Files behind fsspec URLs: read or downloaded whole, and asked for again where that may help."""

import errno
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distseg.errors import DataError

_AGAIN = (408, 425, 429)
"""The HTTP statuses below 500 that say: later."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Retry:
    """How often to ask, and how long to wait between."""

    tries: int = 6
    first_s: float = 1.0
    """Longest wait before the second try; it doubles with each further one: 31 s in all at most."""
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, url: str, ask: Callable[[], Answer]) -> Answer:
        """What ``ask`` returns; DataError when it still fails at the last try, or fails so that another is useless."""
        jitter = random.SystemRandom()  # not the generator that a run seeds
        for number in range(1, self.tries + 1):
            try:
                return ask()
            except Exception as error:  # each fsspec file system raises its own library's
                remedy = _remedy(error)
                if remedy is not None:
                    raise DataError(f"{url}: cannot be read ({_got(error)}); {remedy}") from error
                if number == self.tries:
                    raise DataError(
                        f"{url}: cannot be read, {number} tries, last got: {_got(error)}; see whether the store is up "
                        "and its files are those that were packed, then run the command again"
                    ) from error
            # between half and all of it, so that machines that failed together do not come back together
            self.sleep(self.first_s * 2 ** (number - 1) * jitter.uniform(0.5, 1))
        raise ValueError(f"tries: got {self.tries}, want at least 1")


def read(url: str, retry: Retry) -> bytes:
    """A whole file; DataError as ``Retry`` says."""

    def ask() -> bytes:
        system, path = _reach(url)
        data: bytes = system.cat_file(path)
        return data

    return retry(url, ask)


def download(url: str, path: Path, sha256: str, retry: Retry) -> None:
    """Writes a whole file to ``path``, in place; DataError as ``Retry`` says.

    Bytes of another digest are one more failure that may pass, but not when the same ones come again.
    """
    seen = set()

    def ask() -> None:
        system, remote_path = _reach(url)
        system.get_file(remote_path, str(path))
        with open(path, "rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got in seen:
            raise ValueError(f"sha256 {got[:12]}... twice, manifest says {sha256[:12]}...")
        if got != sha256:
            seen.add(got)
            raise OSError(f"sha256 {got[:12]}..., manifest says {sha256[:12]}...")

    retry(url, ask)


def _reach(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path on it. fsspec keeps one open per process."""
    from fsspec.core import url_to_fs  # not at the top: local shards do without

    options = {}
    if url.startswith(("http://", "https://")):
        from aiohttp import ClientTimeout

        # aiohttp gives a whole download five minutes; but a dead connection is one that is silent
        options["timeout"] = ClientTimeout(total=None, sock_connect=30, sock_read=60)
    system, path = url_to_fs(url, **options)
    return system, path


def _remedy(error: Exception) -> str | None:
    """What to do about an error that stays however often one asks; None: it may pass."""
    status = getattr(error, "status" if hasattr(error, "status") else "code", 0)  # aiohttp's name for it, gcsfs's
    status = status if isinstance(status, int) else 0
    if isinstance(error, ImportError):
        return "install it beside distseg, such as pip install 'distseg[s3]' or 'distseg[gcs]'"
    # botocore's and google.auth's errors have no common root but the word
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        return "give every machine that trains the credentials to read it"
    if isinstance(error, FileNotFoundError | ValueError) or (400 <= status < 500 and status not in _AGAIN):
        return "want the URL of a folder as 'distseg data pack' made it"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the disk of the shard cache, or lower DISTSEG_SHARD_CACHE_BYTES"
    return None


def _got(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "not found"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
