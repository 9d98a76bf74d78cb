"""``cluster/local.py``: two Rays side by side, each with its own token; stopping one leaves the other alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOCAL = [sys.executable, str(REPOSITORY / "cluster/local.py")]
RAY = Path(sys.executable).with_name("ray")


@contextmanager
def local_ray() -> Iterator[dict[str, str]]:
    """The variables that ``start`` says to export."""
    done = subprocess.run([*LOCAL, "start"], check=True, stdout=subprocess.PIPE, text=True)
    exported = dict(line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines())
    try:
        yield exported
    finally:
        if Path(exported["DISTSEG_LOCAL_RAY_DIR"]).exists():
            stop(exported)


def stop(exported: dict[str, str]) -> None:
    subprocess.run([*LOCAL, "stop", exported["DISTSEG_LOCAL_RAY_DIR"]], check=True)


def submit(exported: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """``ray job submit`` from an empty folder, with a local Ray's variables."""
    command = [str(RAY), "job", "submit", "--log-color=false", "--", *words]
    return subprocess.run(
        command, env={**os.environ, **exported}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def processes_of(exported: dict[str, str]) -> list[str]:
    """Command lines that name the folder of a local Ray."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if exported["DISTSEG_LOCAL_RAY_DIR"] in line:
            found.append(line)
    return found


@pytest.mark.ray
def test_stop_ends_its_own_ray_only() -> None:
    with ExitStack() as stack:
        first = stack.enter_context(local_ray())
        second = stack.enter_context(local_ray())
        token = Path(first["RAY_AUTH_TOKEN_PATH"])
        assert token.stat().st_mode & 0o777 == 0o600
        assert token.read_text() != Path(second["RAY_AUTH_TOKEN_PATH"]).read_text()

        assert submit(first, sys.executable, "-c", "print(6 * 7)").stdout.count("\n42\n") == 1
        assert submit(first, sys.executable, "-c", "raise SystemExit(3)").returncode != 0
        stranger = submit(first | {"RAY_AUTH_TOKEN_PATH": second["RAY_AUTH_TOKEN_PATH"]}, "true")
        assert stranger.returncode != 0
        assert "uthentic" in stranger.stdout

        assert processes_of(first) != []
        stop(first)
        assert processes_of(first) == []
        assert not Path(first["DISTSEG_LOCAL_RAY_DIR"]).exists()
        assert submit(second, "echo", "still here").returncode == 0


@pytest.mark.ray
def test_simulated_nodes_declare_what_they_are_told(tmp_path: Path) -> None:
    exports = tmp_path / "local-ray.sh"

    def local(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(REPOSITORY / "cluster/local.sh"), *words],
            env={**os.environ, "DISTSEG_LOCAL_RAY": str(exports)},
            capture_output=True,
            text=True,
        )

    assert local("status").returncode == 2
    started = local("start", "--nodes", "2", "--cpus", "3", "--gpus", "4")
    assert started.returncode == 0, started.stdout + started.stderr
    exported = dict(line.removeprefix("export ").split("=", 1) for line in exports.read_text().splitlines())
    try:
        assert exports.stat().st_mode & 0o777 == 0o600
        assert "a Ray runs already" in local("start").stderr
        lines = [line.split(maxsplit=3) for line in local("status").stdout.splitlines()]
        assert [line[1:] for line in lines] == [["ALIVE", "head", "3 CPU, 4 GPU"], ["ALIVE", "node", "3 CPU, 4 GPU"]]
        assert lines[0][0] != lines[1][0]
    finally:
        stopped = local("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert processes_of(exported) == []
    assert not exports.exists()
