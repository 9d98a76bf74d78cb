"""Two Ray Train workers on a CPU, killed at a random step and resumed: the same weights to the bit as a run left alone.

Killed are a worker, the driver, a whole node, ten times in all; each test's name says which and from which step on.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import CONFIGS, DISTSEG, descendants, kill, start, wait_for
from runs import assert_same_end

from distseg import checkpoint
from distseg.records import Status, TrialRecord

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),  # Ray's own, where the cluster is started from this process
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers take two CPUs"),
]

EPOCHS, STEPS = 24, 3  # 8 samples in batches of 3
OVERRIDES = [f"train.epochs={EPOCHS}", "model.width=2", "train.batch_global=3", "train.checkpoint_steps=1"]
_chance = random.Random(2024)
KILLS = [
    (victim, _chance.randrange(1, STEPS * EPOCHS // 2))  # so that it does not end before it is killed
    for victim in ("worker", "driver", "node", "worker", "driver", "node", "worker", "driver", "node", "worker")
]


def command(shards: Path, *words: str) -> list[str]:
    return ["train", str(CONFIGS / "smoke.yaml"), *OVERRIDES, "--data", str(shards), *words]


@pytest.fixture(scope="module")
def left_alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last checkpoint of the same run on two ranks of torchrun, which nobody killed."""
    home = tmp_path_factory.mktemp("left-alone")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*torchrun, "-m", "--", "distseg.cli.main", *command(shards, "--local")]
    subprocess.run(words, check=True, env=os.environ | {"DISTSEG_HOME": str(home)})
    return last_checkpoint(only_run(home))


def only_run(home: Path) -> Path:
    (folder,) = (home / "runs").iterdir()
    return folder


def last_checkpoint(folder: Path) -> dict[str, Any]:
    return checkpoint.load(folder / "checkpoints/last.pt")


def steps_done(home: Path) -> int:
    """Global steps of the only run that are in its checkpoint."""
    records = [*home.glob("runs/*/record.json")]
    return TrialRecord.load(records[0].parent).images_seen // 3 if records else 0


def kill_a_worker(driver: "subprocess.Popen[bytes]", rank: int) -> None:
    workers = sorted(pid for pid in descendants(driver.pid) if is_worker(pid))
    assert len(workers) == 2
    os.kill(workers[rank], signal.SIGKILL)
    assert driver.wait(timeout=120) == 1


def is_worker(pid: int) -> bool:
    try:
        return b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "victim", "step"),
    [(number, *kill) for number, kill in enumerate(KILLS)],
    ids=[f"{number}-{victim}-at-{step}" for number, (victim, step) in enumerate(KILLS)],
)
def test_killed_and_resumed_equals_left_alone(
    number: int,
    victim: str,
    step: int,
    shards: Path,
    tmp_path: Path,
    left_alone: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    cluster = request.getfixturevalue("two_nodes") if victim == "node" else None
    began = time.monotonic()
    driver = start(tmp_path, [*DISTSEG, *command(shards, "--workers", "2")])
    try:
        wait_for(lambda: steps_done(tmp_path) >= step, driver, timeout_s=300)
        if victim == "worker":
            kill_a_worker(driver, number % 2)
        elif victim == "node":
            (second,) = cluster.worker_nodes
            cluster.remove_node(second, allow_graceful=False)
            assert driver.wait(timeout=120) == 1
    finally:
        kill(driver)
    folder = only_run(tmp_path)
    killed = TrialRecord.load(folder)
    assert killed.status is (Status.RUNNING if victim == "driver" else Status.INTERRUPTED)
    reached = last_checkpoint(folder)["step"]
    assert step <= reached < STEPS * EPOCHS

    if victim == "node":
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
    resumed = [*DISTSEG, *command(shards, "--workers", "2", "--resume", folder.name)]
    subprocess.run(resumed, check=True, env=os.environ | {"DISTSEG_HOME": str(tmp_path)}, timeout=300)
    record = TrialRecord.load(folder)
    assert (record.status, record.epochs, record.world_sizes) == (Status.COMPLETED, EPOCHS, (2,))
    assert_same_end(last_checkpoint(folder), left_alone)
    print(f"killed: {victim} at step {reached} of {STEPS * EPOCHS}; {time.monotonic() - began:.0f} s")


def test_a_run_that_loses_a_node_goes_on_with_the_other(shards: Path, tmp_path: Path, two_nodes: Any) -> None:
    driver = start(tmp_path, [*DISTSEG, *command(shards, "--workers", "2", "--min-workers", "1")])
    try:
        wait_for(lambda: steps_done(tmp_path) >= 7, driver, timeout_s=300)
        (second,) = two_nodes.worker_nodes
        two_nodes.remove_node(second, allow_graceful=False)
        assert driver.wait(timeout=300) == 0
    finally:
        kill(driver)
    record = TrialRecord.load(only_run(tmp_path))
    assert (record.status, record.epochs, record.world_sizes) == (Status.COMPLETED, EPOCHS, (2, 1))
    rows = last_checkpoint(only_run(tmp_path))["history"]
    assert [row["images_seen"] for row in rows] == [9 * epoch for epoch in range(1, EPOCHS + 1)]  # the same batches
