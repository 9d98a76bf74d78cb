"""A small process beside an attempt that kills the command's process group when the attempt no longer can.

The attempt may be killed (SIGKILL leaves no time to clean up) or stand still (SIGSTOP, a disk that hangs) while its
command runs on and its lease ends. The guard holds the other end of a pipe: it acts when the pipe closes, or when the
deadline passes that it was last told. Then it kills the attempt too, which may stand still with the store locked.
"""

import os
import select
import signal
import struct
import time
from contextlib import suppress

_MESSAGE = struct.Struct("qd")  # process group (0: all is over), deadline on the monotonic clock
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Guard:
    """Made before anything else, while the process has neither threads nor connections."""

    def __init__(self) -> None:
        reading, self._pipe = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._pipe)
                _watch(reading, os.getppid())
            finally:
                os._exit(0)
        os.close(reading)

    def watch(self, group: int, deadline: float) -> None:
        """From now on, kills the group at ``deadline`` (``time.monotonic()``) unless told a later one."""
        with suppress(BrokenPipeError):  # somebody killed it: the attempt goes on alone
            os.write(self._pipe, _MESSAGE.pack(group, deadline))

    def release(self) -> None:
        """The group is gone; the guard ends."""
        self.watch(0, 0.0)
        os.close(self._pipe)
        os.waitpid(self._pid, 0)


def _watch(pipe: int, attempt: int) -> None:
    os.setsid()  # away from the group that Ray kills
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    group, deadline = 0, float("inf")
    while True:
        left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([pipe], [], [], left)
        message = os.read(pipe, _MESSAGE.size) if ready else b""
        if len(message) == _MESSAGE.size:
            group, deadline = _MESSAGE.unpack(message)
            if group == 0:
                return
            continue
        if group:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if not ready and os.getppid() == attempt:
            os.kill(attempt, signal.SIGKILL)
        return
