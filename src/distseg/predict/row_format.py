"""The csv files of run lengths that Kaggle's segmentation tasks take and give, and in which ways they differ."""

import csv
import io
import re
import string
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import ConfigDict

from distseg.data import rle
from distseg.errors import DataError, InputError
from distseg.records import Value

HEADER = ("img", "rle_mask")
_FIELD_BYTES_MAX = 1 << 30
_PATTERNS = {"image": r"(?P<image>.+)", "stem": r"(?P<image>.+)", "label": r"(?P<label>\d+)", "class": r"(?P<class>.+)"}


class RowFormat(Value):
    """How a mask becomes rows, and whose row it is. The default is Carvana's."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))

    columns: tuple[str, str] = HEADER
    order: rle.Order = "row-major"
    first: int = 1
    """Number of the first pixel."""
    row_id: str = "{image}"
    """With {image} (file name), {stem} (without its ending), {label} (class index), {class} (its name)."""
    labels: tuple[int, ...] = (1,)
    """One row for each of these labels of each image."""
    classes: tuple[str, ...] = ("background", "object")
    """Names by class index."""

    def checked(self) -> "RowFormat":
        """Itself; InputError when rows could not be told apart or a label has no class."""
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.row_id) if name is not None}
        except ValueError as error:
            raise InputError(f"--row-id {self.row_id}: {error}; want such as '{{stem}}_{{label}}'") from error
        if unknown := fields - _PATTERNS.keys():
            raise InputError(f"--row-id {self.row_id}: unknown {sorted(unknown)}, want {', '.join(_PATTERNS)}")
        if len(fields & {"image", "stem"}) != 1:
            raise InputError(f"--row-id {self.row_id}: want {{image}} or {{stem}} in it, to name the image")
        if len(self.labels) != 1 and not fields & {"label", "class"}:
            raise InputError(
                f"--row-id {self.row_id}: {len(self.labels)} rows an image, want {{label}} or {{class}} in it"
            )
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise InputError(f"--labels {_joined(self.labels)}: want one at least, each once")
        if wrong := [label for label in self.labels if not 0 <= label < len(self.classes)]:
            raise InputError(f"--labels {_joined(wrong)}: the classes are 0..{len(self.classes) - 1}")
        return self

    def row_ids(self, image: str) -> list[str]:
        """Ids of an image's rows, in the order of ``labels``."""
        return [self.id_of(image, label) for label in self.labels]

    def id_of(self, image: str, label: int) -> str:
        """The id of one row of the image with this file name."""
        names = {"image": image, "stem": Path(image).stem, "label": label, "class": self.classes[label]}
        return self.row_id.format(**names)

    def parse_id(self, row_id: str) -> tuple[str, int] | None:
        """(stem of the image, label) of a row; None when the id is of another form or another label."""
        match = self._pattern.fullmatch(row_id)
        if match is None:
            return None
        found = match.groupdict()
        label = self.labels[0]
        if "label" in found:
            label = int(found["label"])
        elif "class" in found:
            label = self.classes.index(found["class"]) if found["class"] in self.classes else -1
        return (Path(found["image"]).stem, label) if label in self.labels else None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = string.Formatter().parse(self.row_id)
        return re.compile("".join(re.escape(text) + (_PATTERNS[name] if name else "") for text, name, _, _ in parts))


def _joined(labels: Sequence[int]) -> str:
    return ",".join(map(str, labels))


PROFILES = {"carvana": RowFormat(), "column-major": RowFormat(order="column-major")}
"""Formats by name; options change them."""


def row_bytes(name: str, runs: str) -> bytes:
    """One line of the file, line end included."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow((name, runs))
    return text.getvalue().encode()


def read_header(path: Path) -> tuple[str, str]:
    """The names of the two columns; DataError when there are not two."""
    header = next(_lines(path), (0, []))[1]
    if len(header) != len(HEADER):
        raise DataError(f"{path}: header '{','.join(header)[:60]}', want two columns such as '{','.join(HEADER)}'")
    return header[0], header[1]


def read_rows(path: Path, columns: tuple[str, str] = HEADER) -> Iterator[tuple[str, str]]:
    """(row id, run lengths) of each row, in the file's order, read as it is asked for.

    DataError on another header, a row that has not two fields, an id that stands twice, and what is no UTF-8 text.
    """
    seen: set[str] = set()
    lines = _lines(path)
    header = tuple(next(lines, (0, []))[1])
    if header != columns:
        raise DataError(f"{path}: header '{','.join(header)[:60]}', want '{','.join(columns)}'")
    for number, row in lines:
        if len(row) != len(columns):
            raise DataError(f"{path}: line {number}: {len(row)} fields, want {','.join(columns)}")
        name, runs = row
        if name in seen:
            raise DataError(f"{path}: line {number}: '{name}' stands there twice, want one row an image")
        seen.add(name)
        yield name, runs


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each line that is not blank."""
    # csv's own limit of 131072 characters is below the runs of one noisy mask, and is the same for all readers.
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_BYTES_MAX))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            for row in rows:
                if row:
                    yield rows.line_num, row
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a csv file ({error}); want '{','.join(HEADER)}' and a row an image") from error
