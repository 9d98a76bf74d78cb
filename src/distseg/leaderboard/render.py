"""The board as text for people and as JSON for programs.

The lines are laid out here rather than by rich's Table, which took 780 ms for 1000 rows of 14 columns (a whole board
here: 60 ms): too slow for one that refreshes. rich still does colours, widths of characters, and the terminal.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from distseg.config import RunConfig, known_paths
from distseg.leaderboard.board import Board
from distseg.leaderboard.rank import number
from distseg.leaderboard.select import Filters
from distseg.records import LeaderboardRow, Status

GAP = "  "
ALL = Filters()
HEADINGS = {
    "dice_mean_per_image": "dice/img",
    "iou_mean_per_image": "iou/img",
    "iou_dataset": "iou/set",
    "miou": "mIoU",
    "mask_ap": "mask AP",
    "boundary_iou": "boundary",
    "pixel_accuracy": "pixel acc",
}
"""Metrics in the order of their columns, and their headings where width is dear; other metrics follow by name."""
FIRST_OVERRIDES = ("model.encoder", "optim.lr", "augment.policy")
"""Overrides that stand before the epochs; the others come behind."""
STYLES = {Status.FAILED: "red", Status.PRUNED: "dim", Status.INTERRUPTED: "yellow", Status.RUNNING: "cyan"}


@dataclass(frozen=True)
class Column:
    """One heading and a cell for each row."""

    heading: str
    cells: tuple[str, ...]
    numeric: bool = True
    """Aligned to the right."""

    @property
    def width(self) -> int:
        """Cells of the terminal."""
        return max(map(cell_len, (self.heading, *self.cells)))


def render(console: Console, board: Board, filters: Filters = ALL) -> None:
    """Prints the board: as wide as the terminal, or all columns in plain lines where there is none."""
    width = console.width if console.is_terminal else None
    console.print(board_text(board, width, filters), soft_wrap=width is None)


def board_text(board: Board, width: int | None, filters: Filters = ALL) -> Text:
    """The whole board: title, table, sets that stand apart, notes, what to do next.

    ``width`` in characters chooses the columns: those that matter most and fit, none of them cut. None takes all of
    them, with the exact names of the metrics as headings. ``filters`` hides rows.
    """
    rows = filters.select(board.rows)
    text = Text()
    for line, style in [*title_lines(board), *_about_filters(board, rows)]:
        text.append(line + "\n", style)
    if rows:
        columns = columns_of(board, rows, short=width is not None)
        chosen = columns if width is None else fitting(columns, width)
        for title, lines in _tables(rows, chosen):
            text.append(f"\n{title}", "yellow")
            for line, style in lines:
                text.append(line + "\n", style)
        text.append("\n")
        for note, style in _notes(board, rows):
            text.append(printable(note) + "\n", style)
        if left_out := [column.heading for column in columns if column not in chosen]:
            text.append(f"Not shown at this width: {', '.join(left_out)}\n", "dim")
    text.append(_next_step(board))
    return text


def title_lines(board: Board) -> list[tuple[str, str]]:
    """Lines and styles: which studies, how far they are, how they are ranked."""
    counts = [f"{n} {status.lower()}" for status in Status if (n := sum(row.status is status for row in board.rows))]
    names = ", ".join(study.name for study in board.studies)
    order = "highest" if board.mode == "max" else "lowest"
    return [
        (f"{'Study' if len(board.studies) == 1 else 'Studies'} {names}", "bold"),
        (f"{len(board.rows)} of {board.trials_planned} trials: {', '.join(counts) or 'none started'}", ""),
        (f"Ranked by {board.metric}, {order} first", ""),
    ]


def to_json(board: Board, filters: Filters = ALL) -> dict[str, Any]:
    """The board for ``leaderboard --json``; a figure that is not finite becomes null, as JSON has no NaN."""
    return {
        "study": ", ".join(study.name for study in board.studies),
        "metric": board.metric,
        "mode": board.mode,
        "trials_planned": board.trials_planned,
        "rows": [_without_nan(row.model_dump(mode="json")) for row in filters.select(board.rows)],
    }


def name_of(board: Board, row: LeaderboardRow) -> str:
    """``0007``, or ``STUDY/0007`` on a board of several studies."""
    return row.trial_id if len(board.studies) == 1 else f"{row.study}/{row.trial_id}"


def figure(value: Any) -> str:
    """A metric to four decimals; ``-`` where there is none."""
    found = number(value)
    return "-" if found is None else f"{found:.4f}"


def place_of(row: LeaderboardRow) -> str:
    """``3``, ``2=`` when tied with the best, ``-`` when not ranked."""
    return "-" if row.rank is None else f"{row.rank}{'=' if row.tied else ''}"


def columns_of(board: Board, rows: Sequence[LeaderboardRow], short: bool) -> list[Column]:
    """All columns with something to tell, those that matter most first; ``short`` headings where width is dear."""
    metric = board.metric

    def of(heading: str, cell: Callable[[LeaderboardRow], str], numeric: bool = True) -> Column:
        return Column(heading, tuple(map(cell, rows)), numeric)

    def of_metric(name: str) -> Column:
        return of(HEADINGS.get(name, name) if short else name, lambda row: figure(row.metrics.get(name)))

    def of_override(path: str) -> Column:
        numeric = any(number(row.overrides.get(path)) is not None for row in rows)
        return of(headings[path], lambda row: setting(row, path), numeric)

    measured = {name for row in rows for name, value in row.metrics.items() if number(value) is not None}
    others = sorted(measured - {metric}, key=lambda name: ([*HEADINGS, name].index(name), name))
    varying = varying_overrides(rows)
    headings = _override_headings(varying)
    ties = any(row.tied for row in rows)
    return [
        of("#", lambda row: place_of(row) + (" " if ties and not row.tied else "")),
        of("trial", lambda row: name_of(board, row), numeric=False),
        of("status", lambda row: row.status.value, numeric=False),
        of_metric(metric),
        *_telling(of("95 % interval", lambda row: _interval(row.intervals.get(metric)), numeric=False)),
        *_where_varying(of("architecture", lambda row: row.architecture or "-", numeric=False)),
        *[of_override(path) for path in FIRST_OVERRIDES if path in varying],
        of("epoch", lambda row: f"{row.epochs}/{row.epochs_planned}"),
        of("minutes", lambda row: f"{row.seconds / 60:.1f}"),
        *map(of_metric, others[:1]),
        *[of_override(path) for path in varying if path not in FIRST_OVERRIDES],
        *_telling(of("GPU h", lambda row: f"{row.gpu_hours:.2f}" if row.gpu_hours else "-")),
        *_telling(of("Wh", lambda row: f"{row.energy_wh:.1f}" if row.energy_wh else "-")),
        *_telling(of("GPU GiB", lambda row: f"{row.gpu_memory_bytes / 2**30:.1f}" if row.gpu_memory_bytes else "-")),
        *_telling(
            of("GPU GiB in use", lambda row: f"{used / 2**30:.1f}" if (used := row.gpu_memory_used_bytes) else "-")
        ),
        of("CPU h", lambda row: f"{row.cpu_hours:.2f}"),
        of("images", lambda row: str(row.images_seen)),
        of("bad", lambda row: str(row.bad_samples)),
        *map(of_metric, others[1:]),
        *_where_varying(of("resolution", _resolution, numeric=False)),
        *_where_varying(of("split", lambda row: row.split_digest[:8] or "-", numeric=False)),
        *_where_varying(of("data", lambda row: row.data_digest[:8] or "-", numeric=False)),
    ]


def _telling(column: Column) -> list[Column]:
    """The column when any cell holds something: GPU hours where there are GPUs."""
    return [column] if {*column.cells} != {"-"} else []


def _where_varying(column: Column) -> list[Column]:
    return [column] if len({*column.cells} - {"-"}) > 1 else []


def varying_overrides(rows: Sequence[LeaderboardRow], with_architecture: bool = False) -> list[str]:
    """Paths that not all rows set alike, sorted; of a single row, all. The architecture has its own column."""
    paths = sorted({path for row in rows for path in row.overrides})
    if not with_architecture:
        paths = [path for path in paths if path != "model.architecture"]
    return [path for path in paths if len(rows) == 1 or len({setting(row, path) for row in rows}) > 1]


def _override_headings(paths: Sequence[str]) -> dict[str, str]:
    """``optim.lr`` -> ``lr``, but ``loss.name`` stays: other fields of a config end in ``name``.

    ``train.epochs`` stays as well, as the column ``epoch`` is another thing.
    """
    leaves = [path.rpartition(".")[2] for path in {*paths, *known_paths(RunConfig)}]
    taken = {"epochs", "data", "trial", "status", "minutes"}
    short = {path: path.rpartition(".")[2] for path in paths}
    return {path: path if leaf in taken or leaves.count(leaf) > 1 else leaf for path, leaf in short.items()}


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The first four, without which there is no board, and each further one that still fits."""
    chosen: list[Column] = []
    used = -len(GAP)
    for column in columns:
        needed = len(GAP) + column.width
        if len(chosen) < 4 or used + needed <= width:
            chosen.append(column)
            used += needed
    return chosen


def _tables(rows: Sequence[LeaderboardRow], columns: Sequence[Column]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(title, lines with their styles): first the ranked with all that are waiting or failed, then each set apart."""
    widths = [column.width for column in columns]
    headings = aligned([column.heading for column in columns], columns, widths)
    places = sorted(range(len(rows)), key=lambda place: rows[place].apart or "")
    for apart, members in groupby(places, key=lambda place: rows[place].apart):
        lines = [(headings, "bold underline")]
        for place in members:
            line = aligned([column.cells[place] for column in columns], columns, widths)
            lines.append((line, "bold green" if rows[place].rank == 1 else STYLES.get(rows[place].status, "")))
        yield "" if apart is None else f"Not comparable with the ranking above: {apart}\n", lines


def aligned(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    """One line of a table."""
    parts = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        blank = " " * (width - cell_len(cell))
        parts.append(blank + cell if column.numeric else cell + blank)
    return GAP.join(parts).rstrip()


def _notes(board: Board, rows: Sequence[LeaderboardRow]) -> list[tuple[str, str]]:
    """Lines and styles: a word on each trial that stopped, and what holds for all ranked ones."""
    stopped: dict[tuple[Status, str], list[str]] = {}
    for row in rows:
        if row.status in (Status.FAILED, Status.INTERRUPTED):
            stopped.setdefault((row.status, row.reason or "no reason recorded"), []).append(name_of(board, row))
    notes = [
        (f"{', '.join(names)} {status.lower()}: {reason}", STYLES[status])
        for (status, reason), names in stopped.items()
    ]
    if any(row.split_leaky for row in rows):
        notes.append(("The split is leaky: groups stand on both of its sides, so these figures flatter", "yellow"))
    best = board.best
    if best is not None:
        if best.tied:
            notes.append(("= tied with the best: the 95 % interval of the difference contains zero", ""))
        size = "each image's own size" if best.resolution is None else "{}x{}".format(*best.resolution)
        facts = f"Measured at {size}, split {best.split_digest[:8]}, data {best.data_digest[:8]}"
        architectures = {row.architecture for row in rows} - {""}
        notes.append((facts + (f", architecture {best.architecture}" if len(architectures) == 1 else ""), "dim"))
    return notes


def _about_filters(board: Board, rows: Sequence[LeaderboardRow]) -> list[tuple[str, str]]:
    hidden = len(board.rows) - len(rows)
    return [(f"{len(rows)} of {len(board.rows)} rows shown, ranks are those of all", "yellow")] if hidden else []


def _next_step(board: Board) -> str:
    best = board.best
    if best is None:
        return f"Next: wait until a trial has finished an epoch; none has {board.metric} yet"
    study = next(study for study in board.studies if study.name == best.study or len(board.studies) == 1)
    chosen = "" if board.metric == study.metric else f" --trial {best.trial_id}"
    return f"Next: distseg export {best.study} --out model.ts{chosen}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}"


def _resolution(row: LeaderboardRow) -> str:
    return "-" if row.resolution is None else "{}x{}".format(*row.resolution)


def setting(row: LeaderboardRow, path: str) -> str:
    """An override's value in a word: ``0.000312``, ``resnet34``, ``[32,16]``, ``none``; ``base`` where it has none."""
    if path not in row.overrides:
        return "base" if row.architecture else "-"  # nothing is known of a trial whose record is torn
    value = row.overrides[path]
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, str):
        return printable(value)
    return json.dumps(value, separators=(",", ":"))


def printable(words: str) -> str:
    """One line of printable characters: a reason or a value must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(words.split()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
