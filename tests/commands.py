"""The real ``distseg`` command in processes of its own, and how to be sure that they are gone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

DISTSEG = [sys.executable, "-m", "distseg.cli.main"]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def distseg(home: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, with this home and no Ray but its own; it must end with ``code``."""
    done = subprocess.run(
        [*DISTSEG, *map(str, words)], env=os.environ | {"DISTSEG_HOME": str(home)}, capture_output=True, text=True
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def distseg_json(home: Path, *words: object) -> Any:
    """What a command prints with ``--json``, which must be all that it prints."""
    return json.loads(distseg(home, *words, "--json").stdout)


def start(home: Path, command: list[str], stdout: int | IO[bytes] = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """Starts a command without waiting for it; end it with ``kill``."""
    return subprocess.Popen(
        command,
        env=os.environ | {"DISTSEG_HOME": str(home)},
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )


def wait_for(happened: Callable[[], Any], process: "subprocess.Popen[bytes]", timeout_s: float = 180) -> Any:
    """What ``happened`` returns as soon as that is true; fails when the process ends before."""
    deadline = time.monotonic() + timeout_s
    while not (result := happened()):
        assert process.poll() is None, f"ended with {process.returncode} before it was to be killed"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)
    return result


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL for a process; returns when all that it had started is gone too, killed if it does not go by itself."""
    others = descendants(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while left := [pid for pid in others if parent_of(pid) is not None]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """The living processes that a living process started, directly or not."""
    parents = {int(path.name): parent_of(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found, look_at = [], [pid]
    while look_at:
        above = look_at.pop()
        below = [child for child, parent in parents.items() if parent == above]
        found += below
        look_at += below
    return found


def called(name: str, among: list[int]) -> list[int]:
    """Those of these processes whose command line begins so; Ray calls a worker after what it does."""
    found = []
    for pid in among:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if line.startswith(name):
            found.append(pid)
    return found


def parent_of(pid: int) -> int | None:
    """None when the process has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state in "ZX" else int(parent)
