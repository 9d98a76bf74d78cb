"""``cluster/slurm.sh`` against fake programs: what it starts, hands on, requeues and cleans up."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from slurm import SCRIPT, FakeSlurm

RAY = """
echo "ray $*" >>"$SLURM_FAKE/calls"
for word; do [[ $word != --temp-dir=* ]] || temp=${word#*=}; done
if [[ $* == *--head* ]]; then mkdir -p "$temp" && echo 10.0.0.1:4321 >"$temp/ray_current_cluster"; fi
exec sleep 1000
"""
TWO_NODES = "cat >/dev/null; echo 2"
"""``python``, which the script asks for the number of nodes."""


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm.allocate(tmp_path, ray=RAY, python=TWO_NODES)


def start(slurm: FakeSlurm, *command: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(SCRIPT), *command],
        env=slurm.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> str:
    try:
        return process.communicate(timeout=30)[0]
    finally:
        process.kill()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def nothing_is_left(slurm: FakeSlurm) -> None:
    assert not slurm.temp.exists()
    assert not slurm.token.exists()
    for pid in slurm.step_pids():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_command_runs_beside_two_nodes_and_everything_ends_with_it(slurm: FakeSlurm) -> None:
    shown = (
        # the second node's step may be called later than the fake cluster says that it is there
        """until [ "$(grep -c '^ray ' "$SLURM_FAKE/calls")" = 2 ]; do sleep 0.02; done; """
        'stat -c %a "$RAY_AUTH_TOKEN_PATH"; cat "$RAY_AUTH_TOKEN_PATH"; echo; '
        "echo $RAY_AUTH_MODE $RAY_ADDRESS $RAY_API_SERVER_ADDRESS $DISTSEG_JOB_ID $DISTSEG_JOB_ATTEMPT; exit 7"
    )
    process = start(slurm, "bash", "-c", shown, SLURM_RESTART_COUNT="2")
    lines = ended(process).splitlines()
    assert process.returncode == 7
    mode, token, line = lines[-3:]
    port = 20000 + slurm.job_id % 1000 * 10
    assert (mode, len(token)) == ("600", 64)
    assert line == f"token 10.0.0.1:4321 http://127.0.0.1:{port + 2} slurm-{slurm.job_id} 3"
    calls = slurm.calls()
    head, worker = (call.split() for call in calls if call.startswith("ray "))
    assert {"--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={port + 2}"} <= {*head}
    assert "--address=10.0.0.1:4321" in worker
    assert {"--num-cpus=3", f"--temp-dir={slurm.temp}", "--block"} <= {*head} & {*worker}
    assert token not in "\n".join(calls)  # arguments are seen by everybody on a host
    assert not [call for call in calls if "requeue" in call]
    nothing_is_left(slurm)


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_signal_ends_the_command_gently(slurm: FakeSlurm, tmp_path: Path, number: int, requeued: bool) -> None:
    command = (
        f"trap 'touch {tmp_path}/checkpoint; exit 143' TERM; touch {tmp_path}/runs; while true; do sleep 0.1; done"
    )
    process = start(slurm, "bash", "-c", command)
    wait_for(tmp_path / "runs")
    process.send_signal(number)
    ended(process)
    assert process.returncode == 143
    assert (tmp_path / "checkpoint").exists()
    # a preempted job is requeued by Slurm, a cancelled one not at all
    assert (f"scontrol requeue {slurm.job_id}" in slurm.calls()) is requeued
    nothing_is_left(slurm)


def test_a_command_that_does_not_end_is_killed(slurm: FakeSlurm, tmp_path: Path) -> None:
    command = f"trap '' TERM; touch {tmp_path}/runs; while true; do sleep 0.1; done"
    process = start(slurm, "bash", "-c", command, DISTSEG_GRACE_S="1")
    wait_for(tmp_path / "runs")
    process.send_signal(signal.SIGUSR1)
    ended(process)
    assert process.returncode == 128 + signal.SIGKILL
    assert f"scontrol requeue {slurm.job_id}" in slurm.calls()
    nothing_is_left(slurm)


def test_a_node_that_does_not_start_ends_the_job(tmp_path: Path) -> None:
    slurm = FakeSlurm.allocate(tmp_path, ray="echo no room for sockets; exit 1", python=TWO_NODES)
    process = start(slurm, "touch", str(tmp_path / "ran"))
    said = ended(process)
    assert process.returncode == 1
    assert "no room for sockets" in said  # Ray's own words
    assert "not all of 2 nodes started" in said
    assert not (tmp_path / "ran").exists()
    nothing_is_left(slurm)


def test_what_is_missing_is_said_in_a_line(slurm: FakeSlurm) -> None:
    process = start(slurm)
    assert "no command; want: sbatch" in ended(process)
    assert process.returncode == 2
