"""Ties: the paired bootstrap over groups, from the runs' groups.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.leaderboard.board import BoardReader, read_board
from distseg.leaderboard.render import board_text
from distseg.leaderboard.store import Trial
from distseg.leaderboard.ties import Evidence
from distseg.records import Status, StudyInfo, TrialRecord
from distseg.scores import group_values, intervals, width

DICE = "dice_mean_per_image"


def group(dice: float, images: int = 4) -> dict[str, Any]:
    """Counts of one group whose images have this mean Dice; its IoU is unlike its Dice."""
    sums = np.zeros(width(2))
    sums[:4] = 50, 5, 5, 40
    sums[4], sums[5], sums[6] = images, images * dice, images * dice * 0.9
    sums[7:] = 1
    return group_values({"g": sums}, 2)["g"]


def trial(root: Path, name: str, groups: dict[str, float] | None, metrics: dict[str, Any] | None = None) -> Trial:
    """A trial on disk whose groups have these mean Dices."""
    folder = root / "trials" / name
    mean = float(np.mean([*groups.values()])) if groups else 0.5
    record = TrialRecord(
        trial_id=name,
        study=root.name,
        status=Status.COMPLETED,
        task="binary",
        metric=DICE,
        mode="max",
        architecture="unet",
        metrics={DICE: mean} if metrics is None else metrics,
        epochs_planned=1,
        data="/shards",
        data_digest="d" * 64,
        split_digest="5" * 64,
        resolution=(64, 64),
        created_at="2025-01-01T00:00:00",
    )
    record.save(folder)
    if groups is not None:
        (folder / "groups.json").write_text(json.dumps({name: group(dice) for name, dice in groups.items()}))
    return Trial(record, folder, root.name)


def study(root: Path, trials: int = 9) -> Path:
    info = StudyInfo(
        name=root.name,
        metric=DICE,
        mode="max",
        base="base",
        trials_planned=trials,
        data="/shards",
        data_digest="d" * 64,
        split_digest="5" * 64,
        created_at="2025-01-01T00:00:00",
        version="0",
    )
    root.mkdir(exist_ok=True, parents=True)
    (root / "study.json").write_text(info.model_dump_json())
    return root


HARD_AND_EASY = {f"g{n}": 0.5 + 0.05 * n for n in range(10)}
"""Ten groups whose Dices run from 0.5 to 0.95: each trial's own interval is wide."""


def test_a_small_but_steady_gap_is_no_tie(tmp_path: Path) -> None:
    best = trial(tmp_path, "0000", HARD_AND_EASY)
    worse = trial(tmp_path, "0001", {name: dice - 0.01 for name, dice in HARD_AND_EASY.items()})
    [interval] = Evidence(DICE).differences(best, [worse])
    assert interval == pytest.approx((-0.01, -0.01))  # in every draw: unpaired intervals would overlap by far


def test_a_gap_that_changes_sides_is_a_tie(tmp_path: Path) -> None:
    best = trial(tmp_path, "0000", HARD_AND_EASY)
    other = trial(
        tmp_path,
        "0001",
        {name: dice + (-0.05 if n % 2 else 0.04) for n, (name, dice) in enumerate(HARD_AND_EASY.items())},
    )
    [interval] = Evidence(DICE).differences(best, [other])
    assert interval is not None
    # mean -0.005, standard deviation of a group 0.045: about +- 1.96 * 0.045 / sqrt(10)
    assert interval == pytest.approx((-0.033, 0.023), abs=0.004)


def test_the_same_each_time_and_mirrored(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    one, two = (
        trial(tmp_path, name, {f"g{n}": x for n, x in enumerate(generator.random(7))}) for name in ("0000", "0001")
    )
    [forth] = Evidence(DICE).differences(one, [two])
    [again] = Evidence(DICE).differences(one, [two])
    [back] = Evidence(DICE).differences(two, [one])
    assert forth == again
    assert forth is not None
    assert back is not None
    assert back == pytest.approx((-forth[1], -forth[0]))


def test_against_a_constant_it_is_the_interval_of_the_trial_itself(tmp_path: Path) -> None:
    zero = trial(tmp_path, "0000", dict.fromkeys(HARD_AND_EASY, 0.0))
    own = trial(tmp_path, "0001", HARD_AND_EASY)
    rows = np.array([[50, 5, 5, 40, 4, 4 * dice, 4 * dice * 0.9, 1, 1, 1, 1] for dice in HARD_AND_EASY.values()])
    assert Evidence(DICE).differences(zero, [own]) == [pytest.approx(intervals(rows, 2)[DICE])]


def test_only_groups_that_both_have_count(tmp_path: Path) -> None:
    best = trial(tmp_path, "0000", HARD_AND_EASY)
    steady = {name: dice - 0.01 for name, dice in HARD_AND_EASY.items()}
    other = trial(tmp_path, "0001", {**{name: steady[name] for name in ("g1", "g4", "g7")}, "of its own": 0.0})
    alone = trial(tmp_path, "0002", {"g1": 0.5, "elsewhere": 0.5})
    found = Evidence(DICE).differences(best, [other, alone])
    assert found == [pytest.approx((-0.01, -0.01)), None]


def test_what_cannot_be_told_is_none(tmp_path: Path) -> None:
    best = trial(tmp_path, "0000", HARD_AND_EASY)
    nothing = trial(tmp_path, "0001", None)
    torn = trial(tmp_path, "0002", HARD_AND_EASY)
    path = torn.folder / "groups.json"
    path.write_text(path.read_text()[:-20])
    other_kind = trial(tmp_path, "0003", HARD_AND_EASY)
    (other_kind.folder / "groups.json").write_text('{"a": {"matches": [1]}, "b": {"matches": [2]}}')
    single = trial(tmp_path, "0004", {"g0": 0.5})
    assert Evidence(DICE).differences(best, [nothing, torn, other_kind, single]) == [None] * 4
    assert Evidence("mask_ap").differences(best, [best]) == [None]
    assert Evidence(DICE).differences(nothing, [best]) == [None]


def test_tied_rows_are_marked_and_keep_their_ranks(tmp_path: Path) -> None:
    root = study(tmp_path / "cars")
    trial(root, "0000", HARD_AND_EASY)
    trial(root, "0001", {name: dice - 0.01 for name, dice in HARD_AND_EASY.items()})
    swings = (-0.06 if n % 2 else 0.01 for n in range(10))
    trial(root, "0002", {name: dice + swing for (name, dice), swing in zip(HARD_AND_EASY.items(), swings, strict=True)})
    trial(root, "0003", None)
    board = read_board(root)
    told = [(row.trial_id, row.rank, row.tied, row.difference is None) for row in board.rows]
    assert told == [
        ("0000", 1, False, True),
        ("0001", 2, False, False),
        ("0002", 3, False, False),
        ("0003", 4, None, True),
    ]
    trial(
        root, "0002", {name: dice + (-0.03 if n % 2 else 0.025) for n, (name, dice) in enumerate(HARD_AND_EASY.items())}
    )
    board = read_board(root)
    assert [(row.trial_id, row.rank, row.tied) for row in board.rows[:3]] == [
        ("0000", 1, True),
        ("0002", 2, True),
        ("0001", 3, False),
    ]
    lines = board_text(board, 80).plain.splitlines()
    assert [line.split()[0] for line in lines[5:9]] == ["1=", "2=", "3", "4"]
    assert "= tied with the best: the 95 % interval of the difference contains zero" in lines


def test_a_reader_follows_what_changes(tmp_path: Path) -> None:
    root = study(tmp_path / "cars")
    reader = BoardReader([root])
    assert reader.read().rows == ()
    trial(root, "0000", HARD_AND_EASY)
    trial(root, "0001", {name: dice - 0.01 for name, dice in HARD_AND_EASY.items()})
    assert [row.tied for row in reader.read().rows] == [False, False]
    trial(root, "0001", {name: dice + 0.01 for name, dice in HARD_AND_EASY.items()})
    assert [(row.trial_id, row.tied) for row in reader.read().rows] == [("0001", False), ("0000", False)]
    assert reader.read() == read_board(root)
