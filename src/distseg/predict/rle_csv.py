"""The csv file of run lengths that Kaggle's Carvana task takes and gives: ``img,rle_mask``, one row an image."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from distseg.errors import DataError

HEADER = ("img", "rle_mask")
_FIELD_BYTES_MAX = 1 << 30


def row_bytes(name: str, runs: str) -> bytes:
    """One line of the file, line end included."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow((name, runs))
    return text.getvalue().encode()


def read_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image name, run lengths) of each row, in the file's order, read as it is asked for.

    DataError on another header, a row that has not two fields, an image named twice, and what is no UTF-8 text.
    """
    # csv's own limit of 131072 characters is below the runs of one noisy mask, and is the same for all readers.
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_BYTES_MAX))
    seen: set[str] = set()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            header = tuple(next(rows, ()))
            if header != HEADER:
                raise DataError(f"{path}: header '{','.join(header)[:60]}', want '{','.join(HEADER)}'")
            for row in rows:
                if not row:  # a blank line
                    continue
                if len(row) != len(HEADER):
                    raise DataError(f"{path}: line {rows.line_num}: {len(row)} fields, want {','.join(HEADER)}")
                name, runs = row
                if name in seen:
                    raise DataError(f"{path}: line {rows.line_num}: '{name}' stands there twice, want one row an image")
                seen.add(name)
                yield name, runs
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a csv file ({error}); want '{','.join(HEADER)}' and a row an image") from error
