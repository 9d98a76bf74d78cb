"""``cluster/node.sh`` and ``docker/entrypoint.sh``, with a ``ray`` and a ``distseg`` that note how they are called."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NODE, ENTRYPOINT = Path("cluster/node.sh"), Path("docker/entrypoint.sh")
SCRIPTS = sorted([*REPOSITORY.glob("cluster/*.sh"), *REPOSITORY.glob("docker/*.sh")])


@dataclass(frozen=True)
class Called:
    """How a script ended, and what it called."""

    code: int
    said: str
    arguments: list[str]
    environment: dict[str, str]


def run(folder: Path, script: Path, *words: str, **environment: str) -> Called:
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("ray", "distseg"):
        fake = programs / name
        fake.write_text(
            f'#!/bin/sh\nprintf "%s\\0" {name} "$@" >"{folder}/arguments"; env -0 >"{folder}/environment"\n'
        )
        fake.chmod(0o755)
    (folder / "arguments").write_text("")
    for each in (NODE, ENTRYPOINT):  # a copy: beside the project's own stands an environment with a real `ray`
        (folder / each).parent.mkdir(exist_ok=True)
        shutil.copy2(REPOSITORY / each, folder / each)
    base = {"HOME": str(folder), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(folder / script), *words], env=base | environment, capture_output=True, text=True)
    found = (folder / "arguments").read_text().split("\0")[:-1]
    pairs = (folder / "environment").read_text().split("\0")[:-1] if found else []
    return Called(done.returncode, done.stderr, found, dict(pair.split("=", 1) for pair in pairs))


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text("5e6f")
    return str(path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_and_strict(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True).stderr == ""
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("script", "role"), [(NODE, "head"), (NODE, "worker"), (ENTRYPOINT, "head"), (ENTRYPOINT, "worker")]
)
def test_a_node_does_not_start_without_a_token(tmp_path: Path, script: Path, role: str) -> None:
    called = run(tmp_path, script, role, RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"))
    assert called.code == 2
    assert f"{tmp_path}/none: no token there" in called.said
    assert called.arguments == []


def test_a_head_asks_for_the_token_and_stays_on_loopback(tmp_path: Path, token: str) -> None:
    called = run(tmp_path, NODE, "head", "--num-cpus=2", RAY_AUTH_TOKEN_PATH=token, RAY_AUTH_TOKEN="another")
    assert called.arguments == ["ray", "start", "--head", "--port=6379", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
    wanted = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token, "RAY_USAGE_STATS_ENABLED": "0"}
    assert wanted.items() <= called.environment.items()
    assert "RAY_AUTH_TOKEN" not in called.environment  # it would go before the file
    assert "OMP_NUM_THREADS" not in called.environment  # Ray sets it for each worker


def test_a_wrong_role_is_named(tmp_path: Path, token: str) -> None:
    called = run(tmp_path, NODE, "boss", RAY_AUTH_TOKEN_PATH=token)
    assert (called.code, called.arguments) == (2, [])
    assert "got 'boss', want head or worker" in called.said


def test_containers_reach_each_other(tmp_path: Path, token: str) -> None:
    head = run(tmp_path, ENTRYPOINT, "head", RAY_AUTH_TOKEN_PATH=token)
    assert {"--head", "--block", "--dashboard-host=0.0.0.0", "--num-cpus=0"} <= {*head.arguments}
    assert head.environment["RAY_AUTH_MODE"] == "token"
    worker = run(tmp_path, ENTRYPOINT, "worker", "--num-cpus=3", RAY_AUTH_TOKEN_PATH=token, DISTSEG_HEAD_HOST="boss")
    assert worker.arguments == ["ray", "start", "--block", "--address=boss:6379", "--num-cpus=3"]
    serving = run(tmp_path, ENTRYPOINT, "serve", "--preempt", RAY_AUTH_TOKEN_PATH=token)
    assert serving.arguments == ["distseg", "jobs", "serve", "--address", "http://head:8265", "--preempt"]


def test_the_password_reaches_libpq_by_a_file_of_its_owner(tmp_path: Path, token: str) -> None:
    secret = tmp_path / "postgres_password"
    secret.write_text("a:b\\c\n")
    called = run(tmp_path, ENTRYPOINT, "serve", RAY_AUTH_TOKEN_PATH=token, DISTSEG_POSTGRES_PASSWORD_FILE=str(secret))
    left = tmp_path / ".pgpass"
    assert left.read_text() == "*:*:*:*:a\\:b\\\\c\n"  # as libpq wants ':' and '\\'
    assert left.stat().st_mode & 0o777 == 0o600
    assert "a:b" not in " ".join([*called.arguments, *called.environment.values()])


def test_any_other_command_runs_as_it_is(tmp_path: Path) -> None:
    called = run(tmp_path, ENTRYPOINT, "distseg", "tune", "a b.yaml")
    assert called.arguments == ["distseg", "tune", "a b.yaml"]
    assert run(tmp_path, ENTRYPOINT).arguments == ["distseg", "--help"]
