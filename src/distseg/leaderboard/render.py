"""The board as text for people and as JSON for programs.

The lines are laid out here rather than by rich's Table, which took 780 ms for 1000 rows of 14 columns (a whole board
here: 60 ms): too slow for one that refreshes. rich still does colours, widths of characters, and the terminal.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from distseg.config import RunConfig, known_paths
from distseg.leaderboard.rank import number
from distseg.records import LeaderboardRow, Status, StudyInfo

GAP = "  "
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


def render(console: Console, study: StudyInfo, rows: Sequence[LeaderboardRow], metric: str, mode: str) -> None:
    """Prints the board: as wide as the terminal, or all columns in plain lines where there is none."""
    width = console.width if console.is_terminal else None
    console.print(board(study, rows, metric, mode, width), soft_wrap=width is None)


def board(study: StudyInfo, rows: Sequence[LeaderboardRow], metric: str, mode: str, width: int | None) -> Text:
    """The whole board in the order of ``rows``: title, table, sets that stand apart, notes, what to do next.

    ``width`` in characters chooses the columns: those that matter most and fit, none of them cut. None takes all of
    them, with the exact names of the metrics as headings.
    """
    counts = [f"{n} {status.lower()}" for status in Status if (n := sum(row.status is status for row in rows))]
    order = "highest" if mode == "max" else "lowest"
    text = Text()
    text.append(f"Study {study.name}\n", "bold")
    text.append(f"{len(rows)} of {study.trials_planned} trials: {', '.join(counts) or 'none started'}\n")
    text.append(f"Ranked by {metric}, {order} first\n")
    if rows:
        columns = _columns(rows, metric, short=width is not None)
        chosen = columns if width is None else _fitting(columns, width)
        for title, lines in _tables(rows, chosen):
            text.append(f"\n{title}", "yellow")
            for line, style in lines:
                text.append(line + "\n", style)
        text.append("\n")
        for note, style in _notes(rows):
            text.append(_printable(note) + "\n", style)
        if left_out := [column.heading for column in columns if column not in chosen]:
            text.append(f"Not shown at this width: {', '.join(left_out)}\n", "dim")
    text.append(_next_step(study, rows, metric))
    return text


def to_json(study: StudyInfo, metric: str, mode: str, rows: Iterable[LeaderboardRow]) -> dict[str, Any]:
    """The board for ``leaderboard --json``; a figure that is not finite becomes null, as JSON has no NaN."""
    return {
        "study": study.name,
        "metric": metric,
        "mode": mode,
        "trials_planned": study.trials_planned,
        "rows": [_without_nan(row.model_dump(mode="json")) for row in rows],
    }


def _columns(rows: Sequence[LeaderboardRow], metric: str, short: bool) -> list[Column]:
    """All columns, those that matter most first."""

    def of_metric(name: str) -> Column:
        heading = HEADINGS.get(name, name) if short else name
        return Column(heading, tuple(_figure(row.metrics.get(name)) for row in rows))

    def of_override(path: str) -> Column:
        numeric = any(number(row.overrides.get(path)) is not None for row in rows)
        return Column(headings[path], tuple(_setting(row, path) for row in rows), numeric)

    measured = {name for row in rows for name, value in row.metrics.items() if number(value) is not None}
    others = sorted(measured - {metric}, key=lambda name: ([*HEADINGS, name].index(name), name))
    varying = _varying_overrides(rows)
    headings = _override_headings(varying)
    return [
        Column("#", tuple("-" if row.rank is None else str(row.rank) for row in rows)),
        Column("trial", tuple(row.trial_id for row in rows), numeric=False),
        Column("status", tuple(row.status.value for row in rows), numeric=False),
        *map(of_metric, [metric, *others[:1]]),
        *_where_varying(Column("architecture", tuple(row.architecture or "-" for row in rows), numeric=False)),
        *[of_override(path) for path in FIRST_OVERRIDES if path in varying],
        Column("epoch", tuple(f"{row.epochs}/{row.epochs_planned}" for row in rows)),
        Column("minutes", tuple(f"{row.seconds / 60:.1f}" for row in rows)),
        *[of_override(path) for path in varying if path not in FIRST_OVERRIDES],
        Column("bad images", tuple(str(row.bad_samples) for row in rows)),
        Column("GPU h", tuple(f"{row.gpu_hours:.2f}" for row in rows)),
        Column("CPU h", tuple(f"{row.cpu_hours:.2f}" for row in rows)),
        *map(of_metric, others[1:]),
        *_where_varying(Column("data", tuple(row.data_digest[:8] or "-" for row in rows), numeric=False)),
    ]


def _where_varying(column: Column) -> list[Column]:
    return [column] if len({*column.cells} - {"-"}) > 1 else []


def _varying_overrides(rows: Sequence[LeaderboardRow]) -> list[str]:
    """Paths that not all rows set alike, sorted; of a single row, all. The architecture has its own column."""
    paths = sorted({path for row in rows for path in row.overrides} - {"model.architecture"})
    return [path for path in paths if len(rows) == 1 or len({_setting(row, path) for row in rows}) > 1]


def _override_headings(paths: Sequence[str]) -> dict[str, str]:
    """``optim.lr`` -> ``lr``, but ``loss.name`` stays: other fields of a config end in ``name``.

    ``train.epochs`` stays as well, as the column ``epoch`` is another thing.
    """
    leaves = [path.rpartition(".")[2] for path in {*paths, *known_paths(RunConfig)}]
    taken = {"epochs", "data", "trial", "status", "minutes"}
    short = {path: path.rpartition(".")[2] for path in paths}
    return {path: path if leaf in taken or leaves.count(leaf) > 1 else leaf for path, leaf in short.items()}


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
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
    headings = _aligned([column.heading for column in columns], columns, widths)
    places = sorted(range(len(rows)), key=lambda place: rows[place].apart or "")
    for apart, members in groupby(places, key=lambda place: rows[place].apart):
        lines = [(headings, "bold underline")]
        for place in members:
            line = _aligned([column.cells[place] for column in columns], columns, widths)
            lines.append((line, "bold green" if rows[place].rank == 1 else STYLES.get(rows[place].status, "")))
        yield "" if apart is None else f"Not comparable with the ranking above: {apart}\n", lines


def _aligned(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    parts = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        blank = " " * (width - cell_len(cell))
        parts.append(blank + cell if column.numeric else cell + blank)
    return GAP.join(parts).rstrip()


def _notes(rows: Sequence[LeaderboardRow]) -> list[tuple[str, str]]:
    """Lines and styles: a word on each trial that stopped, and what holds for all ranked ones."""
    stopped = [row for row in rows if row.status in (Status.FAILED, Status.INTERRUPTED)]
    notes = [
        (f"{row.trial_id} {row.status.lower()}: {row.reason or 'no reason recorded'}", STYLES[row.status])
        for row in stopped
    ]
    if any(row.split_leaky for row in rows):
        notes.append(("The split is leaky: groups stand on both of its sides, so these figures flatter", "yellow"))
    best = _best(rows)
    if best is not None:
        size = "each image's own size" if best.resolution is None else "{}x{}".format(*best.resolution)
        facts = f"Measured at {size}, split {best.split_digest[:8]}, data {best.data_digest[:8]}"
        architectures = {row.architecture for row in rows} - {""}
        notes.append((facts + (f", architecture {best.architecture}" if len(architectures) == 1 else ""), "dim"))
    return notes


def _next_step(study: StudyInfo, rows: Sequence[LeaderboardRow], metric: str) -> str:
    best = _best(rows)
    if best is None:
        return f"Next: wait until a trial has finished an epoch; none has {metric} yet"
    chosen = "" if metric == study.metric else f" --trial {best.trial_id}"
    return f"Next: distseg export {study.name} --out model.ts{chosen}"


def _best(rows: Sequence[LeaderboardRow]) -> LeaderboardRow | None:
    return next((row for row in rows if row.rank == 1), None)


def _figure(value: Any) -> str:
    figure = number(value)
    return "-" if figure is None else f"{figure:.4f}"


def _setting(row: LeaderboardRow, path: str) -> str:
    """An override's value in a word: ``0.000312``, ``resnet34``, ``[32,16]``, ``none``; ``base`` where it has none."""
    if path not in row.overrides:
        return "base" if row.architecture else "-"  # nothing is known of a trial whose record is torn
    value = row.overrides[path]
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, str):
        return _printable(value)
    return json.dumps(value, separators=(",", ":"))


def _printable(words: str) -> str:
    """One line of printable characters: a reason or a value must not steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(words.split()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
