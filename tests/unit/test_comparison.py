"""The comparison of variants: figures by hand, what is told of few groups and failures, bars as long as they say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distseg.config import Dimension
from distseg.errors import ConfigError, HomeError, InputError
from distseg.home import Home
from distseg.records import Score, Status, TrialRecord
from distseg.scores import group_values, metrics_of, width
from distseg.search.comparison import Repeat, Unusable, compare, repeats
from distseg.search.comparison_chart import bar_chart
from distseg.search.comparison_table import markdown
from distseg.search.opening import Opening, check_unopened, openings
from distseg.search.space import grid

CLASSES = ("background", "car")
PIXELS = 100  # of each class in each group; with n hits each, IoU is n / (200 - n) for both classes


def repeat(variant: str, seed: int, hits: list[int], **changes: Any) -> Repeat:
    """A training that found ``hits[g]`` of the 100 pixels of either class in group g, of one image."""
    sums = {}
    for group, found in enumerate(hits):
        row = np.zeros(width(2))
        row[:4] = found, PIXELS - found, PIXELS - found, found
        row[4:7] = 1, found / PIXELS, found / (2 * PIXELS - found)  # images, Dice sum, IoU sum
        sums[f"car{group}"] = row
    total = np.sum(list(sums.values()), axis=0)
    found_in_all = Repeat(
        trial_id=f"{variant}-{seed}",
        variant=variant,
        seed=seed,
        metrics=metrics_of(total, CLASSES),
        groups=group_values(sums, 2),
        best_epoch=3,
        last=0.5,
        loss=0.1,
        images_seen=64,
        seconds=60.0,
    )
    return replace(found_in_all, **changes)


def table(found: list[Repeat], **changes: Any) -> Any:
    rules = {"split": "val", "metric": "dice_mean_per_image", "mode": "max", "baseline": "none"} | changes
    return compare(found, **rules)


FOUND = [
    repeat("none", 0, [50, 60, 70]),  # Dice per image .5 .6 .7: mean .6
    repeat("none", 1, [60, 70, 80]),  # .7
    repeat("flip", 0, [60, 70, 80]),  # .7
    repeat("flip", 1, [60, 80, 80]),  # .7333
]


def test_rows_by_hand() -> None:
    none, flip = table(FOUND).rows
    assert (none.variant, none.seeds, none.by_seed) == ("none", (0, 1), pytest.approx((0.6, 0.7)))
    assert (none.mean, none.spread) == (pytest.approx(0.65), pytest.approx(0.1 / 2**0.5))
    assert (none.difference, none.interval, none.seeds_better) == (None, None, None)
    # seed 0: .7 - .6; seed 1: .7333 - .7
    assert flip.difference == pytest.approx((0.1 + 1 / 30) / 2)
    assert flip.seeds_better == 2
    # IoU of a class: hits 180 of 300 + 120 others, and 210 of 300 + 90 others
    assert none.per_class["car"] == pytest.approx((180 / 420 + 210 / 390) / 2)
    assert (flip.best_epoch, flip.last, flip.loss, flip.images_seen, flip.seconds) == (3, 0.5, 0.1, 64, 60)


def test_interval_is_over_groups_and_paired() -> None:
    """One group, equally often in both, cancels out: a difference that all groups share has no width."""
    same = [repeat("none", 0, [50, 60, 90]), repeat("flip", 0, [55, 65, 95])]
    low, high = table(same).rows[1].interval
    assert (low, high) == (pytest.approx(0.05), pytest.approx(0.05))
    # averaged over seeds, the groups' differences are .05, .1, .05: draws of three groups have means from .05 to .1
    low, high = table(FOUND).rows[1].interval
    assert (low, high) == (pytest.approx(0.05), pytest.approx(0.1))


def test_seeds_are_paired_where_both_have_them() -> None:
    row = table([*FOUND, repeat("all", 1, [90, 90, 90])]).rows[2]
    assert (row.seeds, row.spread, row.seeds_better) == ((1,), None, 1)
    assert row.difference == pytest.approx(0.9 - 0.7)


def test_fewer_is_better_where_the_mode_says_so() -> None:
    assert table(FOUND, mode="min").rows[1].seeds_better == 0


def test_without_the_baseline_there_are_no_differences() -> None:
    found = table(FOUND[2:])
    assert (found.baseline, found.rows[0].difference) == (None, None)
    assert "95 %" not in markdown(found)


def test_table_tells_what_it_rests_on() -> None:
    one_group = [repeat("none", 0, [50]), repeat("flip", 0, [60], images_seen=65)]
    failed = Unusable(trial_id="0007", variant="all", seed=2, reason="RuntimeError: no")
    text = markdown(table(one_group, unusable=[failed]))
    assert "| flip    |     1 | 0.6000 |      - |   +0.1000 |             - |            1 |" in text
    assert "| car        | 0.3333 | 0.4286 |" in text
    assert "1 images of 1 group," in text
    assert "no interval over groups" in text
    assert "did NOT see the same number" in text
    assert "- left out: trial 0007 (all, seed 2): RuntimeError: no" in text
    assert "Every training saw the same number" in markdown(table(FOUND))
    assert "3 groups are few" in markdown(table(FOUND))
    many = [repeat("none", 0, [50] * 8), repeat("flip", 0, [60] * 8)]
    assert "groups are few" not in markdown(table(many))


def test_nothing_completed_is_said() -> None:
    assert "No training has completed" in markdown(table([]))


def bar_lengths(picture: Any, colour: tuple[int, int, int]) -> list[int]:
    """Of each bar of a colour, from the top: its width in pixels where nothing is drawn on it."""
    rows = (np.asarray(picture) == colour).all(axis=2).sum(axis=1)
    edges = np.flatnonzero(np.diff((rows > 15).astype(int)))  # a few pixels are the edges of letters
    return [int(rows[start + 2]) for start in edges[::2]]


def test_bars_are_as_long_as_they_say() -> None:
    found = [repeat("none", 0, [50, 50]), repeat("flip", 0, [75, 75])]
    picture = bar_chart(table(found), "title")
    _legend, mean, *classes = bar_lengths(picture, (0x8C, 0x8C, 0x8C))  # `none`: no bar of differences
    assert mean == pytest.approx(550, abs=2)  # Dice .5 of an axis of 1100 pixels from 0 to 1
    assert classes == [pytest.approx(1100 / 3, abs=2)] * 2  # IoU 1/3 of either class
    _legend, mean, difference, *classes = bar_lengths(picture, (0x44, 0x77, 0xAA))
    assert mean == pytest.approx(825, abs=2)
    assert difference == pytest.approx(1000, abs=2)  # .25 of an axis that has a tenth of room
    assert classes == [pytest.approx(1100 * 0.6, abs=2)] * 2


def test_equal_variants_can_be_drawn() -> None:
    bar_chart(table([repeat("none", 0, [50]), repeat("flip", 0, [50])]), "title")


def record(trial_id: str, **changes: Any) -> TrialRecord:
    fields: dict[str, Any] = {
        "trial_id": trial_id,
        "status": Status.COMPLETED,
        "task": "binary",
        "metric": "dice_mean_per_image",
        "mode": "max",
        "overrides": {"augment.policy": "flip", "seed": 4},
        "architecture": "unet",
        "metrics": {"dice_mean_per_image": 0.7},
        "epochs_planned": 2,
        "best_epoch": 1,
        "images_seen": 8,
        "data": "",
        "data_digest": "",
        "split_digest": "",
        "created_at": "",
    }
    return TrialRecord(**fields | changes)


def test_trials_are_read_as_training_left_them(tmp_path: Path) -> None:
    folder = tmp_path / "0000"
    folder.mkdir()
    (folder / "groups.json").write_text(json.dumps({"car0": {"images": 2}}))
    epochs = [{"loss": 0.9, "metrics": {"dice_mean_per_image": 0.7}}, {"loss": 0.2, "metrics": {}}]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in epochs))
    failed = record("0001", status=Status.FAILED, reason="no memory")
    found, unusable = repeats([record("0000"), failed], tmp_path, "augment.policy", "dice_mean_per_image")
    assert [(one.variant, one.seed, one.last, one.loss, one.groups) for one in found] == [
        ("flip", 4, None, 0.2, {"car0": {"images": 2}})
    ]
    assert [(one.trial_id, one.reason) for one in unusable] == [("0001", "no memory")]


def test_grid_is_every_combination() -> None:
    space = {
        "seed": Dimension(kind="choice", values=(0, 1)),
        "augment.policy": Dimension(kind="choice", values=("a", "b")),
    }
    assert grid(space) == [{"seed": seed, "augment.policy": policy} for seed in (0, 1) for policy in ("a", "b")]
    with pytest.raises(ConfigError, match=r"space\.optim\.lr: want a plain choice"):
        grid({"optim.lr": Dimension(kind="uniform", low=0.1, high=0.2)})


def opened(home: Home, name: str, digest: str) -> None:
    folder = home.study(name)
    folder.mkdir(parents=True)
    (folder / "study.json").write_text("{}")
    score = Score(metrics={}, intervals={}, groups={}, samples=1, resolution=None)
    Opening(split_digest=digest, opened_at="then", opened_before=(), scores={"0000": score}).save(folder)


def test_a_second_look_at_the_test_groups_is_refused(home: Home) -> None:
    check_unopened(home, "d1")
    opened(home, "first", "d1")
    check_unopened(home, "d2")  # another split
    with pytest.raises(InputError, match=r"study 'first' opened these test groups at then.*--open-test-again"):
        check_unopened(home, "d1")
    assert list(openings(home, "d1")) == ["first"]


def test_a_torn_opening_is_no_permission(home: Home) -> None:
    opened(home, "first", "d1")
    (home.study("first") / "test.json").write_text("{")
    with pytest.raises(HomeError, match=r"test\.json: torn"):
        check_unopened(home, "d1")
