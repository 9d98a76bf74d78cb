"""What a probe found, and how a probe is asked that may raise or hang."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from distseg.errors import DistsegError


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"  # works, but slowly, not for everything, or not for long
    MISSING = "missing"  # optional, and not there
    ERROR = "error"  # will fail


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact, in a line."""

    name: str
    value: str
    level: Level = Level.OK
    next_step: str = ""
    """What to do about it; empty where there is nothing to do."""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Survey:
    """What one probe has to say, with what others need to know of it."""

    findings: Sequence[Finding]
    hosts: tuple[str, ...] = field(default=())
    """Addresses of the cluster's hosts, where the probe was of a cluster."""


Probe = Callable[[], Survey]


def survey(name: str, probe: Probe) -> Survey:
    """What a probe says here and now; an error is a finding called ``name``."""
    try:
        return probe()
    except DistsegError as error:
        return _failed(name, str(error), "")
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        return _failed(name, f"{type(error).__name__}: {words}", f"this probe failed: please report it ({name})")


class Asked:
    """A probe at work in a process of its own, which can be killed when it hangs: a dead file system, a driver."""

    def __init__(self, name: str, probe: Probe, timeout_s: float) -> None:
        """Starts it; ``probe`` is a function of a module, or a ``functools.partial`` of one."""
        self.name = name
        self.timeout_s = timeout_s
        spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads of whoever calls
        self._pipe, theirs = spawn.Pipe(duplex=False)
        self._process: SpawnProcess = spawn.Process(target=_answer, args=(theirs, name, probe), daemon=True)
        self._process.start()
        theirs.close()

    def answer(self) -> Survey:
        """What it found, at the latest after ``timeout_s`` from now."""
        try:
            if not self._pipe.poll(self.timeout_s):
                return _failed(self.name, f"no answer within {self.timeout_s:g} s", "it hangs; look at it by hand")
            found: Survey = self._pipe.recv()
            return found
        except EOFError:
            self._process.join(1)
            code = self._process.exitcode
            return _failed(self.name, f"the probe's process ended with {code}", "look at it by hand")
        finally:
            self._process.kill()
            self._pipe.close()


def _answer(pipe: Connection, name: str, probe: Probe) -> None:
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):  # what libraries say belongs neither into a table nor into a JSON document
        os.dup2(silence, stream)
    pipe.send(survey(name, probe))


def _failed(name: str, value: str, next_step: str) -> Survey:
    return Survey([Finding(name, value, Level.ERROR, next_step)])
