"""``leaderboard --watch``: the board on stderr while its studies run; live on a terminal, a line an event elsewhere."""

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distseg.leaderboard.board import Board, BoardReader
    from distseg.leaderboard.select import Filters

REFRESH_S = 1.0
_QUIET_S = 60.0  # with nothing running: the end of a study that a budget of hours ended, or that was interrupted
_SILENT_S = 900.0  # with trials that say they run: their driver is dead


def watch(reader: "BoardReader", filters: "Filters") -> "Board":
    """Shows the board until its studies have ended, nothing happens any more, or Ctrl-C; returns the last one."""
    return _live(reader, filters) if sys.stderr.isatty() else _plain(reader)


class _Pulse:
    """Whether there is still something to wait for."""

    def __init__(self) -> None:
        self._last: object = None
        self._since = time.monotonic()
        self.ended = ""
        """Why there is not; empty while there is."""

    def beats(self, board: "Board") -> bool:
        """Looks once."""
        from distseg.leaderboard.live import over, running

        at_work = running(board)
        now = board, [run.progress for run in at_work]
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        quiet_s = time.monotonic() - self._since
        if over(board):
            self.ended = "all trials have ended"
        elif not at_work and quiet_s > _QUIET_S:
            self.ended = f"no trial runs and nothing has happened for {quiet_s:.0f} s"
        elif quiet_s > _SILENT_S:
            self.ended = f"nothing has happened for {quiet_s:.0f} s; is the process that searches still there?"
        return not self.ended


def _live(reader: "BoardReader", filters: "Filters") -> "Board":
    from rich.console import Console
    from rich.live import Live

    from distseg.leaderboard.live import live_text, ranks, running

    console = Console(stderr=True)
    pulse = _Pulse()
    board = reader.read()
    before = now = ranks(board)
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while pulse.beats(board):
                if ranks(board) != now:
                    before, now = now, ranks(board)  # moves stay until the next one
                text = live_text(board, running(board), before, console.width, console.height, filters)
                live.update(text, refresh=True)
                time.sleep(REFRESH_S)
                board = reader.read()
    except KeyboardInterrupt:  # the usual way to leave; the studies go on
        pulse.ended = "left by Ctrl-C; the study goes on"
    console.print(f"watch: {pulse.ended}", style="dim")
    return board


def _plain(reader: "BoardReader") -> "Board":
    from distseg.leaderboard.live import news

    pulse = _Pulse()
    earlier, board = None, reader.read()
    while pulse.beats(board):
        for line in news(board, earlier):
            _say(line)
        time.sleep(REFRESH_S)
        earlier, board = board, reader.read()
    for line in news(board, earlier):
        _say(line)
    _say(f"watch: {pulse.ended}")
    return board


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {line}", file=sys.stderr, flush=True)
