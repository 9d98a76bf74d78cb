"""A study on disk: its files, its record of events, and what a resume is refused for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distseg import config
from distseg.config import load_search
from distseg.errors import ConfigError, DataError, HomeError
from distseg.home import Home
from distseg.records import Status, StudyInfo, TrialRecord
from distseg.search.events import Event
from distseg.search.progress import ProgressLines
from distseg.search.start import StudyRequest, open_study
from distseg.search.study import Study

SMOKE = Path(__file__).resolve().parents[2] / "configs/search/smoke.yaml"
OVERRIDES = {"model.width": 4, "optim.lr": 0.003, "augment.policy": "none"}


def opened(home: Home, shards: Path, *overrides: str, **options: Any) -> Study:
    return open_study(home, SMOKE, list(overrides), shards, StudyRequest(**{"name": "first", **options}))[0]


@pytest.fixture
def study(home: Home, shards: Path) -> Study:
    """A new study that has begun."""
    made = opened(home, shards)
    made.begin()
    return made


def test_nothing_is_written_before_it_begins(home: Home, shards: Path) -> None:
    made = opened(home, shards)
    assert not home.root.exists()
    made.begin()
    assert sorted(path.name for path in made.folder.iterdir()) == ["config.yaml", "lock", "search.yaml", "study.json"]
    assert home.study_names() == ["first"]
    assert StudyInfo.load(made.folder) == made.info


def test_its_files_make_the_study_again(study: Study) -> None:
    search, base = load_search(study.folder / "search.yaml")
    assert base == study.base
    assert search.model_copy(update={"base": study.search.base}) == study.search


def test_a_name_that_exists_is_refused(study: Study, home: Home, shards: Path) -> None:
    before = (study.folder / "study.json").read_bytes()
    with pytest.raises(HomeError, match=r"study 'first' exists already in .*; go on with it by --resume"):
        opened(home, shards)
    assert (study.folder / "study.json").read_bytes() == before


def test_of_two_that_take_a_name_at_once_one_has_it(home: Home, shards: Path) -> None:
    one, other = opened(home, shards), opened(home, shards, "seed=7")
    one.begin()
    with pytest.raises(HomeError, match="exists already"):
        other.begin()
    assert config.load_run(one.folder / "config.yaml").seed == 0


def test_a_name_of_its_own(home: Home, shards: Path) -> None:
    names = {opened(home, shards, name=None).info.name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("smoke-") for name in names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "a/b"}, HomeError, r"study name 'a/b': want letters"),
        ({"name": ".."}, HomeError, r"study name '..': want letters"),
        ({"resume": True}, HomeError, r"study 'first': not found in .*; studies there: none yet"),
        ({"resume": True, "name": None}, HomeError, r"--resume: which study\?"),
        ({"trials": 0}, ConfigError, r"budget.trials: .*greater than 0, got 0"),
    ],
)
def test_what_is_refused_writes_nothing(
    options: dict[str, Any], error: type[Exception], message: str, home: Home, shards: Path
) -> None:
    with pytest.raises(error, match=message):
        opened(home, shards, **options)
    assert not home.root.exists()


def test_shards_that_are_not_there(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.json: cannot be read"):
        opened(home, tmp_path)
    assert not home.root.exists()


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("optim.weight_decay=0.5", "base config"),
        ("study.search.seed=1", "search"),
        ("study.space={optim.lr: {kind: choice, values: [1]}}", "space"),
        ("study.points=[{optim.lr: 0.1}]", "points"),
    ],
)
def test_a_resume_with_another_config_is_refused(
    override: str, what: str, study: Study, home: Home, shards: Path
) -> None:
    with pytest.raises(HomeError, match=rf"study 'first' was begun with another {what}; see .*search.yaml, give"):
        opened(home, shards, override, resume=True)


def test_a_resume_with_other_data_is_refused(study: Study) -> None:
    with pytest.raises(HomeError, match=r"was begun on data \w{8}, got 00000000; start a new one"):
        Study.resume(study.folder, study.search, study.base, "0" * 64)


def test_a_resume_may_raise_the_budget_and_change_the_resources(study: Study, home: Home, shards: Path) -> None:
    study.end()
    again = opened(home, shards, resume=True, trials=9, workers_per_trial=2)
    assert StudyInfo.load(study.folder) == study.info  # nothing is written before it begins
    again.begin()
    assert again.info.trials_planned == StudyInfo.load(study.folder).trials_planned == 9
    assert load_search(study.folder / "search.yaml")[0].resources.workers_per_trial == 2


def test_a_study_that_runs_is_left_alone(study: Study, home: Home, shards: Path) -> None:
    again = opened(home, shards, resume=True)
    with pytest.raises(HomeError, match=r"study 'first' is running already; follow it by"):
        again.begin()
    study.end()
    again.begin()


EVENTS = [
    Event("ask", "0000", overrides=OVERRIDES),
    Event("report", "0000", epoch=1, score=0.25),
    Event("report", "0000", epoch=2, score=0.0),
    Event("ask", "0001", overrides=OVERRIDES | {"model.width": 6}),
    Event("end", "0000", score=0.0, status="COMPLETED"),
]


def test_events_are_read_back(study: Study, home: Home, shards: Path) -> None:
    for event in EVENTS:
        study.log.append(event)
    again = opened(home, shards, resume=True)
    assert again.log.events == EVENTS
    assert again.log.asked == {"0000": OVERRIDES, "0001": OVERRIDES | {"model.width": 6}}
    assert again.log.ended == {"0000": "COMPLETED"}


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_dropped_and_the_next_is_whole(cut: int, study: Study, home: Home, shards: Path) -> None:
    """The driver was killed while it wrote the last event."""
    for event in EVENTS:
        study.log.append(event)
    path = study.folder / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    study.end()
    again = opened(home, shards, resume=True)
    again.begin()
    assert again.log.events == EVENTS[:-1]
    again.log.append(EVENTS[-1])
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [event.kind for event in EVENTS]


def test_an_announced_trial_has_a_pending_record(study: Study) -> None:
    assert study.announce("0000", OVERRIDES)
    record = TrialRecord.load(study.trial_folder("0000"))
    assert (record.status, record.overrides, record.epochs_planned) == (Status.PENDING, OVERRIDES, 4)
    assert (record.data_digest, record.split_digest) == (study.info.data_digest, study.info.split_digest)
    assert study.log.events == [Event("ask", "0000", overrides=OVERRIDES)]


def test_whoever_finds_the_event_finds_a_record(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is killed between the two must leave a study that can be resumed."""

    class Killed(BaseException):
        pass

    def killed(self: TrialRecord, folder: Path, *, wait: bool) -> None:
        raise Killed

    monkeypatch.setattr(TrialRecord, "save", killed)
    with pytest.raises(Killed):
        study.announce("0000", OVERRIDES)
    assert not (study.folder / "events.jsonl").exists()


def test_overrides_that_make_no_config_are_a_failed_row(study: Study) -> None:
    assert not study.announce("0000", {"model.architecture": "unet"})
    record = TrialRecord.load(study.trial_folder("0000"))
    assert record.status is Status.FAILED
    assert str(record.reason).startswith("ConfigError: trial 0000: model.encoder: missing")


def test_progress_follows_the_best(study: Study) -> None:
    lines: list[str] = []
    for event in EVENTS[:2]:
        study.log.append(event)
    study.announce("0000", OVERRIDES)
    progress = ProgressLines(study, lines.append)  # of a resumed study: it has seen 0.25 already
    progress(Event("report", "0000", epoch=3, score=0.125))
    progress(Event("report", "0000", epoch=4, score=0.5))
    record = TrialRecord.load(study.trial_folder("0000"))
    record.model_copy(update={"status": Status.FAILED, "reason": "Error: no"}).save(study.trial_folder("0000"))
    end = Event("end", "0000", status="FAILED")
    study.log.append(end)
    progress(end)
    progress(replace(EVENTS[0], trial_id="0001"))
    assert [line.partition("trial ")[2] for line in lines] == [
        "0000  epoch 3/4  dice_mean_per_image 0.1250  best 0.2500 (0000)",
        "0000  epoch 4/4  dice_mean_per_image 0.5000  best 0.5000 (0000)",
        "0000  FAILED: Error: no  (1 of 4 trials ended)",
        "0001  starts   model.width=4 optim.lr=0.003 augment.policy=none",
    ]


def test_time_is_counted_over_all_drivers(study: Study, home: Home, shards: Path) -> None:
    """A driver that was killed after an hour has used an hour of the budget, and the night after it nothing."""
    study.log._before = 3600
    study.log.append(EVENTS[0])
    study.end()
    again = opened(home, shards, resume=True)
    assert 3600 <= again.log.seconds < 3660


def test_a_random_search_is_one_flag(home: Home, shards: Path) -> None:
    made = opened(home, shards, name=None, random=True)
    assert made.search.search.algorithm == "random"
    assert made.info.name.startswith("smoke-random-")
    assert made.search.budget == opened(home, shards).search.budget


def test_the_next_attempt_of_a_job_resumes_its_study(home: Home, shards: Path) -> None:
    first = opened(home, shards, name=None, job_id="job-1")
    first.begin()
    first.end()
    assert opened(home, shards, name=None, job_id="job-1").info == first.info
    assert opened(home, shards, name=first.info.name, job_id="job-1").info == first.info
    assert opened(home, shards, name=None, job_id="job-2").info.name != first.info.name
    with pytest.raises(HomeError, match="exists already"):
        opened(home, shards, name=first.info.name, job_id="job-2")
    with pytest.raises(HomeError, match="exists already"):
        opened(home, shards, name=first.info.name)


def measured(study: Study, trial_id: str, overrides: dict[str, Any], dice: float) -> None:
    study.announce(trial_id, overrides)
    record = TrialRecord.load(study.trial_folder(trial_id))
    changes = {"status": Status.COMPLETED, "metrics": {"dice_mean_per_image": dice}}
    record.model_copy(update=changes).save(study.trial_folder(trial_id))


def test_a_warm_start_begins_with_the_best_of_an_earlier_study(study: Study, home: Home, shards: Path) -> None:
    base = {"model.width": 4, "optim.lr": 0.003, "augment.policy": "flip"}  # what the base config itself says
    measured(study, "0000", base, 0.99)
    measured(study, "0001", OVERRIDES | {"model.width": 6}, 0.5)
    measured(study, "0002", OVERRIDES | {"optim.lr": 0.002}, 0.8)
    measured(study, "0003", OVERRIDES | {"optim.lr": 0.002}, 0.7)  # the same again
    measured(study, "0004", OVERRIDES | {"optim.lr": 0.009}, float("nan"))
    made, notes = open_study(home, SMOKE, [], shards, StudyRequest(name="second", warm_start="first"))
    assert made.search.points == (OVERRIDES | {"optim.lr": 0.002}, OVERRIDES | {"model.width": 6})
    assert notes == ["warm start: 2 points from study first"]
    assert made.info.warm_start == "first"
    made.begin()
    made.end()
    assert opened(home, shards, name="second", resume=True).search.points == made.search.points


def test_a_warm_start_takes_as_many_as_would_have_been_random(study: Study, home: Home, shards: Path) -> None:
    for number in range(4):
        measured(study, f"000{number}", OVERRIDES | {"optim.lr": 0.002 + 0.001 * number}, 0.1 * number)
    request = StudyRequest(name="second", warm_start="first")
    made, _ = open_study(home, SMOKE, ["study.search.startup_trials=2"], shards, request)
    assert [round(point["optim.lr"], 3) for point in made.search.points] == [0.005, 0.004]


def test_a_warm_start_names_the_fields_that_it_leaves(study: Study, home: Home, shards: Path) -> None:
    measured(study, "0000", OVERRIDES, 0.5)
    space = "study.space={optim.lr: {kind: loguniform, low: 0.001, high: 0.1}}"
    made, notes = open_study(home, SMOKE, [space], shards, StudyRequest(name="second", warm_start="first"))
    assert made.search.points == ()  # its learning rate is the base config's
    assert notes[-1] == (
        "warm start: first searched augment.policy, model.width, which this study leaves at its base config"
    )


def test_what_a_warm_start_refuses(study: Study, home: Home, shards: Path) -> None:
    def start(name: str) -> None:
        open_study(home, SMOKE, [], shards, StudyRequest(name="second", warm_start=name))

    with pytest.raises(HomeError, match="study 'nobody': not found"):
        start("nobody")
    with pytest.raises(HomeError, match=r"--warm-start first: none of its trials has dice_mean_per_image"):
        start("first")
    other = study.info.model_copy(update={"data_digest": "0" * 64})
    (study.folder / "study.json").write_text(other.model_dump_json())
    with pytest.raises(HomeError, match=r"--warm-start first: its trials saw data 00000000, this study sees \w{8}; "):
        start("first")


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("{gpus_per_worker: 1.5}", "gpus_per_worker: got 1.5, want a fraction of one GPU or a whole number"),
        ("{gpus_per_worker: 0.5, workers_per_trial: 2}", "got 0.5 for 2 workers_per_trial, want a whole number"),
    ],
)
def test_gpus_that_no_trial_can_hold(resources: str, message: str, home: Home, shards: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(home, shards, f"study.resources={resources}")
