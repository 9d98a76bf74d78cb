"""A command of ``distseg`` as an entry point for ``ray job submit``: one set of options for both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from distseg.errors import InputError
from distseg.on_ray.job import absolute, end

_PLACES = ("data", "home")
"""Options that are text, as they may be URLs, and name places all the same."""


def run_as_job(command: Callable[..., None], about: str | None, words: Sequence[str]) -> int:
    """Runs a command that has ``--workers`` with the words of a job's command line; the process's exit code.

    ``about`` heads the help. InputError, said in one line, on a relative path and without ``--workers``.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command(help=about)
    @wraps(command)
    def checked(**options: Any) -> None:
        absolute(dict(_named_paths(options)))
        if options["workers"] is None:
            raise InputError("--workers: not given, want how many workers of the cluster share the work")
        command(**options)

    return end(command.__name__, lambda: app(words))  # which leaves by SystemExit


def _named_paths(options: Mapping[str, Any]) -> Iterator[tuple[str, Path | str | None]]:
    for name, value in options.items():
        if isinstance(value, list):  # arguments, which have no name
            yield from ((str(each), each) for each in value)
        elif isinstance(value, Path) or name in _PLACES:
            yield f"--{name}", value
