"""From the numbers or colours in mask files to class indices, and which of them is ignored."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.errors import DataError

REMOVED_IGNORE_LABEL = 255
"""Label of ignored pixels when one of the rows of a class file is what is ignored."""

_VOID_NAMES = ("void", "ignore")
_ROWS_MAX = 255
_CHANNELS = ("r", "g", "b")
_WANTED = "want a csv with header 'name' or 'name,r,g,b', or one name a line"

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""


@dataclass(frozen=True)
class Row:
    """One class as a class file lists it; its number in mask files is its position."""

    name: str
    colour: Colour | None = None


@dataclass(frozen=True)
class ClassTable:
    """How to read mask files."""

    names: tuple[str, ...]
    """By class index."""
    ignore_label: int | None
    labels: tuple[tuple[int, int], ...]
    """(number in mask files, class index or ignore label) of all numbers that may occur."""
    colours: tuple[tuple[Colour, int], ...] | None
    """(colour, class index or ignore label), where masks are painted in colours."""

    @classmethod
    def of(cls, rows: Sequence[Row], ignore_label: int | None) -> "ClassTable":
        """The table of a list of classes.

        Ignored is the number ``ignore_label`` or, when it is None, the class named Void or ignore (in any case). A row
        that is ignored is no class: the classes after it move up, and its pixels get label 255.
        """
        if ignore_label is None:
            ignored = {number for number, row in enumerate(rows) if row.name.lower() in _VOID_NAMES}
        else:
            ignored = {ignore_label}
        kept = [number for number in range(len(rows)) if number not in ignored]
        labels = {number: label for label, number in enumerate(kept)}
        removed = len(kept) < len(rows)
        stored = REMOVED_IGNORE_LABEL if removed else ignore_label
        if stored is not None:
            labels |= dict.fromkeys(ignored, stored)
        colours = [(row.colour, labels[number]) for number, row in enumerate(rows) if row.colour is not None]
        return cls(
            names=tuple(rows[number].name for number in kept),
            ignore_label=stored,
            labels=tuple(sorted(labels.items())),
            colours=tuple(colours) or None,
        )


def read_rows(path: Path) -> list[Row]:
    """The classes that a file lists; DataError when it lists none, or one twice."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: class file cannot be read ({error}); {_WANTED}") from error
    lines = [line for line in lines if line.strip()]
    header = [cell.strip().lower() for cell in lines[0].split(",")] if lines else []
    rows = _of_csv(path, header, lines[1:]) if "name" in header else [Row(line.strip()) for line in lines]
    if not 1 <= len(rows) <= _ROWS_MAX:
        raise DataError(f"{path}: {len(rows)} classes, want 1 to {_ROWS_MAX}; {_WANTED}")
    if not all(row.name for row in rows):
        raise DataError(f"{path}: a class without a name; {_WANTED}")
    _refuse_twice(path, [row.name for row in rows])
    _refuse_twice(path, [row.colour for row in rows if row.colour is not None])
    return rows


def _of_csv(path: Path, header: Sequence[str], lines: Sequence[str]) -> list[Row]:
    in_colour = all(channel in header for channel in _CHANNELS)
    rows = []
    for line, cells in enumerate(csv.reader(lines), start=2):
        fields = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        try:
            name = fields["name"]
            colour = _colour(fields) if in_colour else None
        except (KeyError, ValueError) as error:
            raise DataError(f"{path}: line {line}: no name, or no r, g, b of 0 to 255; {_WANTED}") from error
        rows.append(Row(name, colour))
    return rows


def _colour(fields: Mapping[str, str]) -> Colour:
    red, green, blue = (int(fields[channel]) for channel in _CHANNELS)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"{red},{green},{blue}")
    return red, green, blue


def _refuse_twice(path: Path, values: Sequence[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{path}: {value} stands for two classes; every name and colour must be its own")
        seen.add(value)
