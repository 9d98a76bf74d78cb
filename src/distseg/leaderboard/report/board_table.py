"""The leaderboard as HTML tables, for the report and for the page on which a model is tried."""

import html
from itertools import groupby

from distseg.leaderboard.board import Board
from distseg.leaderboard.render import columns_of, name_of, printable
from distseg.records import Status


def board_html(board: Board) -> str:
    """Tables of the ranked trials and of those apart, best first, and what is to be said of them."""
    parts = []
    if not board.rows:
        return "<p>No trial has begun.</p>"
    if board.best is not None and board.best.tied:
        parts.append(
            "<p>= marks the trials tied with the best: the 95 % paired bootstrap interval over groups of their "
            "difference contains zero.</p>"
        )
    columns = columns_of(board, board.rows, short=False)
    places = sorted(range(len(board.rows)), key=lambda place: board.rows[place].apart or "")
    heading = "".join(
        f'<th scope="col"{_side(column.numeric)}>{html.escape(column.heading)}</th>' for column in columns
    )
    for apart, members in groupby(places, key=lambda place: board.rows[place].apart):
        lines = []
        for place in members:
            cells = "".join(f"<td{_side(column.numeric)}>{html.escape(column.cells[place])}</td>" for column in columns)
            lines.append(f"<tr{' class=best' if board.rows[place].rank == 1 else ''}>{cells}</tr>")
        if apart is not None:
            parts.append(f"<h3>Not comparable with the ranking above: {html.escape(apart)}</h3>")
        label = "Ranking" if apart is None else html.escape(f"Apart: {apart}")
        parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
            f"<thead><tr>{heading}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )
    stopped = [row for row in board.rows if row.status in (Status.FAILED, Status.INTERRUPTED)]
    if stopped:
        words = [
            f"{name_of(board, row)} {row.status.lower()}: {printable(row.reason or 'no reason recorded')}"
            for row in stopped
        ]
        parts.append("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in words) + "</ul>")
    if any(row.split_leaky for row in board.rows):
        parts.append("<p>The split is leaky: groups stand on both of its sides, so these figures flatter.</p>")
    return "\n".join(parts)


def _side(numeric: bool) -> str:
    return ' class="number"' if numeric else ""
