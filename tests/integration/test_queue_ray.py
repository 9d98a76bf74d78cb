"""The queue in front of a real Ray with token authentication; a dispatcher killed while a job runs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "cluster"))

from commands import DISTSEG  # noqa: E402
from local import running  # noqa: E402

pytestmark = pytest.mark.ray


class Lab:
    """A Ray, a home, and the commands of a user who has the cluster's token."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = {**os.environ, **environment, "DISTSEG_HOME": str(home)}
        self.dispatchers: list[subprocess.Popen[bytes]] = []

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run([*DISTSEG, "jobs", *words], env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def json(self, *words: str) -> Any:
        at = words.index("--") if "--" in words else len(words)
        return json.loads(self.run(*words[:at], "--json", *words[at:]))

    def serve(self) -> "subprocess.Popen[bytes]":
        with open(self.home / "dispatcher.log", "ab") as log:
            process = subprocess.Popen([*DISTSEG, "jobs", "serve"], env=self.environment, stderr=log)
        self.dispatchers.append(process)
        return process

    def until(self, job: str, *states: str) -> Any:
        deadline = time.monotonic() + 120
        while (found := self.json("show", job))["state"] not in states:
            assert time.monotonic() < deadline, (found, (self.home / "dispatcher.log").read_text())
            time.sleep(0.3)
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("home")
    with running() as ray:
        lab = Lab(home, ray.environment)
        yield lab
        for process in lab.dispatchers:
            if process.poll() is None:
                process.terminate()
            process.wait(30)


def test_jobs_run_on_ray_and_a_killed_dispatcher_is_followed(lab: Lab, tmp_path: Path) -> None:
    first = lab.serve()
    code = tmp_path / "code"
    code.mkdir()
    (code / "hello.py").write_text(
        "import os, ray\n"
        "ray.init(log_to_driver=False)\n"
        "@ray.remote(num_cpus=1)\n"
        "def work():\n"
        "    return sum(range(10))\n"
        "print('cpus', os.environ['DISTSEG_LEASE_CPUS'], 'sum', ray.get(work.remote()))\n"
    )
    marker, go = tmp_path / "runs", tmp_path / "go"
    script = f"echo once >> {marker}; while [ ! -e {go} ]; do sleep 0.1; done"
    long = lab.json("submit", "--name", "long", "--", "sh", "-c", script)["id"]
    lab.json("submit", "--name", "hello", "--working-dir", str(code), "--", "python", "hello.py")
    lab.json("submit", "--name", "never", "--cpus", "1000", "--", "true")
    lab.json("submit", "--name", "later", "--after", "hello", "--", "false")

    lab.until("long", "RUNNING")
    first.send_signal(signal.SIGKILL)  # its lease of leadership is left behind
    first.wait()
    lab.serve()
    assert lab.until("hello", "SUCCEEDED", "FAILED")["state"] == "SUCCEEDED", lab.run("logs", "hello")
    assert "cpus 1 sum 45\n" in lab.run("logs", "hello")
    assert lab.until("later", "FAILED")["reason"] == "exit code 1"

    assert lab.json("show", long)["state"] == "RUNNING"
    assert "larger cluster" in lab.run("explain", "never")
    lab.run("cancel", "never")
    go.touch()
    found = lab.until("long", "SUCCEEDED", "QUEUED", "FAILED")
    assert (found["state"], found["attempt"]) == ("SUCCEEDED", 1)
    assert marker.read_text() == "once\n"


def test_without_the_token_nothing_is_served(lab: Lab) -> None:
    done = subprocess.run(
        [*DISTSEG, "jobs", "serve", "--once"],
        env=lab.environment | {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "refuses our token; set RAY_AUTH_MODE=token" in done.stderr
