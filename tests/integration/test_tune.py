"""Studies on a local Ray: from search to exported winner, and a driver that is killed twice."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import CONFIGS, DISTSEG, called, descendants, distseg, distseg_json, kill, start, wait_for

from distseg.records import Status, TrialRecord, read_json_lines
from distseg.search.events import Event

pytestmark = pytest.mark.ray

EPOCHS, TRIALS = 9, 6
SEARCH = f"""
base: {CONFIGS / "smoke.yaml"}
space:
  model.width: {{kind: choice, values: [2, 4]}}
  optim.lr: {{kind: loguniform, low: 1.0e-3, high: 1.0e-1}}
  augment.policy: {{kind: choice, values: [none, flip]}}
points:
- {{augment.policy: no such policy}}
search: {{startup_trials: 2, seed: 3}}
budget: {{trials: {TRIALS}}}
resources: {{max_concurrent: 1}}
"""
"""One trial at a time, so that two undisturbed studies are the same; trial 0001 cannot work."""


def tune_words(folder: Path, shards: Path) -> list[str]:
    path = folder / "search.yaml"
    path.write_text(SEARCH)
    overrides = [f"train.epochs={EPOCHS}", "train.batch_global=4", "model.width=2", "train.checkpoint_steps=1"]
    return ["tune", str(path), *overrides, "--data", str(shards), "--study", "s"]


def events_of(home: Path) -> list[Event]:
    return [Event(**row) for row in read_json_lines(home / "studies/s/events.jsonl")]


def story(board: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What must be the same in two studies, by trial: of the metrics those that are measured, not timed."""
    return {
        row["trial_id"]: (row["rank"], row["status"], row["overrides"], row["epochs"], row["metrics"], row["reason"])
        for row in board["rows"]
    }


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The home of a study that nobody killed, and the board that ``tune --json`` printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder / "home", distseg_json(folder / "home", *tune_words(folder, shards))


def test_the_board_has_a_row_for_every_trial(undisturbed: tuple[Path, dict[str, Any]], shards: Path) -> None:
    home, board = undisturbed
    assert board == distseg_json(home, "leaderboard", "s")
    assert (board["study"], board["metric"], board["mode"]) == ("s", "dice_mean_per_image", "max")
    assert sorted(row["trial_id"] for row in board["rows"]) == [f"{number:04d}" for number in range(TRIALS)]
    ranked = [row for row in board["rows"] if row["rank"]]
    scores = [row["metrics"]["dice_mean_per_image"] for row in ranked]
    assert [row["rank"] for row in ranked] == list(range(1, TRIALS))
    assert scores == sorted(scores, reverse=True)
    manifest = json.loads((shards / "manifest.json").read_text())
    for row in ranked:
        assert set(row["overrides"]) == {"model.width", "optim.lr", "augment.policy"}
        assert {"iou_mean_per_image", "iou_dataset", "pixel_accuracy", "per_class"} < set(row["metrics"])
        assert (row["data_digest"], row["split_digest"]) == (manifest["data_digest"], manifest["split_digest"])
        assert (row["resolution"], row["bad_samples"], row["gpu_hours"]) == ([32, 32], 0, 0.0)
        assert row["cpu_hours"] > 0
        assert Path(row["checkpoint"]).is_file()
        assert row["status"] == ("COMPLETED" if row["epochs"] == EPOCHS else "PRUNED")
    assert {"COMPLETED", "PRUNED"} == {row["status"] for row in ranked}  # or ASHA was not tried


def test_a_trial_that_fails_is_a_row_with_its_reason(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, board = undisturbed
    failed = board["rows"][-1]
    assert (failed["trial_id"], failed["status"], failed["rank"]) == ("0001", "FAILED", None)
    assert failed["reason"].startswith("ConfigError: augment.policy: got 'no such policy', want one of none, flip")


def test_the_first_trial_is_the_base_config(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    first = events_of(undisturbed[0])[0]
    assert first.overrides == {"model.width": 2, "optim.lr": 0.003, "augment.policy": "flip"}


def assert_each_epoch_once(home: Path) -> None:
    """Every trial asked once, ended once, and all its epochs reported once and in order."""
    events = events_of(home)
    for kind in ("ask", "end"):
        assert Counter(event.trial_id for event in events if event.kind == kind) == {
            f"{number:04d}": 1 for number in range(TRIALS)
        }
    for number in range(TRIALS):
        record = TrialRecord.load(home / f"studies/s/trials/{number:04d}")
        epochs = [event.epoch for event in events if event.kind == "report" and int(event.trial_id) == number]
        assert epochs == list(range(1, record.epochs + 1))


def test_the_record_tells_each_epoch_once(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    assert_each_epoch_once(undisturbed[0])


def test_the_winner_is_exported_and_measures_the_same(
    undisturbed: tuple[Path, dict[str, Any]], shards: Path, tmp_path: Path
) -> None:
    home, board = undisturbed
    assert f"trial {board['rows'][0]['trial_id']}" in distseg(home, "export", "s", "--out", tmp_path / "m.ts").stdout
    measured = distseg_json(home, "evaluate", tmp_path / "m.ts", "--data", shards)
    best = board["rows"][0]["metrics"]
    assert measured["samples"] == 4
    # the file rounds differently from the model; the board's figure is the model's
    for name in ("dice_mean_per_image", "iou_dataset", "pixel_accuracy"):
        assert measured["metrics"][name] == pytest.approx(best[name], abs=1e-3)


def test_a_trial_is_repeated_by_its_overrides(
    undisturbed: tuple[Path, dict[str, Any]], shards: Path, tmp_path: Path
) -> None:
    """``distseg train`` of the base config and the winner's overrides gives the winner's figures."""
    from distseg.config import as_assignments

    _, board = undisturbed
    best = board["rows"][0]
    base = [f"train.epochs={EPOCHS}", "train.batch_global=4", "train.checkpoint_steps=1"]
    words = [CONFIGS / "smoke.yaml", *base, *as_assignments(best["overrides"]), "--data", shards, "--local"]
    assert distseg_json(tmp_path, "train", *words)["metrics"] == best["metrics"]


def replayed(folder: Path, shards: Path, events: list[Event]) -> Any:
    """The scheduler after a study's record was replayed into it, without a Ray."""
    from distseg.config import load_search
    from distseg.home import Home
    from distseg.on_ray.schedulers import scheduler_of
    from distseg.on_ray.searcher import RecordedSearcher
    from distseg.search.start import StudyRequest, open_study

    (folder / "search.yaml").write_text(SEARCH)
    home = Home(folder / "home")
    overrides = [f"train.epochs={EPOCHS}", "model.width=2"]
    study, _ = open_study(home, folder / "search.yaml", overrides, shards, StudyRequest(name="s"))
    study.begin()
    for event in events:
        if event.kind == "ask":
            assert study.announce(event.trial_id, event.overrides or {})
        else:
            study.log.append(event)
    search, base = load_search(study.folder / "search.yaml")
    scheduler = scheduler_of(search, base, "max")
    RecordedSearcher(study, scheduler, lambda event: None).replay()
    return scheduler, study


@pytest.mark.filterwarnings("default")
def test_a_resumed_trial_stands_once_in_each_rung(shards: Path, tmp_path: Path) -> None:
    """Tune gives a resumed trial a new id; ASHA would take it for another one, which passes the first rung again."""
    base = {"model.width": 2, "optim.lr": 0.003, "augment.policy": "flip"}
    events = [Event("ask", "0000", overrides=base), *(Event("report", "0000", epoch=e, score=0.1 * e) for e in (1, 2))]
    scheduler, _ = replayed(tmp_path, shards, events)
    resumed = SimpleNamespace(trial_id="new-id-of-tune", config={"trial_id": "0000", "overrides": base})
    scheduler.on_trial_add(None, resumed)
    for epoch in (3, 4):
        scheduler.on_trial_result(None, resumed, {"epoch": epoch, "score": 0.1 * epoch})
    # rungs at epochs 9, 3 and 1
    (bracket,) = scheduler._brackets
    assert [dict(recorded) for _, recorded in bracket._rungs] == [{}, {"0000": pytest.approx(0.3)}, {"0000": 0.1}]


@pytest.mark.filterwarnings("default")
def test_a_trial_that_was_to_stop_when_its_driver_died_is_stopped(shards: Path, tmp_path: Path) -> None:
    """Its report is on the record and its end is not: an undisturbed study would have pruned it there."""
    overrides = {"model.width": 2, "optim.lr": 0.003, "augment.policy": "flip"}
    good = [Event("report", "0000", epoch=epoch, score=0.9) for epoch in range(1, EPOCHS + 1)]
    events = [
        Event("ask", "0000", overrides=overrides),
        *good,
        Event("end", "0000", score=0.9, status="COMPLETED"),
        Event("ask", "0001", overrides=overrides),
        Event("report", "0001", epoch=1, score=0.1),
    ]
    _, study = replayed(tmp_path, shards, events)
    assert study.log.events[-1] == Event("end", "0001", score=0.1, status="PRUNED")
    assert TrialRecord.load(study.trial_folder("0001")).status is Status.PRUNED


@pytest.mark.filterwarnings("default")
def test_a_killed_study_ends_as_one_left_alone(
    undisturbed: tuple[Path, dict[str, Any]], shards: Path, tmp_path: Path
) -> None:
    """The driver is killed in the middle of a trial that TPE suggested."""
    home, words = tmp_path / "home", tune_words(tmp_path, shards)
    process = start(home, [*DISTSEG, *words])
    try:
        wait_for(lambda: ("0004", 1) in [(event.trial_id, event.epoch) for event in events_of(home)], process)
    finally:
        kill(process)
    trial = home / "studies/s/trials/0004"
    epochs = len(read_json_lines(trial / "epochs.jsonl"))
    board = distseg_json(home, *words, "--resume")
    assert TrialRecord.load(trial).epochs >= epochs >= 1
    assert_each_epoch_once(home)
    assert story(board) == story(undisturbed[1])
    seen = Counter(event.trial_id for event in events_of(home) if event.kind == "report")
    assert seen == Counter(event.trial_id for event in events_of(undisturbed[0]) if event.kind == "report")


def ctrl_c(process: "subprocess.Popen[bytes]") -> None:
    """As a terminal does it: the signal is for the whole group, Ray's processes included."""
    everybody = [process.pid, *descendants(process.pid)]
    for pid in [pid for pid in everybody if os.getpgid(pid) == os.getpgid(process.pid)]:
        os.kill(pid, signal.SIGINT)


def test_a_killed_trial_goes_on_and_ctrl_c_ends_with_the_board(shards: Path, tmp_path: Path) -> None:
    """The trial's process is killed after an epoch: it goes on from its checkpoint, not from the start."""
    home, words = tmp_path / "home", tune_words(tmp_path, shards)

    def epochs() -> list[int | None]:
        return [event.epoch for event in events_of(home) if event.kind == "report"]

    with open(tmp_path / "stdout", "wb") as stdout:
        process = start(home, [*DISTSEG, *words, "train.epochs=900", "--trials", "1", "--json"], stdout)
    try:
        wait_for(epochs, process)
        (trial,) = called("ray::ImplicitFunc", descendants(process.pid))
        os.kill(trial, signal.SIGKILL)
        wait_for(lambda: [event for event in events_of(home) if event.kind == "lost"], process)
        before = len(epochs())
        wait_for(lambda: len(epochs()) > before, process)
        ctrl_c(process)
        assert process.wait(timeout=60) == 130
    finally:
        kill(process)
    assert epochs() == list(range(1, len(epochs()) + 1))
    assert [event for event in events_of(home) if event.kind == "end"] == []
    record = TrialRecord.load(home / "studies/s/trials/0000")
    assert record.status is Status.INTERRUPTED
    (row,) = json.loads((tmp_path / "stdout").read_text())["rows"]
    assert (row["trial_id"], row["status"], row["epochs"]) == ("0000", "INTERRUPTED", record.epochs)


def test_two_workers_a_trial(shards: Path, tmp_path: Path) -> None:
    """Each trial drives a nested trainer; on two CPUs its two workers take all that there is."""
    words = [CONFIGS / "search/smoke.yaml", "model.width=2", "train.epochs=2", "train.batch_global=4"]
    options = ["--data", shards, "--study", "s", "--trials", "1", "--workers-per-trial", "2"]
    override = "study.resources.cpus_per_worker=0.5" if (os.cpu_count() or 1) < 2 else "seed=0"
    (row,) = distseg_json(tmp_path, "tune", *words, override, *options)["rows"]
    assert (row["status"], row["rank"], row["epochs"]) == ("COMPLETED", 1, 2)
    assert TrialRecord.load(tmp_path / "studies/s/trials/0000").world_size == 2
    assert [(e.kind, e.epoch) for e in events_of(tmp_path)] == [
        ("ask", None),
        ("report", 1),
        ("report", 2),
        ("end", None),
    ]


def test_more_workers_than_there_are_cpus(shards: Path, tmp_path: Path) -> None:
    words = [CONFIGS / "search/smoke.yaml", "--data", shards, "--study", "s", "--workers-per-trial", "999"]
    done = distseg(tmp_path / "home", "tune", *words, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("distseg: error: a trial needs 999 workers of 1 CPU and 0 GPU each, ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_tensorboard_and_rays_own_tools_read_a_study(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    """In another process, as a user would: TensorBoard's runs are our trials, Ray's results have our figures."""
    home, board = undisturbed
    code = """
import json, sys
from ray import tune
from ray.tune import ExperimentAnalysis
from distseg.on_ray.tune import train_trial
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

folder = sys.argv[1]
multiplexer = EventMultiplexer().AddRunsFromDirectory(folder)
multiplexer.Reload()
runs = {run: [scalar.value for scalar in multiplexer.Scalars(run, "dice_mean_per_image")] for run in multiplexer.Runs()}
analysis = ExperimentAnalysis(folder + "/ray", default_metric="score", default_mode="max")
results = tune.Tuner.restore(folder + "/ray", trainable=train_trial).get_results()
grid = {each.config["trial_id"]: each.metrics.get("score") for each in results if each.metrics and each.config}
print(json.dumps({"runs": runs, "best": analysis.best_config["trial_id"], "grid": grid}))
"""
    folder = home / "studies/s"
    words = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    trained = [row["trial_id"] for row in board["rows"] if row["rank"]]
    assert sorted(found["runs"]) == [f"trials/{trial}/tensorboard" for trial in sorted(trained)]
    last = {event.trial_id: event.score for event in events_of(home) if event.kind == "report"}
    for trial in trained:
        assert found["runs"][f"trials/{trial}/tensorboard"][-1] == pytest.approx(last[trial])
        assert found["grid"][trial] == last[trial]
    assert last[found["best"]] == max(score for score in last.values() if score is not None)
