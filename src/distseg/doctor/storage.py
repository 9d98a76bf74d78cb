"""The home: there, writable, large enough, with locks, and seen by all hosts of the cluster."""

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from distseg.doctor.finding import Finding, Level, Survey
from distseg.home import Home

GIB = 2**30
_FREE_WARNING, _FREE_ERROR = 10 * GIB, GIB
_SKEW_MAX_S = 2.0  # some file systems keep whole seconds
_SHARED = ("nfs", "cifs", "smb", "lustre", "ceph", "glusterfs", "gpfs", "beegfs", "afs", "wekafs", "9p", "virtiofs")
_OVER_NETWORK = ("fuse.",)  # sshfs, s3fs, juicefs and others; fuse cannot tell which
_FLEETING = ("tmpfs", "ramfs")


def storage(root: str | None, hosts: Sequence[str] = ()) -> Survey:
    """The home at ``root`` (None: the default). ``hosts``: of the cluster that is to see it. Nothing is left behind."""
    home = Home.from_environment(root)
    there = next(folder for folder in (home.root, *home.root.parents) if folder.is_dir())
    found = [_writable(home.root, there)]
    if found[0].level is Level.ERROR:
        return Survey(found)
    kind = file_system(there, Path("/proc/self/mountinfo").read_text())
    return Survey([*found, space(there), sharing(kind, hosts), *_locks_and_clock(there)])


def file_system(folder: Path, mountinfo: str) -> str:
    """Kind of the file system that holds a folder, by ``/proc/self/mountinfo``."""
    best, kind = Path(), "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        if (folder == point or point in folder.parents) and len(point.parts) >= len(best.parts):
            best, kind = point, after.split()[0]
    return kind


def sharing(kind: str, hosts: Sequence[str]) -> Finding:
    """Whether a home on this kind of file system serves these hosts."""
    name = "home's file system"
    if kind.startswith(_FLEETING):
        return Finding(name, kind, Level.WARNING, "it is lost at the next restart: set DISTSEG_HOME to a disk")
    if kind == "overlay":
        return Finding(
            name, kind, Level.WARNING, "it is lost with this container: mount a volume, set DISTSEG_HOME to it"
        )
    if kind.startswith(_SHARED):
        return Finding(name, f"{kind}, which hosts share")
    if kind.startswith(_OVER_NETWORK):
        return Finding(
            name, kind, Level.WARNING, "make sure that it has locks and that renames are atomic over all hosts"
        )
    if len(hosts) > 1:
        step = "all nodes must see the home: set DISTSEG_HOME to a shared folder, unless others mount this one"
        return Finding(name, f"{kind}, of this host; the cluster has {len(hosts)}", Level.WARNING, step)
    return Finding(name, f"{kind}, of this host")


def space(folder: Path) -> Finding:
    """Room for checkpoints, caches and logs."""
    size = os.statvfs(folder)
    free = size.f_frsize * size.f_bavail
    value = f"{free / GIB:.1f} GiB"
    if free < _FREE_WARNING:
        level = Level.ERROR if free < _FREE_ERROR else Level.WARNING
        return Finding("home's free space", value, level, "make room: runs keep checkpoints, and a full disk ends them")
    return Finding("home's free space", value)


def _writable(root: Path, there: Path) -> Finding:
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("home", f"{root}, not writable", Level.ERROR, f"give yourself {there}, or set DISTSEG_HOME")
    value = str(root) if root == there else f"{root}, to be made at its first use"
    return Finding("home", value)


def _locks_and_clock(folder: Path) -> list[Finding]:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file, open(file.name, "rb+") as other:
            skew = os.fstat(file.fileno()).st_mtime - time.time()
            return [_locks(file.fileno(), other.fileno()), _clock(skew)]
    except OSError as error:
        step = f"give yourself {folder}, or set DISTSEG_HOME"
        return [Finding("home's locks", f"no file can be made: {error.strerror}", Level.ERROR, step)]


def _locks(one: int, other: int) -> Finding:
    step = "records and the queue need flock: mount it with locks, or set DISTSEG_HOME to another file system"
    try:
        fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding("home's locks", f"flock fails: {error.strerror}", Level.ERROR, step)
    with suppress(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Finding("home's locks", "two holders of one lock at once", Level.ERROR, step)
    return Finding("home's locks", "flock works")


def _clock(skew_s: float) -> Finding:
    if abs(skew_s) > _SKEW_MAX_S:
        return Finding("home's clock", f"{skew_s:+.0f} s from ours", Level.WARNING, "synchronise both with NTP")
    return Finding("home's clock", "agrees with ours")
