"""The command as a whole: what it lists, and how it ends."""

import os
import re
import subprocess
import sys

import pytest
import typer

from distseg import __version__
from distseg.cli import main as cli
from distseg.errors import DataError, DistsegError, TrainingError

COMMANDS = [
    *("train", "tune", "leaderboard", "report", "export", "evaluate", "predict", "submission", "score", "app", "doctor")
]
JOBS_COMMANDS = [
    *("submit", "list", "show", "explain", "logs", "wait", "cancel", "retry", "priority", "pause", "unpause", "serve"),
    "render",
]
GROUPS = {"data": ["synth", "pack", "audit", "info", "verify"], "augment": ["preview"], "jobs": JOBS_COMMANDS}
"""All that ``--help`` lists; whoever adds a command adds it here."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Runs ``distseg ARGUMENTS`` in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["distseg", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Puts a program in the place of ``distseg`` whose only command raises ``error``."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)


def test_help_lists_the_commands_that_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    assert [group.name for group in cli.app.registered_groups] == [*GROUPS]
    out = capsys.readouterr().out
    assert [name for name in [*GROUPS, *COMMANDS] if not re.search(rf"\b{name}\b", out)] == []
    assert len(cli.app.registered_commands) == len(COMMANDS)


@pytest.mark.parametrize(
    "command", ["", *COMMANDS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names)]
)
def test_every_help_shows_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *command.split(), "--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"Example:.* distseg {command}", words)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"distseg {__version__}\n"


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["no-such-command"], ["data", "info"], ["score"]])
def test_wrong_usage_ends_with_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Usage: distseg" in printed.err


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("shards: empty"), 2), (TrainingError("loss: NaN"), 1), (DistsegError("no"), 1)]
)
def test_own_errors_are_one_line(
    error: DistsegError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, error)
    assert run(monkeypatch) == code
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"distseg: error: {error}\n")


def test_bad_input_reaches_the_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "data", "info", "no/such/shards") == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"distseg: error: .*no/such/shards.*\n", error)


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("train a.yaml --resume", "train a.yaml --resume="),
        ("train a.yaml --resume --local", "train a.yaml --resume= --local"),
        ("train a.yaml --resume optim.lr=1", "train a.yaml --resume= optim.lr=1"),
        ("train a.yaml --resume a-2 --local", "train a.yaml --resume a-2 --local"),
        ("tune a.yaml --resume", "tune a.yaml --resume"),  # a plain flag there
    ],
)
def test_the_run_to_resume_may_be_left_out(typed: str, understood: str) -> None:
    assert cli.complete(typed.split()) == understood.split()


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert run(monkeypatch) == 130
    assert capsys.readouterr().err == "distseg: interrupted\n"


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, ZeroDivisionError("a bug"))
    monkeypatch.setattr(sys, "argv", ["distseg"])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main()


def test_a_reader_that_leaves_is_no_error() -> None:
    """As in ``distseg --help | true``."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; sys.argv = ['distseg', '--help']; from distseg.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
