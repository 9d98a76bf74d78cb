"""Two hosts with addresses of their own: DDP across them, then somebody pulls a cable.

Network namespaces on one machine; the home is seen by all of them whatever the network does, as over a storage network
of its own, so that a host which is cut off can still write there. Each test prints what it saw.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import CONFIGS, DISTSEG
from network import HEAD_PORT, Host, hosts, reason_to_skip

from distseg.records import Status, TrialRecord

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(reason_to_skip() is not None, reason=reason_to_skip() or ""),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers take two CPUs"),
]

EPOCHS, STEPS = 40, 3  # 8 samples in batches of 3
RAY = str(Path(sys.executable).parent / "ray")
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Ray takes a silent host for dead after 63 s here with its defaults (10 s, 3 s, 5 times)
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Lab:
    """A Ray over hosts, a home, and what was seen when."""

    def __init__(self, made: list[Host], home: Path, show: Callable[[str], None]) -> None:
        self.hosts = made
        self.home = home
        token = made[0].folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
        self._environment = plain | SETTINGS | {"RAY_AUTH_TOKEN_PATH": str(token), "DISTSEG_HOME": str(home)}
        self._drivers: list[subprocess.Popen[bytes]] = []
        self._show = show
        self._began = time.monotonic()

    def saw(self, what: str) -> None:
        self._show(f"{time.monotonic() - self._began:6.0f} s  {what}")

    def start_ray(self, host: Host, cpus: int) -> None:
        head = self.hosts[0]
        first = ("--head", f"--port={HEAD_PORT}", f"--temp-dir={host.folder}/ray", "--dashboard-host=127.0.0.1")
        place = first if host is head else (f"--address={head.address}:{HEAD_PORT}",)
        words = [RAY, "start", *place, f"--node-ip-address={host.address}", f"--num-cpus={cpus}"]
        done = subprocess.run(
            host.command(*words), env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout

    def start(self, *words: str, **where: Any) -> "subprocess.Popen[bytes]":
        """A command of ours on the head's host."""
        address = {"RAY_ADDRESS": f"{self.hosts[0].address}:{HEAD_PORT}"}
        command = self.hosts[0].command(*DISTSEG, *words)
        process = subprocess.Popen(command, env=self._environment | address, **where)
        self._drivers.append(process)
        return process

    def train(self, *words: str) -> "subprocess.Popen[bytes]":
        overrides = [f"train.epochs={EPOCHS}", "model.width=2", "train.batch_global=3", "train.checkpoint_steps=1"]
        config = str(CONFIGS / "smoke.yaml")
        with open(self.home / "driver.log", "ab") as log:
            return self.start("train", config, *overrides, "--workers", "2", *words, stdout=log, stderr=log)

    def record(self) -> TrialRecord | None:
        found = [*self.home.glob("runs/*/record.json")]
        return TrialRecord.load(found[0].parent) if found else None

    def status(self) -> Status | None:
        return record.status if (record := self.record()) else None

    def steps(self) -> int:
        """Global steps of the only run that are in its checkpoint."""
        return record.images_seen // 3 if (record := self.record()) else 0

    def wait_for(self, happened: Callable[[], Any], what: str, timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while not happened():
            log = self.home / "driver.log"
            assert time.monotonic() < deadline, f"not seen: {what}\n{log.read_text()[-3000:]}"
            time.sleep(0.1)
        self.saw(what)

    def close(self) -> None:
        for driver in self._drivers:
            driver.kill()
            driver.wait()


def trainers(host: Host) -> int:
    """Workers of a training that live on a host."""
    found = 0
    for pid in host.processes():
        try:
            found += b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
    return found


@pytest.fixture
def lab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    @contextmanager
    def opened(*names: str) -> Iterator[Lab]:
        def show(line: str) -> None:
            with capsys.disabled():
                print(f"\n  {line}", end="", flush=True)

        with hosts(*names) as made:
            lab = Lab(made, tmp_path, show)
            try:
                yield lab
            finally:
                lab.close()

    return opened


def test_a_pulled_cable_ends_a_run_that_goes_on_later(lab: Any, shards: Path) -> None:
    with lab("head", "other") as on:
        head, other = on.hosts
        on.start_ray(head, 1)
        on.start_ray(other, 1)
        out, _ = on.start("doctor", "--json", stdout=subprocess.PIPE).communicate(timeout=180)
        found = {finding["name"]: finding for finding in json.loads(out)["findings"]}
        assert "2 nodes on 2 hosts, 2 CPUs" in found["Ray cluster"]["value"]
        assert found["cluster's authentication"]["value"] == "by token"
        assert found["queue over hosts"]["level"] == "error"
        on.saw(f"doctor: {found['Ray cluster']['value']}; {found['queue over hosts']['value']}")

        driver = on.train("--data", str(shards))
        on.wait_for(lambda: on.steps() >= 7, "one DDP run trains over both")
        assert (trainers(head), trainers(other)) == (1, 1)
        other.pull_the_cable()
        on.saw(f"cable pulled at step {on.steps()}")
        on.wait_for(lambda: driver.poll() is not None, "the run ends")
        record = on.record()
        assert (driver.returncode, record.status, record.world_sizes) == (1, Status.INTERRUPTED, (2,))
        assert record.reason.startswith("worker ")
        on.saw(f"exit code 1, record INTERRUPTED at step {on.steps()}: {record.reason[:60]}...")

        other.plug_the_cable()
        other.kill_all()  # Ray has given it up, and it gives itself up on hearing of that
        on.start_ray(other, 1)
        driver = on.train("--data", str(shards), "--resume", record.trial_id)
        on.wait_for(lambda: driver.poll() is not None, "resumed over both hosts, to its end")
        record = on.record()
        assert (driver.returncode, record.status, record.epochs, record.world_sizes) == (
            *(0, Status.COMPLETED, EPOCHS),
            (2,),
        )


def test_a_run_with_fewer_workers_allowed_goes_on_without_the_other_host(lab: Any, shards: Path) -> None:
    with lab("head", "other") as on:
        head, other = on.hosts
        on.start_ray(head, 1)
        on.start_ray(other, 1)
        driver = on.train("--data", str(shards), "--min-workers", "1")
        on.wait_for(lambda: on.steps() >= 7, "one DDP run trains over both")
        other.pull_the_cable()
        at = on.steps()
        on.saw(f"cable pulled at step {at}")
        on.wait_for(lambda: on.steps() > at + 1, "goes on with the head alone")
        other.plug_the_cable()
        on.saw("cable plugged in again")
        on.wait_for(lambda: driver.poll() is not None, "the run ends")
        record = on.record()
        assert (driver.returncode, record.status, record.epochs) == (0, Status.COMPLETED, EPOCHS)
        assert record.world_sizes[:2] == (2, 1)
        on.saw(f"record COMPLETED, workers one after another: {record.world_sizes}")


def test_a_host_that_was_cut_off_and_trains_on_writes_nothing_more(lab: Any, shards: Path) -> None:
    """Both workers, rank 0 among them, live on the host that is cut off, so that no collective stops them."""
    with lab("head", "first", "second") as on:
        head, first, second = on.hosts
        on.start_ray(head, 0)
        on.start_ray(first, 2)
        # no report to Ray's controller, which they would wait for, before the last epoch
        long = ("train.epochs=100000", "eval.every_epochs=100000")
        on.train("--data", str(shards), "--min-workers", "1", *long)
        on.wait_for(lambda: on.steps() >= 7, "two workers train on the first host")
        assert trainers(first) == 2
        (turn,) = on.home.glob("runs/*/.turn")
        before = turn.read_text()
        first.pull_the_cable()
        at = on.steps()
        on.saw(f"its cable pulled at step {at}")
        on.start_ray(second, 2)
        on.wait_for(lambda: on.steps() > at + STEPS, "cut off, they train and write on: nobody has taken their place")
        on.wait_for(lambda: turn.read_text() != before, "the second host has taken over from the last checkpoint")
        assert trainers(first) == 2, "nothing is proved: they died before they were replaced"
        time.sleep(2)  # what it was writing at that moment it may finish
        watched = [on.steps()]
        for change in (None, first.plug_the_cable):
            if change:
                change()
                on.saw("cable plugged in again")
            until = time.monotonic() + 12
            while time.monotonic() < until:
                watched.append(on.steps())
                time.sleep(0.05)
            assert on.status() is Status.RUNNING, on.record()
        assert watched == sorted(watched), "two processes wrote into one run"
        assert len({*watched}) > 2, "nobody trains"
        assert turn.read_text() != before
        on.saw(f"only the second host writes: steps {watched[0]} to {watched[-1]}, never back; record RUNNING")
