"""The searcher as Tune drives it, without a Ray: budgets, lost trials, other studies, what is told to whom."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distseg import checkpoint
from distseg.config import load_search, with_overrides
from distseg.home import Home
from distseg.on_ray.schedulers import scheduler_of
from distseg.on_ray.searcher import LOSSES_MAX, RecordedSearcher
from distseg.on_ray.suggestions import sampler_of
from distseg.records import Status, TrialRecord
from distseg.search.events import Event
from distseg.search.start import StudyRequest, open_study
from distseg.search.study import Study

pytestmark = pytest.mark.filterwarnings("default")  # Optuna's and Ray's own, in this process

SEARCH = Path(__file__).resolve().parents[2] / "configs/search/smoke.yaml"
FINISHED = "FINISHED"
EPOCHS = 4


class Follower:
    """Who plays Tune, the trials and the other studies."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.events: list[Event] = []
        self.free = True
        self.held: list[int] = []
        self.scheduler = scheduler_of(study.search, study.base, "max")
        self.searcher = RecordedSearcher(study, self.scheduler, self.events.append, self, study.folder / "ray")
        self.searcher.replay()

    def take(self) -> bool:
        return self.free

    def hold(self, trials: int) -> None:
        self.held.append(trials)

    def ask(self, tune_id: str) -> Any:
        asked = self.searcher.suggest(tune_id)
        if not isinstance(asked, dict):
            return asked
        self.scheduler.on_trial_add(None, SimpleNamespace(config=asked))  # type: ignore[arg-type]
        return asked["trial_id"]

    def write(self, trial: str, **changes: Any) -> None:
        """What the trial's process writes on its record."""
        folder = self.study.trial_folder(trial)
        TrialRecord.load(folder).model_copy(update=changes).save(folder)

    def checkpoint(self, trial: str, *scores: float) -> None:
        """What its process saves after each epoch, before it writes its record and reports."""
        record = self.record(trial).model_copy(
            update={
                "status": Status.COMPLETED if len(scores) == EPOCHS else Status.RUNNING,
                "epochs": len(scores),
                "metrics": {"dice_mean_per_image": max(scores)},
                "checkpoint": "checkpoints/best.pt",
            }
        )
        history = [{"epoch": epoch, "score": score} for epoch, score in enumerate(scores, start=1)]
        folder = self.study.trial_folder(trial) / "checkpoints"
        folder.mkdir(exist_ok=True)
        (folder / "best.pt").write_text("weights")
        tree = {"history": history, "bad": [], "record": record.model_dump_json()}
        checkpoint.save(folder / "last.pt", tree)

    def report(self, tune_id: str, epoch: int, score: float) -> None:
        self.searcher.on_trial_result(tune_id, {"epoch": epoch, "score": score})

    def lose(self, tune_id: str, trial: str, words: str = "The actor died.") -> None:
        notes = self.study.folder / "ray" / f"train_trial_{tune_id}_1"
        notes.mkdir(parents=True)
        (notes / "error.txt").write_text(f"Failure # 1 (occurred at noon)\n{words}\n\tclass_name: ImplicitFunc\n")
        self.write(trial, status=Status.RUNNING)
        self.searcher.on_trial_complete(tune_id, error=True)

    def record(self, trial: str) -> TrialRecord:
        return TrialRecord.load(self.study.trial_folder(trial))


def opened(home: Home, shards: Path, *overrides: str, resume: bool = False) -> Study:
    study, _ = open_study(home, SEARCH, overrides, shards, StudyRequest(name="s", resume=resume))
    study.begin()
    return study


@pytest.fixture
def tune(home: Home, shards: Path) -> Follower:
    return Follower(opened(home, shards))


def test_a_lost_trial_goes_on_before_new_ones(tune: Follower) -> None:
    assert [tune.ask("a"), tune.ask("b")] == ["0000", "0001"]
    tune.report("a", 1, 0.5)
    tune.lose("a", "0000")
    assert tune.events[-1] == Event("lost", "0000", reason="The actor died.")
    assert tune.ask("c") == "0000"
    tune.report("c", 1, 0.5)  # of the checkpoint; it stands on the record once
    tune.report("c", 2, 0.6)
    assert [event.epoch for event in tune.events if event.kind == "report"] == [1, 2]


def test_an_epoch_that_a_lost_trial_saved_and_did_not_report_counts(tune: Follower) -> None:
    tune.ask("a")
    tune.checkpoint("0000", 0.5)
    tune.lose("a", "0000")
    assert tune.ask("b") == "0000"
    tune.report("b", 2, 0.6)  # it goes on from its checkpoint
    assert tune.events[1:] == [
        Event("report", "0000", epoch=1, score=0.5),
        Event("lost", "0000", reason="The actor died."),
        Event("ask", "0000", overrides=tune.study.log.asked["0000"]),
        Event("report", "0000", epoch=2, score=0.6),
    ]
    rungs: Any = tune.scheduler
    assert rungs._brackets[0]._rungs[-1] == (1, {"0000": 0.5})


@pytest.mark.parametrize("killed", ["its process", "the driver"])
def test_a_trial_that_was_to_stop_on_an_epoch_it_did_not_report_stops(
    killed: str, tune: Follower, home: Home, shards: Path
) -> None:
    tune.ask("a"), tune.ask("b")
    tune.write("0000", status=Status.RUNNING)
    tune.checkpoint("0000", 0.9)
    tune.lose("a", "0000")
    tune.write("0001", status=Status.RUNNING)
    tune.checkpoint("0001", 0.1, 0.2)  # a nested worker went on before it heard
    if killed == "its process":
        tune.lose("b", "0001")
    else:
        tune.study.end()
        tune = Follower(opened(home, shards, resume=True))
    assert tune.events[-2:] == [
        Event("report", "0001", epoch=1, score=0.1),
        Event("end", "0001", status="PRUNED", score=0.1),
    ]
    record = tune.record("0001")
    assert (record.status, record.epochs, record.metrics) == (Status.PRUNED, 2, {"dice_mean_per_image": 0.2})
    assert record.reason == "stopped by the scheduler after epoch 2"
    folder = tune.study.trial_folder("0001")
    assert (folder / "checkpoints/best.pt").exists()
    assert [json.loads(line)["epoch"] for line in (folder / "epochs.jsonl").read_text().splitlines()] == [1, 2]
    assert [tune.ask("c"), tune.ask("d")] == ["0000", "0002"]


@pytest.mark.parametrize("killed", ["its process", "the driver"])
def test_a_trial_that_trained_all_epochs_is_complete(killed: str, tune: Follower, home: Home, shards: Path) -> None:
    tune.ask("a")
    for epoch in (1, 2, 3):
        tune.report("a", epoch, 0.1 * epoch)
    tune.checkpoint("0000", 0.1, 0.2, 0.3, 0.4)
    if killed == "its process":
        tune.lose("a", "0000")
    else:
        tune.study.end()
        tune = Follower(opened(home, shards, resume=True))
    assert tune.events[-1] == Event("end", "0000", status="COMPLETED", score=0.4)
    assert (tune.record("0000").status, tune.record("0000").epochs) == (Status.COMPLETED, 4)


def test_a_damaged_checkpoint_fails_its_trial_alone(tune: Follower, home: Home, shards: Path) -> None:
    tune.ask("a")
    tune.checkpoint("0000", 0.5)
    (tune.study.trial_folder("0000") / "checkpoints/last.pt").write_bytes(b"")
    tune.lose("a", "0000")
    tune.study.end()
    assert Follower(opened(home, shards, resume=True)).ask("b") == "0000"  # which will say so


def test_torn_records_do_not_keep_a_study_from_going_on(tune: Follower, home: Home, shards: Path) -> None:
    """The machine died: of one trial that had ended, one that had finished an epoch, one that was about to start."""
    asked = [tune.ask(tune_id) for tune_id in ("a", "b", "c")]
    overrides = tune.study.log.asked.copy()
    tune.checkpoint("0001", 0.6)
    tune.write("0000", status=Status.COMPLETED, metrics={"dice_mean_per_image": 0.5})
    tune.searcher.on_trial_complete("a", {"epoch": 4, "score": 0.5})
    tune.report("b", 1, 0.6)
    records = [tune.study.trial_folder(name) / "record.json" for name in asked]
    for path in records:
        path.write_bytes(b"")
    assert tune.searcher.close()
    assert [path.stat().st_size > 0 for path in records] == [False, True, True]
    for path in records:
        path.write_bytes(b"")
    records[2].unlink()
    tune.study.end()
    again = Follower(opened(home, shards, resume=True))
    assert [again.ask("d"), again.ask("e"), again.ask("f")] == ["0001", "0002", "0003"]
    assert records[0].read_bytes() == b""  # the board says that it is torn
    begun, fresh = again.record("0001"), again.record("0002")
    assert (begun.overrides, begun.epochs, begun.metrics) == (overrides["0001"], 1, {"dice_mean_per_image": 0.6})
    assert (fresh.overrides, fresh.status, fresh.study) == (overrides["0002"], Status.PENDING, "s")


def test_a_trial_whose_record_is_torn_while_it_runs_goes_on(tune: Follower) -> None:
    tune.ask("a")
    (tune.study.trial_folder("0000") / "record.json").write_bytes(b"")
    tune.searcher.on_trial_complete("a", error=True)
    assert tune.events[-1] == Event("lost", "0000", reason="its process died")
    assert tune.ask("b") == "0000"


def test_a_trial_that_is_lost_again_and_again_fails(tune: Follower) -> None:
    for number in range(LOSSES_MAX):
        assert tune.ask(f"id{number}") == "0000"
        tune.lose(f"id{number}", "0000")
    assert tune.record("0000").status is Status.FAILED
    assert tune.record("0000").reason == "lost 3 times without finishing an epoch: The actor died."
    assert tune.ask("next") == "0001"


def test_losses_are_forgotten_when_an_epoch_is_finished(tune: Follower) -> None:
    """A spot machine may be taken back many times in a long trial."""
    for number in range(2 * LOSSES_MAX):
        assert tune.ask(f"id{number}") == "0000"
        tune.report(f"id{number}", number + 1, 0.5)
        tune.lose(f"id{number}", "0000")
    assert tune.record("0000").status is Status.RUNNING


def test_losses_count_over_a_resume(tune: Follower, home: Home, shards: Path) -> None:
    for number in range(LOSSES_MAX - 1):
        tune.ask(f"id{number}")
        tune.lose(f"id{number}", "0000")
    tune.study.end()
    again = Follower(opened(home, shards, resume=True))
    assert again.ask("late") == "0000"
    again.lose("late", "0000")
    assert again.record("0000").status is Status.FAILED


def test_out_of_memory_is_not_tried_again(tune: Follower) -> None:
    tune.ask("a")
    tune.lose("a", "0000", "The node was running low on memory and Ray killed the actor.")
    assert tune.record("0000").status is Status.FAILED
    assert "low on memory" in str(tune.record("0000").reason)


def test_a_failure_with_a_reason_is_not_tried_again(tune: Follower) -> None:
    tune.ask("a")
    tune.write("0000", status=Status.FAILED, reason="TrainingError: loss is nan")
    tune.searcher.on_trial_complete("a", error=True)
    assert tune.events[-1] == Event("end", "0000", status="FAILED")
    assert tune.ask("b") == "0001"


def test_the_target_ends_the_study(home: Home, shards: Path) -> None:
    tune = Follower(opened(home, shards, "study.budget.target=0.75"))
    tune.ask("a"), tune.ask("b")
    tune.report("a", 1, 0.7)
    assert tune.searcher.over() is None
    tune.write("0000", status=Status.RUNNING)
    tune.report("a", 2, 0.75)
    assert tune.searcher.over() == "the target dice_mean_per_image 0.75 is reached"
    assert tune.ask("c") == FINISHED
    assert tune.searcher.close()
    record = tune.record("0000")
    assert (record.status, record.reason) == (
        Status.INTERRUPTED,
        "the study ended before it: the target dice_mean_per_image 0.75 is reached",
    )
    tune.study.end()
    again = Follower(opened(home, shards, "study.budget.target=0.75", resume=True))
    assert again.searcher.done()
    again.study.end()
    more = Follower(opened(home, shards, "study.budget.target=0.8", resume=True))
    assert more.ask("d") == "0000"  # a higher target: it goes on


def test_the_hours_end_the_study_over_all_drivers(home: Home, shards: Path) -> None:
    tune = Follower(opened(home, shards, "study.budget.hours=1"))
    tune.study.log._before = 3500
    tune.ask("a")
    assert not tune.searcher.done()
    tune.study.end()
    again = Follower(opened(home, shards, "study.budget.hours=1", resume=True))
    assert not again.searcher.done()
    again.study.log._before += 101
    assert again.searcher.over() == "the budget of 1 hours is used up"
    assert again.ask("b") == FINISHED


def test_the_trials_end_the_study_when_none_of_them_runs(home: Home, shards: Path) -> None:
    tune = Follower(opened(home, shards, "study.budget.trials=1"))
    tune.ask("a")
    assert tune.ask("b") is None  # the one that runs may be lost yet
    tune.lose("a", "0000")
    assert tune.ask("c") == "0000"
    tune.write("0000", status=Status.COMPLETED)
    tune.searcher.on_trial_complete("c", {"epoch": 1, "score": 0.5})
    assert tune.ask("d") == FINISHED


def test_a_score_that_is_not_a_number_harms_nobody(tune: Follower) -> None:
    scheduler = scheduler_of(tune.study.search, tune.study.base, "max")
    trial = type("Trial", (), {"trial_id": "a", "config": {"trial_id": "0000"}})
    scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
    tune.ask("a")
    nan = {"epoch": 1, "score": float("nan")}
    assert scheduler.on_trial_result(None, trial, nan) == "CONTINUE"  # type: ignore[arg-type]
    tune.searcher.on_trial_result("a", nan)
    tune.write("0000", status=Status.COMPLETED)
    tune.searcher.on_trial_complete("a", {"epoch": 2, "score": float("nan")})
    assert tune.events[-1] == Event("end", "0000", status="COMPLETED")
    lines = (tune.study.folder / "events.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["kind"] for line in lines] == [
        "ask",
        "report",
        "report",
        "end",
    ]


@pytest.mark.parametrize(
    "words",
    [
        "study.space={train.epochs: {kind: choice, values: [2, 9]}}",
        "study.space={train.epochs: {kind: int, low: 2, high: 9}}",
        "study.points=[{train.epochs: 9}]",
        "train.epochs=9",
    ],
)
def test_no_trial_ends_before_the_epochs_that_it_asks_for(words: str, home: Home, shards: Path) -> None:
    tune = Follower(opened(home, shards, words))
    tune.ask("a")
    trial: Any = SimpleNamespace(config={"trial_id": "0000"})
    results = [{"epoch": epoch, "score": 0.5} for epoch in range(1, 10)]
    decisions = [tune.scheduler.on_trial_result(None, trial, result) for result in results]  # type: ignore[arg-type]
    assert decisions == ["CONTINUE"] * 8 + ["STOP"]


def test_it_gives_way_to_another_study(tune: Follower) -> None:
    """Two trials end while somebody else waits: Tune may keep one warm process, and only until the last trial ends."""
    tune.ask("a"), tune.ask("b")
    tune.free = False
    tune.write("0000", status=Status.COMPLETED)
    tune.searcher.on_trial_complete("a", {"epoch": 4, "score": 0.5})
    assert tune.ask("c") is None
    assert tune.held[-1] == 2  # the one that runs, and the warm process
    assert not tune.searcher.gave_way
    tune.write("0001", status=Status.COMPLETED)
    tune.searcher.on_trial_complete("b", {"epoch": 4, "score": 0.5})
    assert tune.ask("d") == FINISHED
    assert tune.searcher.gave_way
    assert tune.held[-1] == 0
    tune.searcher.start()  # its turn has come
    assert tune.ask("e") == "0002"


def test_fixed_points_run_as_they_are_given(home: Home, shards: Path) -> None:
    """With fields that the space does not have; of branches that they leave out, the defaults, as in any trial."""
    points = [{"model.width": 6, "optim.lr": 0.005, "train.batch_global": 4}, {"model.width": 4, "optim.lr": 0.5}]
    space = {
        "model.width": {"kind": "choice", "values": [4, 6]},
        "optim.lr": {"kind": "loguniform", "low": 0.001, "high": 0.01},
        "seed": {"kind": "choice", "values": [1, 2], "when": {"path": "model.width", "among": [4]}},
    }
    words = [f"study.space={json.dumps(space)}", f"study.points={json.dumps(points)}", "seed=7", "model.width=6"]
    tune = Follower(opened(home, shards, *words))
    for number in range(4):
        tune.ask(f"id{number}")
    base, inside, outside, searched = tune.study.log.asked.values()
    assert with_overrides(tune.study.base, base) == tune.study.base
    assert inside == points[0] | {"seed": 0}
    assert outside == points[1]
    assert searched.keys() == space.keys()
    assert set(tune.searcher._suggestions._ids) == {"0000", "0001", "0003"}  # those that Optuna hears of
    tune.study.end()
    again = Follower(opened(home, shards, *words, resume=True))
    assert set(again.searcher._suggestions._ids) == {"0000", "0001", "0003"}


def test_nothing_is_tried_twice(home: Home, shards: Path) -> None:
    """Six settings in all, drawn at random: the first six trials are all of them, and a resume agrees."""
    space = "study.space={model.width: {kind: choice, values: [4, 6]}, seed: {kind: int, low: 0, high: 2}}"
    words = [space, "study.budget.trials=7", "study.search.algorithm=random"]
    tune = Follower(opened(home, shards, *words))
    for number in range(7):
        tune.ask(f"id{number}")
    asked = [json.dumps(overrides) for overrides in tune.study.log.asked.values()]
    assert len(set(asked[:6])) == 6
    assert asked[6] in asked[:6]  # there is nothing new
    tune.study.end()
    again = Follower(opened(home, shards, *words, resume=True))
    assert len(again.searcher._suggestions._ids) == 7  # Optuna, asked again, gave the same answers


def test_losers_give_up_their_checkpoints(home: Home, shards: Path) -> None:
    tune = Follower(opened(home, shards, "study.resources.keep_best=1"))
    for number, score in enumerate((0.5, 0.9, 0.7)):
        trial = tune.ask(f"id{number}")
        best = tune.study.trial_folder(trial) / "checkpoints/best.pt"
        best.parent.mkdir()
        best.write_text("weights")
        metrics = {"dice_mean_per_image": score}
        tune.write(trial, status=Status.COMPLETED, metrics=metrics, checkpoint="checkpoints/best.pt")
        tune.searcher.on_trial_complete(f"id{number}", {"epoch": 4, "score": score})
    left = [path.parts[-3] for path in tune.study.folder.glob("trials/*/checkpoints/best.pt")]
    assert left == ["0001"]


@pytest.mark.parametrize(("condition", "group"), [("", False), (", when: {path: model.width, among: [4]}", True)])
def test_tpe_models_branches_apart_where_there_are_any(condition: str, group: bool) -> None:
    lr = f"{{kind: loguniform, low: 0.001, high: 0.1{condition}}}"
    space = f"study.space={{model.width: {{kind: choice, values: [4, 6]}}, optim.lr: {lr}}}"
    sampler: Any = sampler_of(load_search(SEARCH, [space])[0])
    assert (sampler._multivariate, sampler._group) == (True, group)
