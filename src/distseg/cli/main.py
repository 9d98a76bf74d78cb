"""The ``distseg`` command: which commands there are, and how a command ends.

The modules of the commands import torch and the rest only when a command runs, so that ``--help`` is quick.
"""

import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from distseg import __version__
from distseg.cli import augment, data, jobs
from distseg.cli.app import app as page
from distseg.cli.doctor import doctor
from distseg.cli.evaluate import evaluate
from distseg.cli.export import export
from distseg.cli.leaderboard import leaderboard
from distseg.cli.predict import predict
from distseg.cli.report import report
from distseg.cli.submission import score, submission
from distseg.cli.train import train
from distseg.cli.tune import tune
from distseg.errors import DistsegError

INTERRUPTED = 130
"""The shell's exit code for Ctrl-C."""
_OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Python's default of 700 collects hundreds of times while modules load, and finds nothing: 15 ms of every command."""

app = typer.Typer(
    name="distseg",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help and errors: boxes wrap an error over several lines
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.add_typer(data.app, name="data")
app.add_typer(augment.app, name="augment")
app.add_typer(jobs.app, name="jobs")
for command in (train, tune, leaderboard, report, export, evaluate, predict, submission, score, page, doctor):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"distseg {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Train image-segmentation models on many GPUs, search for the best one, export it as one TorchScript file.

    Example: distseg data synth --layout carvana --out raw
    """


def main() -> None:
    """Runs one command and leaves with its exit code.

    0 done; 2 bad input or a wrong option, said in one line; 130 interrupted; 1 anything else.
    """
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        app(complete(sys.argv[1:]), prog_name="distseg")
    except DistsegError as error:
        print(f"distseg: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:  # how typer ends every command
        if end.code == INTERRUPTED:
            print("distseg: interrupted", file=sys.stderr)
        raise
    finally:
        _flush()
        if "torch" not in sys.modules:  # a quick command: without the last collections it ends 40 ms sooner
            gc.freeze()


def complete(words: Sequence[str]) -> list[str]:
    """``train ... --resume`` without a run becomes ``--resume=``, which means the newest.

    Typer has no options whose value may be left out. A value is there when the next word is neither an option nor an
    override.
    """
    if words[:1] != ["train"]:
        return list(words)
    following = [*words[1:], "--"]
    return [
        "--resume=" if word == "--resume" and (after.startswith("-") or "=" in after) else word
        for word, after in zip(words, following, strict=True)
    ]


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has left, as `head` does; Python would complain of it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":  # for `torchrun -m distseg.cli.main`
    main()
