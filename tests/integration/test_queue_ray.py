"""The queue in front of a real Ray with token authentication; a dispatcher killed while a job runs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "cluster"))

from commands import DISTSEG, distseg  # noqa: E402
from local import running  # noqa: E402


class Unlocked(BaseHTTPRequestHandler):
    """A dashboard that asks nobody for a token."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


def refused(home: Path, address: str) -> str:
    """What ``serve`` says of a cluster that it does not serve."""
    return distseg(home, "jobs", "serve", "--once", "--address", address, code=2).stderr


def test_a_cluster_open_to_others_is_refused(tmp_path: Path) -> None:
    server = HTTPServer(("0.0.0.0", 0), Unlocked)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://0.0.0.0:{server.server_port}"
        assert f"Ray at {address}: anybody who reaches it may run commands there" in refused(tmp_path, address)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_address_is_that_of_a_dashboard(tmp_path: Path) -> None:
    error = refused(tmp_path, "127.0.0.1:8265")
    assert error.startswith("distseg: error: --address: got '127.0.0.1:8265', want the dashboard's, such as http://")
    assert error.count("\n") == 1


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


@pytest.mark.ray
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


@pytest.mark.ray
def test_a_job_rendered_for_kuberay_runs_as_its_operator_submits_it(lab: Lab, tmp_path: Path) -> None:
    """The operator sends entrypoint and runtime environment to the dashboard as they stand in the manifest."""
    code, out = tmp_path / "code", tmp_path / "out"
    code.mkdir()
    (code / "beside.txt").write_text("beside")
    script = (
        "import os, sys; out, *words = sys.argv[1:]\n"
        "open(out, 'w').write('|'.join([*words, *os.listdir(), os.environ[words[0]]]))"
    )
    words = ["python", "-c", script, str(out), "DISTSEG_JOB_ID", "$HOME `id`"]
    more = "640"  # CPUs than there are: no dispatcher of ours starts it meanwhile
    job = lab.json("submit", "--name", "rendered", "--cpus", more, "--working-dir", str(code), "--", *words)["id"]
    spec = yaml.safe_load(lab.run("render", "--target", "kuberay", job))["spec"]
    body = {"entrypoint": spec["entrypoint"], "runtime_env": yaml.safe_load(spec["runtimeEnvYAML"])}
    token = Path(lab.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        lab.environment["RAY_API_SERVER_ADDRESS"] + "/api/jobs/",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "x-ray-authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["submission_id"]
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert out.read_text() == f"DISTSEG_JOB_ID|$HOME `id`|beside.txt|{job}"
    lab.run("cancel", job)


@pytest.mark.ray
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
