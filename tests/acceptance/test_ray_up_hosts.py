"""``ray up cluster/on_premise.yaml`` with an ``ssh`` and an ``rsync`` that reach hosts made of folders.

What the head gets and runs, through all of Ray's quoting; Ray's processes and make are written down there, not run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = {
    # the last words after user@host are a command for the shell of that host
    "ssh": """
        while [[ $1 != *@* ]]; do shift; done
        host=$FAKE_HOSTS/${1#*@}; shift
        mkdir -p "$host" && cd "$host"
        HOME=$host exec bash -c "$*" </dev/null
    """,
    "rsync": """
        target=${!#}; source=${@:$#-1:1}
        path=$FAKE_HOSTS/${target#*@}; path=${path/:~/}; path=${path/:/}
        printf 'rsync %s\\n' "$*" >>"$FAKE_HOSTS/calls"
        mkdir -p "$(dirname "$path")"
        if [[ -d $source ]]; then mkdir -p "$path" && cp -a "$source"/. "$path"; else cp -a "$source" "$path"; fi
    """,
}
ON_HOSTS = {
    # makes what `make setup` leaves behind
    "make": 'echo "make $*" >>"$HOME/calls"; mkdir -p "$2/.venv/bin"; cp "$FAKE_HOSTS/programs/ray" "$2/.venv/bin/ray"',
    "ray": 'echo "ray $*" >>"$HOME/calls"; env >"$HOME/environment"',
}


@pytest.mark.ray
def test_the_head_is_set_up_and_started(tmp_path: Path) -> None:
    project, hosts, user = (tmp_path / name for name in ("project", "hosts", "user"))
    shutil.copytree(REPOSITORY / "cluster", project / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    for folder, programs in ((tmp_path / "bin", PROGRAMS), (hosts / "programs", ON_HOSTS)):
        folder.mkdir(parents=True)
        for name, body in programs.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\nset -eu\n{body}\n")
            (folder / name).chmod(0o755)
    for path in (user / ".ssh" / "id_ed25519", user / ".ray" / "auth_token"):
        path.parent.mkdir(parents=True)
        path.write_text("0123abcd")
        path.chmod(0o600)
    shared = tmp_path / "shared"
    text = (project / "cluster" / "on_premise.yaml").read_text().replace("/shared", str(shared))
    (project / "cluster" / "on_premise.yaml").write_text(text)
    head = hosts / yaml.safe_load(text)["provider"]["head_ip"]
    head.mkdir()
    (head / ".bashrc").write_text(f"export PATH={hosts}/programs:$PATH\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("ray"), "up", "--yes", "--no-config-cache", "cluster/on_premise.yaml"],
        cwd=project,
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "HOME": str(user),
            "RAY_TMPDIR": str(tmp_path),
            "FAKE_HOSTS": str(hosts),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    setup, stop, start = (head / "calls").read_text().splitlines()
    assert setup == f"make -C {head}/distseg setup PYTHON=python3"
    assert stop == "ray stop"
    assert start == (
        f"ray start --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config={head}/ray_bootstrap_config.yaml"
    )
    environment = dict(line.split("=", 1) for line in (head / "environment").read_text().splitlines() if "=" in line)
    wanted = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": f"{head}/.ray/auth_token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    assert wanted.items() <= environment.items()
    assert environment["DISTSEG_HOME"] == f"{shared}/distseg"
    assert environment["PATH"].startswith(f"{head}/distseg/.venv/bin:")  # what jobs call `python` and `distseg`
    token = head / ".ray" / "auth_token"
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("0123abcd", 0o600)
    synced = (hosts / "calls").read_text()
    assert "0123abcd" not in synced + done.stdout + done.stderr
    project_sync = next(line for line in synced.splitlines() if line.endswith("distseg/"))
    assert "--exclude .git" in project_sync
    assert "dir-merge,- .gitignore" in project_sync
