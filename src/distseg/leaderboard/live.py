"""A board while its studies run: what moved, how far each running trial is, how long it may take."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from distseg.leaderboard.board import Board
from distseg.leaderboard.render import (
    ALL,
    STYLES,
    Column,
    aligned,
    columns_of,
    figure,
    fitting,
    name_of,
    place_of,
    printable,
    title_lines,
)
from distseg.leaderboard.select import Filters
from distseg.records import PROGRESS_FILE, LeaderboardRow, Progress, Status

_BAR = 16
_SILENT_S = 30.0  # a run tells its progress every second, but not while it validates

Ranks = dict[str, int]
"""Trial, by study and id -> its rank."""


@dataclass(frozen=True)
class Running:
    """A trial at work."""

    row: LeaderboardRow
    progress: Progress | None
    """None before its first step."""
    silent_s: float
    """Since it last told its progress; 0 before the first time."""


def running(board: Board) -> list[Running]:
    """The trials at work, in the order of their names, as their ``progress.json`` say now."""
    found = []
    for row in sorted(board.rows, key=_key):
        if row.status is Status.RUNNING:
            path = Path(row.folder) / PROGRESS_FILE
            silent_s = time.time() - path.stat().st_mtime if path.exists() else 0.0
            found.append(Running(row, Progress.load(path.parent), max(0.0, silent_s)))
    return found


def ranks(board: Board) -> Ranks:
    """Who is ranked where."""
    return {_key(row): row.rank for row in board.rows if row.rank is not None}


def over(board: Board) -> bool:
    """Whether all trials that were planned have ended."""
    return len(board.rows) >= board.trials_planned and all(row.status.finished for row in board.rows)


def seconds_left(board: Board, at_work: Sequence[Running]) -> float | None:
    """An estimate: trials yet to start take as long as those that ended did, as many at once as now run.

    None before a trial has ended, or while none runs. A budget of hours or a target may end a study earlier.
    """
    ended = [row.seconds for row in board.rows if row.status.finished and row.seconds > 0]
    if not ended or not at_work:
        return None
    usual = sum(ended) / len(ended)
    to_come = max(0, board.trials_planned - sum(row.status.finished for row in board.rows) - len(at_work))
    told = [None if run.progress is None else run.progress.seconds_left for run in at_work]
    rests = [usual if rest is None else rest for rest in told]
    return max(*rests, (sum(rests) + to_come * usual) / len(at_work)) if to_come else max(rests)


def live_text(
    board: Board, at_work: Sequence[Running], before: Ranks, width: int, height: int, filters: Filters = ALL
) -> Text:
    """A screen of ``width`` x ``height`` characters: totals, the trials at work, and as much of the board as fits.

    ``before``: the ranks to tell moves from.
    """
    lines = [*title_lines(board), (_totals(board, at_work), "")]
    if at_work:
        lines += [("", ""), *_running_table(board, at_work, width)]
    lines.append(("", ""))
    failed = [row for row in board.rows if row.status is Status.FAILED]
    if failed:
        why = f"{name_of(board, failed[-1])} failed: {printable(failed[-1].reason or 'no reason recorded')}"
        lines.insert(3, (why, STYLES[Status.FAILED]))
    rows = filters.select(board.rows)
    if rows:
        room = max(3, height - len(lines) - 2)
        lines += _board_table(board, rows, before, width, room)
    text = Text(no_wrap=True, overflow="ellipsis")
    for line, style in lines[:height]:
        text.append(line + "\n", style)
    text.rstrip()
    return text


def news(board: Board, earlier: Board | None) -> list[str]:
    """What happened between two looks at a board, a plain line each; without an earlier one, nothing is news."""
    if earlier is None:
        return []
    then = {_key(row): row for row in earlier.rows}
    places = ranks(earlier)
    lines = []
    for row in sorted(board.rows, key=_key):
        old, name = then.get(_key(row)), f"trial {name_of(board, row)}"
        if old is None or (old.status is Status.PENDING and row.status is Status.RUNNING):
            lines.append(f"{name}  {row.status.lower()}")
        if row.epochs > (old.epochs if old else 0):
            scored = f"{board.metric} {figure(row.metrics.get(board.metric))}"
            words = [f"{name}  epoch {row.epochs}/{row.epochs_planned}", scored]
            if row.rank is not None:
                place = places.get(_key(row))
                was = "" if place is None or place == row.rank else f" (was {place})"
                words.append(f"rank {place_of(row)}{was}")
            lines.append("  ".join(words))
        if row.status.finished and (old is None or not old.status.finished):
            lines.append(f"{name}  {row.status.lower()}" + (f": {printable(row.reason)}" if row.reason else ""))
    return lines


def _totals(board: Board, at_work: Sequence[Running]) -> str:
    words = []
    if board.best is not None:
        words.append(f"Best so far {figure(board.best.metrics.get(board.metric))} ({name_of(board, board.best)})")
    ended = sum(row.status.finished for row in board.rows)
    words.append(f"{ended} of {board.trials_planned} ended, {len(at_work)} running")
    if (left := seconds_left(board, at_work)) is not None:
        words.append(f"about {_clock(left)} left")
    gpu_hours = sum(row.gpu_hours for row in board.rows)
    if gpu_hours:
        energy_wh = sum(row.energy_wh for row in board.rows)
        words.append(f"{gpu_hours:.1f} GPU hours" + (f", {energy_wh / 1000:.2f} kWh" if energy_wh else ""))
    return "; ".join(words)


def _running_table(board: Board, at_work: Sequence[Running], width: int) -> list[tuple[str, str]]:
    def of(heading: str, cells: Sequence[str], numeric: bool = True) -> Column:
        return Column(heading, tuple(cells), numeric)

    told = [run.progress for run in at_work]
    gpu = [_gpu(progress) for progress in told]
    columns = [
        of("running", [name_of(board, run.row) for run in at_work], numeric=False),
        of("epoch", ["-" if p is None else f"{p.epoch}/{p.epochs}" for p in told]),
        of("progress", [_bar(p) for p in told], numeric=False),
        of("left", ["-" if p is None or p.seconds_left is None else _clock(p.seconds_left) for p in told]),
        of("loss", ["-" if p is None else f"{p.loss:.4f}" for p in told]),
        of("images/s", ["-" if p is None else f"{p.images_per_s:.1f}" for p in told]),
        *[of(heading, [row[place] for row in gpu]) for place, heading in enumerate(("GPU", "GiB", "W"))],
        of("", [f"no news for {_clock(run.silent_s)}" if run.silent_s > _SILENT_S else "" for run in at_work], False),
    ]
    columns = [column for column in columns if {*column.cells} not in ({"-"}, {""})]
    return _lines(fitting(columns, width), [STYLES[Status.RUNNING]] * len(at_work))


def _board_table(
    board: Board, rows: Sequence[LeaderboardRow], before: Mapping[str, int], width: int, room: int
) -> list[tuple[str, str]]:
    """A heading and at most ``room`` - 1 lines."""
    columns = columns_of(board, rows, short=True)
    columns.insert(1, Column("move", tuple(_move(row, before) for row in rows)))
    shown = fitting(columns, width)
    styles = ["bold green" if row.rank == 1 else STYLES.get(row.status, "") for row in rows]
    lines = _lines(shown, styles, room - 1)
    if (hidden := len(rows) + 1 - len(lines)) > 0:
        lines.append((f"and {hidden} more rows", "dim"))
    return lines


def _lines(columns: Sequence[Column], styles: Sequence[str], most: int | None = None) -> list[tuple[str, str]]:
    widths = [column.width for column in columns]
    lines = [(aligned([column.heading for column in columns], columns, widths), "bold underline")]
    for place, style in enumerate(styles[:most]):
        lines.append((aligned([column.cells[place] for column in columns], columns, widths), style))
    return lines


def _move(row: LeaderboardRow, before: Mapping[str, int]) -> str:
    """``+2``: two places up; ``-1``: one down; ``new`` to the ranking."""
    if row.rank is None:
        return ""
    old = before.get(_key(row))
    if old is None:
        return "new" if before else ""
    return f"{old - row.rank:+d}" if old != row.rank else ""


def _gpu(progress: Progress | None) -> tuple[str, str, str]:
    """Use, memory and power of the trial's GPU, where NVML tells."""
    if progress is None:
        return "-", "-", "-"
    use, memory, power = progress.gpu_utilisation, progress.gpu_memory_bytes, progress.gpu_power_w
    return (
        "-" if use is None else f"{use:.0%}",
        "-" if memory is None else f"{memory / 2**30:.1f}",
        "-" if power is None else f"{power:.0f}",
    )


def _bar(progress: Progress | None) -> str:
    part = 0.0 if progress is None or not progress.steps else progress.step / progress.steps
    done = round(part * _BAR)
    return f"{'#' * done}{'.' * (_BAR - done)} {part:4.0%}"


def _clock(seconds: float) -> str:
    """``0:07``, ``12:05``, ``3:12:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _key(row: LeaderboardRow) -> str:
    return f"{row.study}/{row.trial_id}"
