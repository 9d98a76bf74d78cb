"""All that a report tells of a study, read from its folder."""

import base64
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distseg.config import as_assignments
from distseg.leaderboard.board import Board, read_board
from distseg.leaderboard.rank import number
from distseg.records import (
    CONFIG_FILE,
    EPOCHS_FILE,
    EXTREMES_FILE,
    EXTREMES_PICTURE,
    LeaderboardRow,
    TrialRecord,
    read_json_lines,
)


@dataclass(frozen=True)
class Curve:
    """A trial's validated epochs."""

    row: LeaderboardRow
    epochs: tuple[int, ...]
    figures: tuple[float, ...]


@dataclass(frozen=True)
class Levels:
    """A trial's adaptive augmentation, epoch by epoch."""

    row: LeaderboardRow
    images: tuple[int, ...]
    """Seen by the end of each epoch."""
    levels: tuple[float, ...]
    """In [0, 1]."""


@dataclass(frozen=True)
class Picture:
    """What training drew of a trial."""

    data: str
    """A ``data:`` URL."""
    words: str
    """What it shows."""


@dataclass(frozen=True)
class StudyData:
    folder: Path
    board: Board
    curves: tuple[Curve, ...]
    levels: tuple[Levels, ...]
    picture: Picture | None
    """Of the best trial."""
    commands: tuple[tuple[str, str], ...]
    """(what it does, shell command), to have the best trial again."""


def gather(folder: Path) -> StudyData:
    """Reads a study; HomeError when it is none."""
    board = read_board(folder)
    curves, levels = [], []
    for row in board.rows:
        epochs = read_json_lines(Path(row.folder) / EPOCHS_FILE)
        told = [
            (line["epoch"], figure)
            for line in epochs
            if (figure := number(line.get("metrics", {}).get(board.metric))) is not None
        ]
        if told:
            curves.append(Curve(row, *map(tuple, zip(*told, strict=True))))
        moved = [
            (line["images_seen"], level) for line in epochs if (level := number(line.get("augment_level"))) is not None
        ]
        if moved:
            levels.append(Levels(row, *map(tuple, zip(*moved, strict=True))))
    best = board.best
    return StudyData(
        folder,
        board,
        tuple(curves),
        tuple(levels),
        None if best is None else _picture(Path(best.folder)),
        () if best is None else tuple(_commands(folder, board, best)),
    )


def _picture(trial: Path) -> Picture | None:
    """The best, median and worst images of the best epoch; of a run that has none, its last panel."""
    path, words = trial / EXTREMES_PICTURE, ""
    if path.is_file() and (trial / EXTREMES_FILE).is_file():
        told: dict[str, Any] = json.loads((trial / EXTREMES_FILE).read_text())
        rows = ", ".join(f"{row['which']} {row['key']} with Dice {row['dice']:.4f}" for row in told["rows"])
        words = f"Of {told['images']} validation images, from the top: {rows}."
    else:
        panels = sorted((trial / "panels").glob("epoch-*.png"))
        if not panels:
            return None
        path, words = panels[-1], "The first validation images."
    words += " From the left: image, truth, prediction, wrong pixels in red."
    return Picture("data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(), words)


def _commands(folder: Path, board: Board, best: LeaderboardRow) -> list[tuple[str, str]]:
    study, record = board.studies[0], TrialRecord.load(Path(best.folder))
    home = folder.parent.parent
    workers = ["--local"] if record.world_size == 1 else ["--workers", str(record.world_size)]
    train = [
        *("distseg", "train", str(folder / CONFIG_FILE), *as_assignments(best.overrides)),
        *("--data", study.data, *workers),
    ]
    export = ["distseg", "export", folder.name, "--trial", best.trial_id, "--out", "model.ts", "--home", str(home)]
    found = [("Train it again", shlex.join(train)), ("Export it as one file", shlex.join(export))]
    if record.task == "binary":
        found.append(("Write its submission", "distseg submission model.ts --images IMAGES --out submission.csv"))
    found.append(("Measure the exported file", shlex.join(["distseg", "evaluate", "model.ts", "--data", study.data])))
    return found
