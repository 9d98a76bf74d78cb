"""What a study tells MLflow, which is no dependency of ours: a stand-in has the few calls that are used."""

import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from distseg.errors import InputError
from distseg.home import Home
from distseg.records import Status, TrialRecord
from distseg.search.events import Event
from distseg.search.mlflow import MlflowRuns
from distseg.search.start import StudyRequest, open_study
from distseg.search.study import Study

SMOKE = Path(__file__).resolve().parents[2] / "configs/search/smoke.yaml"
OVERRIDES = {"model.width": 4, "optim.lr": 0.003, "augment.policy": "none"}


class Client:
    """MlflowClient as it is documented, over one store in memory."""

    def __init__(self, store: dict[str, Any], uri: str) -> None:
        if uri == "nowhere":
            raise ConnectionError("nobody listens")
        self.store = store

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in self.store["experiments"] else None

    def create_experiment(self, name: str) -> str:
        self.store["experiments"].append(name)
        return name

    def create_run(self, experiment_id: str, run_name: str, tags: dict[str, str]) -> Any:
        run_id = f"run-{len(self.store['runs'])}"
        run = SimpleNamespace(data=SimpleNamespace(tags=dict(tags)), info=SimpleNamespace(run_id=run_id))
        self.store["runs"][run_id] = run
        return run

    def search_runs(self, experiment_ids: list[str], max_results: int) -> list[Any]:
        return list(self.store["runs"].values())

    def log_param(self, run_id: str, key: str, value: Any) -> None:
        self.store["params"][run_id][key] = value

    def log_metric(self, run_id: str, key: str, value: float, step: int | None = None) -> None:
        self.store["metrics"][run_id].append((key, value, step))

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.store["runs"][run_id].data.tags[key] = value

    def set_terminated(self, run_id: str, status: str) -> None:
        self.store["ended"][run_id] = status


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    kept: dict[str, Any] = {"experiments": [], "runs": {}, "ended": {}}
    kept |= {"params": defaultdict(dict), "metrics": defaultdict(list)}
    module = ModuleType("mlflow")
    vars(module)["MlflowClient"] = lambda tracking_uri: Client(kept, tracking_uri)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return kept


@pytest.fixture
def study(home: Home, shards: Path) -> Study:
    made, _ = open_study(home, SMOKE, [], shards, StudyRequest(name="first"))
    made.begin()
    made.announce("0000", OVERRIDES)
    return made


def test_a_trial_is_a_run_over_two_drivers(study: Study, store: dict[str, Any]) -> None:
    follow = MlflowRuns(study, "here")
    follow(Event("ask", "0000", overrides=OVERRIDES))
    follow(Event("report", "0000", epoch=1, score=0.25))
    follow = MlflowRuns(study, "here")  # a resume
    follow(Event("report", "0000", epoch=2, score=None))
    follow(Event("report", "0000", epoch=3, score=0.5))
    record = TrialRecord.load(study.trial_folder("0000"))
    changes = {"status": Status.PRUNED, "metrics": {"dice_mean_per_image": 0.5, "per_class": []}}
    record.model_copy(update=changes).save(study.trial_folder("0000"))
    follow(Event("end", "0000", status="PRUNED", score=0.5))
    assert store["experiments"] == ["first"]
    assert list(store["runs"]) == ["run-0"]
    assert store["runs"]["run-0"].data.tags["distseg.status"] == "PRUNED"
    assert store["params"]["run-0"] == OVERRIDES
    metric = "dice_mean_per_image"
    assert store["metrics"]["run-0"] == [(metric, 0.25, 1), (metric, 0.5, 3), (f"best.{metric}", 0.5, None)]
    assert store["ended"] == {"run-0": "FINISHED"}


def test_a_failed_trial_is_a_failed_run(study: Study, store: dict[str, Any]) -> None:
    MlflowRuns(study, "here")(Event("end", "0000", status="FAILED"))
    assert store["ended"] == {"run-0": "FAILED"}


def test_a_tracker_that_goes_away_does_not_end_the_study(
    study: Study, store: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    follow = MlflowRuns(study, "here")
    store["metrics"] = None
    follow(Event("report", "0000", epoch=1, score=0.25))
    store["metrics"] = defaultdict(list)  # it is back, but to ask it each time would cost a minute each time
    follow(Event("report", "0000", epoch=2, score=0.25))
    assert store["metrics"] == {}
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "MLflow does not answer; the study goes on, and tells it nothing more until it is resumed"
    ]


def test_what_cannot_work_is_said_at_the_start(
    study: Study, store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"^--mlflow nowhere: nobody listens; want the URI of an MLflow server"):
        MlflowRuns(study, "nowhere")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="--mlflow: the package mlflow is not installed"):
        MlflowRuns(study, "here")
