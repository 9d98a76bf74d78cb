"""The launching scripts with a real Ray: ``cluster/slurm.sh`` in an allocation of two hosts, the containers' roles."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from commands import CONFIGS, DISTSEG
from postgres import Server, programs, serving
from slurm import SCRIPT, FakeSlurm

from distseg.records import Status, TrialRecord

pytestmark = pytest.mark.ray

ENTRYPOINT = Path(__file__).resolve().parents[2] / "docker" / "entrypoint.sh"
COUNT = """
import ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=3)
def where():
    return ray.get_runtime_context().get_node_id()
found = ray.get([where.remote(), where.remote()], timeout=120)
print("nodes", len(ray.nodes()), "CPUs", ray.cluster_resources()["CPU"], "used", len(set(found)))
"""


def processes_with(text: str) -> list[str]:
    """Command lines that hold ``text``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def test_slurm_runs_a_command_on_a_ray_of_two_nodes(tmp_path: Path) -> None:
    slurm = FakeSlurm.allocate(tmp_path)
    environment = slurm.environment | {"PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [str(SCRIPT), "python", "-c", COUNT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nodes 2 CPUs 6.0 used 2" in done.stdout
    assert processes_with(str(slurm.temp)) == []
    assert not slurm.temp.exists()
    assert not slurm.token.exists()


def test_a_study_goes_on_when_slurm_starts_its_job_again(shards: Path, tmp_path: Path) -> None:
    slurm = FakeSlurm.allocate(tmp_path)
    programs_first = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = slurm.environment | {"PATH": programs_first, "SLURM_CPUS_PER_TASK": "1"}
    trials = tmp_path / "home" / "studies" / "s" / "trials"
    size = ["train.batch_global=4", "model.width=2", "train.epochs=12", "study.search.scheduler=none", "--trials", "4"]
    command = [str(SCRIPT), *DISTSEG, "tune", str(CONFIGS / "search/smoke.yaml"), *size]
    command += ["--data", str(shards), "--study", "s"]

    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while not (done := finished(trials)):
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline, "no trial has ended"
        time.sleep(0.05)
    first.send_signal(signal.SIGUSR1)
    said = first.communicate(timeout=200)[1]
    assert first.returncode != 0
    assert f"scontrol requeue {slurm.job_id}" in slurm.calls(), said
    assert processes_with(str(slurm.temp)) == []
    before = {name: (trials / name / "record.json").read_bytes() for name in done}
    assert len(finished(trials)) < 4, "the study was over before its job was stopped"

    second = subprocess.run(
        command, env=environment | {"SLURM_RESTART_COUNT": "1"}, capture_output=True, text=True, timeout=600
    )
    assert second.returncode == 0, second.stderr
    assert finished(trials) == ["0000", "0001", "0002", "0003"]
    for name, record in before.items():
        assert (trials / name / "record.json").read_bytes() == record  # not run again
    assert processes_with(str(slurm.temp)) == []


def finished(trials: Path) -> list[str]:
    """Names of the trials that are over, by their records."""
    records = {path.parent.name: TrialRecord.load(path.parent) for path in trials.glob("*/record.json")}
    return sorted(name for name, record in records.items() if record.status is Status.COMPLETED)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A server that asks user ``distseg`` for a password, and that password."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH nor in /usr/lib/postgresql")
    password = r"a:b\c"
    with serving() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE ROLE distseg LOGIN PASSWORD {}").format(password))
            connection.execute("CREATE DATABASE distseg OWNER distseg")
            rules = server.folder / "data" / "pg_hba.conf"
            rules.write_text("local all tester trust\nlocal all distseg scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        yield server, password


def test_head_worker_and_dispatcher_run_a_queued_job(database: tuple[Server, str], tmp_path: Path) -> None:
    server, password = database
    (tmp_path / "token").write_text(secrets.token_hex(32))
    (tmp_path / "password").write_text(password)
    (tmp_path / "user").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "distseg").write_text(f'#!/bin/sh\nexec {sys.executable} -m distseg.cli.main "$@"\n')
    (tmp_path / "bin" / "distseg").chmod(0o755)
    temp = Path(f"/tmp/ray-{secrets.token_hex(4)}")
    queue_url = f"postgresql://distseg@/distseg?host={server.folder}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "user"),
        "DISTSEG_HOME": str(tmp_path / "home"),
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "DISTSEG_POSTGRES_PASSWORD_FILE": str(tmp_path / "password"),
    }
    port, dashboard, client, agent, second_agent = free_ports(5)
    own = (f"--temp-dir={temp}", "--min-worker-port=0", "--max-worker-port=0")
    head = (f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}")
    with ExitStack() as stack:
        stack.callback(lambda: subprocess.run(["rm", "-rf", str(temp)], check=True))

        def role(*words: str, **more: str) -> "subprocess.Popen[bytes]":
            with open(tmp_path / f"{words[0]}.log", "wb") as log:
                process = subprocess.Popen([ENTRYPOINT, *words], env=environment | more, stdout=log, stderr=log)
            stack.callback(end, process)
            return process

        def call(*words: str) -> str:
            command = [str(ENTRYPOINT), "distseg", "jobs", *words]
            with_queue = environment | {"DISTSEG_QUEUE_URL": queue_url}
            return subprocess.run(command, env=with_queue, check=True, stdout=subprocess.PIPE, text=True).stdout

        role("head", *head, *own, "--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}")
        wait_until_healthy(agent)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{dashboard}/api/jobs/", timeout=20)
        refused.value.close()
        assert refused.value.code in (401, 403)
        role(
            "worker",
            f"--address=127.0.0.1:{port}",
            "--num-cpus=2",
            *own,
            f"--dashboard-agent-listen-port={second_agent}",
        )
        wait_until_healthy(second_agent)
        role("serve", "--address", f"http://127.0.0.1:{dashboard}", DISTSEG_QUEUE_URL=queue_url)
        job = call("submit", "--name", "sum", "--cpus", "1", "--alone", "--", "python", "-c", "print(6 * 7)")
        said = call("wait", "sum", "--timeout-s", "300")
        assert "SUCCEEDED" in said, job
        assert "42" in call("logs", "sum").splitlines()
        left = (tmp_path / "home" / "queue" / "url").read_text()
        assert password not in left
    assert processes_with(str(temp)) == []


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until_healthy(agent: int) -> None:
    """The check of ``docker/compose.yaml``, which has no token."""
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{agent}/api/healthz", timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, "never healthy"
            time.sleep(0.5)


def end(process: "subprocess.Popen[bytes]") -> None:
    """As a container engine does: SIGTERM, time to end, SIGKILL."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    finally:
        process.kill()
