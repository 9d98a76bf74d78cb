"""A study is killed five times, each time something else and at a random moment, and resumed: promise 9.

It loses no finished epoch, repeats no finished trial, and ends with the trials and the winner of one left alone.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import CONFIGS, DISTSEG, called, descendants, distseg_json, kill, start, wait_for

from distseg.records import Status, TrialRecord, read_json_lines
from distseg.search.events import Event

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

EPOCHS, TRIALS = 27, 12
SEARCH = f"""
base: {CONFIGS / "smoke.yaml"}
space:
  model.width: {{kind: choice, values: [2, 4]}}
  optim.lr: {{kind: loguniform, low: 1.0e-3, high: 1.0e-1}}
  augment.policy: {{kind: choice, values: [none, flip]}}
search: {{startup_trials: 3, seed: 5}}
budget: {{trials: {TRIALS}}}
resources: {{max_concurrent: 1}}
"""
"""One trial at a time, so that two undisturbed studies are the same."""

VICTIMS: dict[str, Callable[[int], list[int]]] = {
    "driver": lambda driver: [driver],
    "trial": lambda driver: called("ray::ImplicitFunc", descendants(driver)),
    "raylet": lambda driver: [pid for pid in descendants(driver) if named(pid).endswith("/raylet")],
    "head": lambda driver: [pid for pid in descendants(driver) if named(pid).endswith("/gcs_server")],
}
ORDER = ("raylet", "driver", "head", "trial", "driver")


def named(pid: int) -> str:
    """The program of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


def events_of(home: Path) -> list[Event]:
    return [Event(**row) for row in read_json_lines(home / "studies/s/events.jsonl")]


def reported(home: Path) -> dict[str, int]:
    """Epochs on the record, by trial."""
    return Counter(event.trial_id for event in events_of(home) if event.kind == "report")


def story(board: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {
        row["trial_id"]: (row["rank"], row["status"], row["overrides"], row["epochs"], row["metrics"])
        for row in board["rows"]
    }


def wait_until_it_trains(home: Path, process: "subprocess.Popen[bytes]") -> None:
    """A new driver is at work when it has recorded an epoch of its own."""
    before, deadline = sum(reported(home).values()), time.monotonic() + 600
    while sum(reported(home).values()) == before:
        assert process.poll() is None, f"ended with {process.returncode} before it was to be killed"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_five_kills_change_nothing(shards: Path, tmp_path: Path) -> None:
    search = tmp_path / "search.yaml"
    search.write_text(SEARCH)
    overrides = [f"train.epochs={EPOCHS}", "train.batch_global=4", "model.width=2", "train.checkpoint_steps=1"]
    words = ["tune", str(search), *overrides, "--data", str(shards), "--study", "s"]
    alone = distseg_json(tmp_path / "alone", *words)

    home, dice = tmp_path / "killed", random.Random(20)
    resume: list[str] = []
    for victim in ORDER:
        process = start(home, [*DISTSEG, *words, *resume])
        try:
            wait_until_it_trains(home, process)
            time.sleep(dice.uniform(0, 1.5))
            finished = reported(home)
            # a resumed driver takes in what it finds on disk before it has a trial
            for pid in wait_for(partial(VICTIMS[victim], process.pid), process, timeout_s=600):
                os.kill(pid, signal.SIGKILL)
            if victim == "trial":  # the study itself goes on
                wait_until_it_trains(home, process)
        finally:
            kill(process)
        assert all(reported(home)[trial] >= epochs for trial, epochs in finished.items())
        resume = ["--resume"]

    board = distseg_json(home, *words, "--resume")
    events = events_of(home)
    for kind in ("ask", "end"):
        counted = Counter(event.trial_id for event in events if event.kind == kind)
        assert counted == {f"{number:04d}": 1 for number in range(TRIALS)}
    for trial in reported(home):
        epochs = [event.epoch for event in events if event.kind == "report" and event.trial_id == trial]
        assert epochs == list(range(1, len(epochs) + 1))
    assert story(board) == story(alone)
    assert [event.kind for event in events].count("lost") >= 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers take two CPUs")
@pytest.mark.parametrize(("victim", "says"), [("ray::RayTrainWorker", "was lost: "), ("ray::ImplicitFunc", "died")])
def test_a_nested_trial_that_loses_a_process_goes_on(victim: str, says: str, shards: Path, tmp_path: Path) -> None:
    """One of two DDP workers is killed, whose peer's connection breaks; or the trial's own process, which led both."""
    words = ["tune", str(CONFIGS / "search/smoke.yaml"), "model.width=2", "train.epochs=900", "train.batch_global=4"]
    options = ["--data", str(shards), "--study", "s", "--trials", "1", "--workers-per-trial", "2"]
    process = start(tmp_path, [*DISTSEG, *words, *options])
    try:
        wait_until_it_trains(tmp_path, process)
        assert len(called("ray::RayTrainWorker", descendants(process.pid))) == 2
        os.kill(called(victim, descendants(process.pid))[-1], signal.SIGKILL)
        lost = wait_for(lambda: [e for e in events_of(tmp_path) if e.kind == "lost"], process, timeout_s=600)
        wait_until_it_trains(tmp_path, process)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=120) == 130
    finally:
        kill(process)
    assert says in lost[0].reason
    epochs = [event.epoch for event in events_of(tmp_path) if event.kind == "report"]
    assert epochs == list(range(1, len(epochs) + 1))
    assert TrialRecord.load(tmp_path / "studies/s/trials/0000").status is Status.INTERRUPTED
