"""Where commands write: results on stdout, progress on stderr; rich on a terminal, plain lines elsewhere."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distseg.data.sizes import parse_size as parse_size

if TYPE_CHECKING:
    from rich.console import Console

_PLAIN_LINE_EVERY_S = 5.0


def stderr_console() -> "Console":
    """A rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], colours: Mapping[str, str] | None = None
) -> None:
    """A rich table on a terminal; elsewhere aligned lines, neither wrapped nor cut. Cells go through ``str``.

    ``colours``: styles, on a terminal, of the cells that are these words.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():  # elsewhere rich, which takes time to load, is not needed
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in cells:  # Text: a cell such as "[1, 2]" is no markup
            table.add_row(*(Text(cell, style=(colours or {}).get(cell, "")) for cell in row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(title)
    for line in (columns, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with (done, total).

    On a terminal's stderr it moves a bar with rate and time left; elsewhere it prints a plain line every 5 s at most.
    """
    console = stderr_console()
    if not console.is_terminal:
        yield _plain_progress(label)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None, rate="")

        def advance(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:.1f}/s")

        yield advance


def _plain_progress(label: str) -> Callable[[int, int], None]:
    started = last = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PLAIN_LINE_EVERY_S:
            return
        last = now
        rate = done / (now - started)
        print(f"{label}: {done}/{total}, {rate:.1f}/s, {(total - done) / rate:.0f} s left", file=sys.stderr, flush=True)

    return advance
