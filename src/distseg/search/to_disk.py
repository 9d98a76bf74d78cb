"""Written files on their way to the disk, without waiting for it.

What a process has written outlives the process, however it is killed; only the machine's own death can take it. For
that, a thread asks for what was written to reach the disk, several times a second, while the study goes on: waiting for
it would take longer than Ray Tune takes to start a trial.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path

_EVERY_S = 0.25


class ToDisk:
    """Brings files to disk in the background."""

    def __init__(self) -> None:
        self._wanted: dict[Path, None] = {}  # in order, each once
        self._something = threading.Condition()
        self._over = False
        self._thread: threading.Thread | None = None

    def soon(self, path: Path) -> None:
        """As it is now, or later."""
        with self._something:
            self._wanted[path] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._something.notify()

    def close(self) -> None:
        """Waits until all that was asked for is done."""
        with self._something:
            thread, self._thread, self._over = self._thread, None, True
            self._something.notify()
        if thread is not None:
            thread.join()
        self._over = False

    def _work(self) -> None:
        while True:
            with self._something:
                self._something.wait_for(lambda: self._wanted or self._over)
                self._something.wait_for(lambda: self._over, timeout=_EVERY_S)  # a log that is written often: once
                if not self._wanted:
                    return
                paths, self._wanted = self._wanted, {}
            for path in paths:
                with suppress(OSError):  # replaced, or removed with its trial; a full disk shows itself when writing
                    file = os.open(path, os.O_RDONLY)
                    try:
                        os.fsync(file)
                    finally:
                        os.close(file)
