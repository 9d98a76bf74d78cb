"""Whose turn it is to write a run's files: the process that began last, however long an earlier one lives on.

A worker on a host that was cut off does not learn that the run goes on elsewhere: it trains on, or fails once the link
is back, and would write its older checkpoints, or its failure, over the files of the one that has taken its place.
Each looks before it writes; a file that it was writing when its turn ended (milliseconds) is the last.
"""

import secrets
from pathlib import Path

from distseg import atomic
from distseg.errors import FencedError

_FILE = ".turn"


class Turn:
    """One process's turn at a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._mine = secrets.token_hex(8)
        self._taken = False

    def take(self) -> None:
        """Ends the turn of whoever wrote here before."""
        atomic.write_text(self._path, self._mine)
        self._taken = True

    @property
    def is_over(self) -> bool:
        """Another process has begun here since this one did."""
        return self._taken and self._path.read_text() != self._mine

    def check(self) -> None:
        """FencedError when it is over."""
        if self.is_over:
            raise FencedError(f"{self._path.parent}: another process goes on with this run; nothing more is written")
