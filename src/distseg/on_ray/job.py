"""What the entry points for ``ray job submit`` in ``jobs/`` share: how paths must be given, and how a job ends."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from distseg.data.manifest import is_url
from distseg.errors import DistsegError, InputError

INTERRUPTED = 130
"""The shell's exit code for Ctrl-C."""


def absolute(named: Mapping[str, Path | str | None]) -> None:
    """InputError when one of these paths, by option, is relative: a job runs in a copy of its working directory."""
    for option, path in named.items():
        if path is not None and not (Path(path).is_absolute() or is_url(str(path))):
            raise InputError(f"{option}: got the relative path '{path}', want an absolute one: a job runs elsewhere")


def end(name: str, call: Callable[[], str]) -> int:
    """Runs a job, prints the line that it returns, and gives the process's exit code.

    0 done; 2 bad input and 1 anything else that can be explained, said in one line; 130 interrupted.
    """
    try:
        print(call())
    except DistsegError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def say(line: str) -> None:
    """Prints a line at once: a job's output is followed while it runs."""
    print(line, flush=True)
