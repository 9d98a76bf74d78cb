"""Files that are either the old one or the new one, never half of either."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@contextmanager
def replacing(path: Path, *, wait: bool = True) -> Iterator[BinaryIO]:
    """Opens a file aside for writing; on a clean exit it is flushed to disk and takes the name ``path``.

    Without ``wait`` the disk may get it later: safe where this process is killed, not where the machine dies.

    On an exception (a full disk included) the file aside is removed and an older ``path`` stays as it was. What a
    killed writer leaves aside, ``remove_leftovers`` finds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with open(aside, "wb") as file:
            with suppress(OSError):  # a file system without locks: its leftovers stay
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            if wait:
                os.fsync(file.fileno())
            os.replace(aside, path)  # held until it has its name
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, wait: bool = True) -> None:
    """Writes UTF-8 text atomically; ``wait`` as in ``replacing``."""
    with replacing(path, wait=wait) as file:
        file.write(text.encode())


def link_or_copy(source: Path, path: Path) -> None:
    """Gives what ``source`` is now the name ``path``, too; a copy where the file system has no hard links."""
    aside = _aside(path)
    try:
        os.link(source, aside)
    except OSError:
        with replacing(path) as target, open(source, "rb") as original:
            shutil.copyfileobj(original, target, 1 << 20)
    else:
        os.replace(aside, path)
        aside.unlink(missing_ok=True)  # stays where both names meant one file already


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers, on this host or another, left aside in ``folder``; a living one holds its file."""
    for aside in folder.glob(".*.tmp"):
        if _ASIDE.fullmatch(aside.name):
            with suppress(OSError), open(aside, "r+b") as file:  # NFS locks exclusively what one may write
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                aside.unlink()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
