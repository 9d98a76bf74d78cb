"""The page's second tab: a study's leaderboard as it is now, and its report."""

import secrets
import threading
from html import escape
from pathlib import Path

from distseg.leaderboard.board import read_board
from distseg.leaderboard.render import title_lines
from distseg.leaderboard.report import write_report
from distseg.leaderboard.report.board_table import board_html


class StudyTab:
    """Of one study; its report is written into ``folder``."""

    def __init__(self, study: Path, folder: Path) -> None:
        self.study = study
        self.token = secrets.token_urlsafe(16)
        """Whoever knows it may have the report."""
        self.report = folder / "report.html"
        self._written = 0
        self._lock = threading.Lock()

    def board(self) -> str:
        """HTML; DistsegError when the study cannot be read."""
        board = read_board(self.study)
        lines = "".join(f"<p>{escape(line)}</p>" for line, _ in title_lines(board))
        return f'<div class="board">{lines}{board_html(board)}</div>'

    def frame(self) -> str:
        """Writes the report and returns HTML that shows it; InputError, a sentence, when plotly is not installed."""
        with self._lock:
            write_report(self.study, self.report)
            self._written += 1
            source = f"report/{self.token}?{self._written}"
        return (
            f'<p class="saved"><a href="{source}" target="_blank">Open the report in a page of its own</a></p>'
            f'<iframe class="report" src="{source}" title="Report of study {escape(self.study.name)}"></iframe>'
        )
