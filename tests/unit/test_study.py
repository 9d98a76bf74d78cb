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
from distseg.search.progress import ProgressLines
from distseg.search.study import Event, Study, open_study

SMOKE = Path(__file__).resolve().parents[2] / "configs/search/smoke.yaml"
OVERRIDES = {"model.width": 4, "optim.lr": 0.003, "augment.policy": "none"}


def opened(home: Home, shards: Path, *overrides: str, **options: Any) -> Study:
    return open_study(home, SMOKE, list(overrides), shards, **{"name": "first", **options})


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
    assert sorted(path.name for path in made.folder.iterdir()) == ["config.yaml", "search.yaml", "study.json"]
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
    "overrides",
    [["optim.weight_decay=0.5"], ["study.search.seed=1"], ["study.space={optim.lr: {kind: choice, values: [1]}}"]],
)
def test_a_resume_with_another_config_is_refused(overrides: list[str], study: Study, home: Home, shards: Path) -> None:
    with pytest.raises(HomeError, match=r"study 'first' was begun with another config or space"):
        opened(home, shards, *overrides, resume=True)


def test_a_resume_with_other_data_is_refused(study: Study) -> None:
    with pytest.raises(HomeError, match=r"was begun on data \w{8}, got 00000000; start a new one"):
        Study.resume(study.folder, study.search, study.base, "0" * 64)


def test_a_resume_may_raise_the_budget_and_change_the_resources(study: Study, home: Home, shards: Path) -> None:
    again = opened(home, shards, resume=True, trials=9, workers_per_trial=2)
    assert again.info.trials_planned == StudyInfo.load(study.folder).trials_planned == 9
    assert again.search.resources.workers_per_trial == 2
    again.begin()  # changes nothing


EVENTS = [
    Event("ask", "0000", overrides=OVERRIDES),
    Event("report", "0000", epoch=1, score=0.25),
    Event("report", "0000", epoch=2, score=0.0),
    Event("ask", "0001", overrides=OVERRIDES | {"model.width": 6}),
    Event("end", "0000", score=0.0, status="COMPLETED"),
]


def test_events_are_read_back(study: Study, home: Home, shards: Path) -> None:
    for event in EVENTS:
        study.append(event)
    again = opened(home, shards, resume=True)
    assert again.events == EVENTS
    assert again.asked() == {"0000": OVERRIDES, "0001": OVERRIDES | {"model.width": 6}}
    assert again.ended() == {"0000"}


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_dropped_and_the_next_is_whole(cut: int, study: Study, home: Home, shards: Path) -> None:
    """The driver was killed while it wrote the last event."""
    for event in EVENTS:
        study.append(event)
    path = study.folder / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    again = opened(home, shards, resume=True)
    assert again.events == EVENTS[:-1]
    again.append(EVENTS[-1])
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [event.kind for event in EVENTS]


def test_an_announced_trial_has_a_pending_record(study: Study) -> None:
    assert study.announce("0000", OVERRIDES)
    record = TrialRecord.load(study.trial_folder("0000"))
    assert (record.status, record.overrides, record.epochs_planned) == (Status.PENDING, OVERRIDES, 4)
    assert (record.data_digest, record.split_digest) == (study.info.data_digest, study.info.split_digest)
    assert study.events == [Event("ask", "0000", overrides=OVERRIDES)]


def test_whoever_finds_the_event_finds_a_record(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is killed between the two must leave a study that can be resumed."""

    class Killed(BaseException):
        pass

    def killed(self: TrialRecord, folder: Path) -> None:
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
        study.append(event)
    study.announce("0000", OVERRIDES)
    progress = ProgressLines(study, lines.append)  # of a resumed study: it has seen 0.25 already
    progress(Event("report", "0000", epoch=3, score=0.125))
    progress(Event("report", "0000", epoch=4, score=0.5))
    record = TrialRecord.load(study.trial_folder("0000"))
    record.model_copy(update={"status": Status.FAILED, "reason": "Error: no"}).save(study.trial_folder("0000"))
    end = Event("end", "0000", status="FAILED")
    study.append(end)
    progress(end)
    progress(replace(EVENTS[0], trial_id="0001"))
    assert [line.partition("trial ")[2] for line in lines] == [
        "0000  epoch 3/4  dice_mean_per_image 0.1250  best 0.2500 (0000)",
        "0000  epoch 4/4  dice_mean_per_image 0.5000  best 0.5000 (0000)",
        "0000  FAILED: Error: no  (1 of 4 trials ended)",
        "0001  starts   model.width=4 optim.lr=0.003 augment.policy=none",
    ]
