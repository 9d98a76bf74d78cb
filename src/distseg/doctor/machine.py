"""CPUs, memory, limits, ports and clock of this machine, or of the container that this is."""

import ctypes
import os
import resource
import socket
from pathlib import Path

from distseg.doctor.finding import Finding, Level, Survey

GIB = 2**30
_MEMORY_MIN, _SHARED_MEMORY_MIN = 4 * GIB, 2 * GIB
_OPEN_FILES_MIN = 8192
_RAY_PORTS = {6379: "Ray's head", 8265: "its dashboard", 10001: "its clients"}
_NOT_SYNCHRONISED = 5
"""What adjtimex(2) returns when nobody disciplines the clock."""
_CGROUP_UNLIMITED = 2**60


def machine() -> Survey:
    """Everything of this page."""
    groups = own_cgroups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return Survey(
        [
            cpus(len(os.sched_getaffinity(0)), os.cpu_count() or 1, cpu_limit(groups)),
            memory(Path("/proc/meminfo").read_text(), memory_limit(groups)),
            shared_memory(Path("/dev/shm")),
            open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
            ports(),
            clock(),
        ]
    )


def own_cgroups(listed: Path, root: Path) -> list[Path]:
    """Folders whose limits may hold for this process: its own group's and those above it, both versions of cgroups."""
    found = []
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        _, controllers, name = line.split(":", 2)
        for controller in controllers.split(",") or [""]:
            group = root / controller / name.lstrip("/")
            top = root / controller
            found += [folder for folder in (group, *group.parents) if folder == top or top in folder.parents]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def cpu_limit(groups: list[Path]) -> float | None:
    """CPUs that the tightest of these groups grants; None: no limit."""
    limits = []
    for folder in groups:
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
    return min(limits, default=None)


def memory_limit(groups: list[Path]) -> int | None:
    """Bytes that the tightest of these groups grants; None: no limit."""
    words = [
        word for folder in groups for name in ("memory.max", "memory.limit_in_bytes") for word in _words(folder / name)
    ]
    return min((int(word) for word in words if word != "max" and int(word) < _CGROUP_UNLIMITED), default=None)


def cpus(usable: int, present: int, limit: float | None) -> Finding:
    """``usable``: by affinity; ``limit``: of the cgroup."""
    value = f"{usable} of {present}"
    if limit is None or limit >= usable:
        return Finding("CPUs", value)
    return Finding(
        "CPUs",
        f"{value}, limited to {limit:g} by the container",
        Level.WARNING,
        f"start Ray with --num-cpus {max(1, int(limit))}; keep threads and loader workers within that",
    )


def memory(meminfo: str, limit: int | None) -> Finding:
    """``meminfo``: as in /proc."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    total, free = (1024 * int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    value = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    if limit is not None and limit < total:
        value += f", limited to {limit / GIB:.1f} by the container"
        free = min(free, limit)
    if free < _MEMORY_MIN:
        return Finding(
            "memory", value, Level.WARNING, f"{_MEMORY_MIN / GIB:g} GiB free are wanted for Ray and one training"
        )
    return Finding("memory", value)


def shared_memory(folder: Path) -> Finding:
    """Batches travel through it from loader workers to the training, and objects between Ray's processes."""
    if not folder.is_dir():
        return Finding(str(folder), "none", Level.WARNING, "set data.workers=0, or mount a tmpfs there")
    size = os.statvfs(folder)
    total, free = size.f_frsize * size.f_blocks, size.f_frsize * size.f_bavail
    value = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    if free < _SHARED_MEMORY_MIN:
        return Finding(str(folder), value, Level.WARNING, "start the container with --shm-size=8g, or free some of it")
    return Finding(str(folder), value)


def open_files(soft: int, hard: int) -> Finding:
    """``ulimit -n``."""
    shown = {resource.RLIM_INFINITY: "unlimited"}
    value = f"{shown.get(soft, soft)}, at most {shown.get(hard, hard)}"
    if soft != resource.RLIM_INFINITY and soft < _OPEN_FILES_MIN:
        return Finding("open files", value, Level.WARNING, "ulimit -n 65536 before Ray starts: it keeps many sockets")
    return Finding("open files", value)


def ports() -> Finding:
    """Whether Ray's usual ports are free here."""
    taken = [port for port in _RAY_PORTS if not _can_listen(port)]
    if not taken:
        return Finding("ports", f"{', '.join(map(str, _RAY_PORTS))} free")
    value = ", ".join(f"{port} ({_RAY_PORTS[port]})" for port in taken) + " taken"
    return Finding("ports", value, Level.OK, "a Ray runs here, or something else: cluster/local.py takes other ports")


def clock() -> Finding:
    """Whether somebody disciplines it. Leases go by the store's clock; names and records by this one."""
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # all zero: only asks
    if state == _NOT_SYNCHRONISED:
        return Finding("clock", "not synchronised", Level.WARNING, "start chronyd or systemd-timesyncd")
    return Finding("clock", "synchronised" if state >= 0 else "not known")


def _can_listen(port: int) -> bool:
    with socket.socket() as here:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            here.bind(("", port))
        except OSError:
            return False
    return True


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
