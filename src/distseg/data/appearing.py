"""A folder that appears whole or not at all: it is written beside its place, then renamed."""

import fcntl
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from distseg.errors import DataError

_LOCK = ".lock"


def check_out(out: Path) -> None:
    """DataError when ``out`` exists and is not an empty folder."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; give --out a folder that does not exist yet")
    if out.is_dir() and (held := next(out.iterdir(), None)) is not None:
        raise DataError(f"{out}: not empty (holds '{held.name}'); give --out another folder or remove this one")
    if out.is_mount():
        raise DataError(f"{out}: is a mount point, which cannot appear at one stroke; give --out a folder inside it")


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder to write in, beside ``out``; on a clean exit it becomes ``out``, on an exception it is removed.

    What killed processes left there, on this machine or another that shares the folder, is removed first.
    DataError as ``check_out``, and when the folder cannot be written or cannot appear.
    """
    check_out(out)
    host = re.sub(r"\W", "-", socket.gethostname())
    aside = out.with_name(f".{out.name}.tmp-{host}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        aside.mkdir()
        lock = _locked(aside)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise DataError(f"{out}: cannot be written ({error.strerror}); give --out a folder that can") from error
    with lock:
        try:
            yield aside
            try:
                (aside / _LOCK).unlink(missing_ok=True)
                aside.replace(out)
            except OSError as error:
                raise DataError(f"{out}: cannot appear ({error.strerror}); did another process write there?") from error
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _locked(folder: Path) -> BinaryIO:
    """The folder's lock, held until it is closed; without one where the file system has no locks: nobody removes it."""
    new = folder / f"{_LOCK}.new"  # locked before it has its name: nobody finds it unlocked
    file = open(new, "wb")  # noqa: SIM115 (closed by who gets it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        new.unlink()
    else:
        new.rename(folder / _LOCK)
    return file


def _remove_leftovers(out: Path) -> None:
    name = re.compile(re.escape(f".{out.name}.tmp-") + r"[\w-]+-\d+-[0-9a-f]{8}")
    for folder in out.parent.iterdir():
        # an error: no lock (it is about to appear), held by a living owner, or somebody else's
        with suppress(OSError):
            if name.fullmatch(folder.name):
                with open(folder / _LOCK, "r+b") as lock:  # NFS locks exclusively what one may write
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
