"""Which checkpoints of a study stay on disk."""

from pathlib import Path

import pytest

from distseg.records import Status, TrialRecord
from distseg.search.keep import KeptCheckpoints


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path


def trial(
    study: Path, name: str, dice: float | None, status: Status = Status.COMPLETED, split: str = "a"
) -> tuple[Path, TrialRecord]:
    """A trial's folder with its checkpoints, and its record."""
    folder = study / name
    for file in ("last.pt", "best.pt", "epoch-0001.pt"):
        path = folder / "checkpoints" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("weights")
    record = TrialRecord(
        trial_id=name,
        status=status,
        task="binary",
        metric="dice",
        mode="max",
        architecture="unet",
        metrics={} if dice is None else {"dice": dice},
        epochs_planned=3,
        data="",
        data_digest="",
        split_digest=split,
        checkpoint=None if dice is None else "checkpoints/best.pt",
        created_at="",
    )
    record.save(folder)
    return folder, record


def left(study: Path) -> dict[str, list[str]]:
    """Checkpoints on disk, by trial."""
    return {
        folder.name: sorted(path.name for path in (folder / "checkpoints").iterdir())
        for folder in sorted(study.iterdir())
    }


def test_the_best_stay_and_the_losers_go(study: Path) -> None:
    kept = KeptCheckpoints(2, "dice", "max")
    trial(study, "running", 0.1)
    for name, dice in (("0", 0.5), ("1", 0.9), ("2", 0.7), ("3", 0.6)):
        kept.ended(*trial(study, name, dice))
    everything = ["best.pt", "epoch-0001.pt", "last.pt"]
    assert left(study) == {"0": [], "1": ["best.pt"], "2": ["best.pt"], "3": [], "running": everything}
    assert TrialRecord.load(study / "0").checkpoint is None  # the board promises nothing that is gone
    assert TrialRecord.load(study / "1").checkpoint == "checkpoints/best.pt"


def test_ties_with_the_last_that_stays_stay_too(study: Path) -> None:
    kept = KeptCheckpoints(1, "dice", "max")
    for name, dice in (("0", 0.9), ("1", 0.9), ("2", 0.8)):
        kept.ended(*trial(study, name, dice))
    assert left(study) == {"0": ["best.pt"], "1": ["best.pt"], "2": []}


def test_where_less_is_better(study: Path) -> None:
    kept = KeptCheckpoints(1, "dice", "min")
    for name, dice in (("0", 0.2), ("1", 0.1), ("2", 0.3)):
        kept.ended(*trial(study, name, dice))
    assert left(study) == {"0": [], "1": ["best.pt"], "2": []}


def test_failed_and_unmeasured_trials_keep_nothing(study: Path) -> None:
    kept = KeptCheckpoints(9, "dice", "max")
    kept.ended(*trial(study, "0", 0.9, Status.FAILED))
    kept.ended(*trial(study, "1", None))
    assert left(study) == {"0": [], "1": []}


def test_each_set_that_compares_keeps_its_own_best(study: Path) -> None:
    """Trials on two folds stand apart on the board, and either may be the ranked one in the end."""
    kept = KeptCheckpoints(1, "dice", "max")
    kept.ended(*trial(study, "0", 0.9, split="fold 0"))
    kept.ended(*trial(study, "1", 0.5, split="fold 1"))
    assert left(study) == {"0": ["best.pt"], "1": ["best.pt"]}


def test_a_killed_driver_finishes_the_work_when_it_replays(study: Path) -> None:
    """It died after the record had given up ``best.pt`` and before the file was gone."""
    folder, record = trial(study, "0", 0.4)
    record = record.model_copy(update={"checkpoint": None})
    record.save(folder)
    kept = KeptCheckpoints(1, "dice", "max")
    kept.ended(folder, record)
    assert left(study) == {"0": []}
