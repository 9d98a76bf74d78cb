"""The augmentation level: its course by hand, what it does to samples, and that a step has one whatever happens."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import Stop, assert_same_end, final, kill_at, spec_of, worker

from distseg import checkpoint
from distseg.augment.adaptive import UNITS, Course, end_window, level_at, moved, signal, start, window_steps
from distseg.augment.policies import draw_adaptive, draw_randaugment, draw_trivial
from distseg.config import AdaptiveConfig, AugmentConfig, LossConfig, RunConfig
from distseg.data.manifest import ShardFolder
from distseg.data.stream import EvalBatches, open_split
from distseg.export.build import restore_predictor
from distseg.losses import build_loss
from distseg.records import read_json_lines
from distseg.train.levels import Levels, error_units
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec

IMAGES = 100
"""Of each window here."""


def course_of(cfg: AdaptiveConfig, errors: Sequence[float]) -> list[Course]:
    """The course at the start of each window, when the windows have these mean errors."""
    courses = [start(cfg)]
    for error in errors:
        courses.append(end_window(cfg, replace(courses[-1], error_units=error * IMAGES * UNITS), IMAGES))
    return courses


def levels_of(cfg: AdaptiveConfig, errors: Sequence[float]) -> list[float]:
    return [round(course.level, 9) for course in course_of(cfg, errors)]


def test_the_course_of_a_loss_by_hand() -> None:
    # 2 a thousand images: 0.2 a window. The target is 0.25 of the first loss, which is 0.8: 0.2. The dead band is a
    # tenth of that: nothing moves between 0.18 and 0.22.
    cfg = AdaptiveConfig(target=0.25, dead_band=0.1, speed=2.0, max=0.5, half_life_images=0)
    losses = [0.8, 0.4, 0.16, 0.12, 0.10, 0.19, 0.21, 0.24, 0.30, 0.10]
    # moves:  -    -    +     +     +     0     0     -     -     +     of the level two windows later
    # decided 0    0    0.2   0.4   0.5   0.5   0.5   0.3   0.1   0.3   (0.6 is more than max)
    assert levels_of(cfg, losses) == [0, 0, 0, 0, 0.2, 0.4, 0.5, 0.5, 0.5, 0.3, 0.1]
    last = course_of(cfg, losses)[-1]
    assert last.next_level == pytest.approx(0.3)
    assert (last.first_error, last.error_units) == (pytest.approx(0.8), 0)


def test_the_course_of_soft_dice_by_hand() -> None:
    # absolute: up below 0.1, whatever the first window had; 0.05 a window
    cfg = AdaptiveConfig(error="soft_dice", target=0.1, dead_band=0, speed=0.5, start=0.3, half_life_images=0)
    assert levels_of(cfg, [0.09, 0.05, 0.1, 0.2, 0.2]) == [0.3, 0.3, 0.35, 0.4, 0.4, 0.35]


def test_smoothing_by_hand() -> None:
    # a half-life of one window: s = (s + e) / 2, that is 0.8, 0.5, 0.35, 0.275
    cfg = AdaptiveConfig(half_life_images=IMAGES)
    assert [course.error for course in course_of(cfg, [0.8, 0.2, 0.2, 0.2])] == [
        None,
        *(pytest.approx(error, abs=1e-6) for error in (0.8, 0.5, 0.35, 0.275)),
    ]
    # two windows of half a half-life weigh as much as one of a whole one
    halves = AdaptiveConfig(half_life_images=2 * IMAGES)
    assert course_of(halves, [0.8, 0.2, 0.2])[-1].error == pytest.approx(0.5, abs=1e-6)


def test_the_gap_by_hand() -> None:
    cfg = AdaptiveConfig(signal="gap", target=0.25, dead_band=0.1, speed=1.0, half_life_images=0)
    course = replace(start(cfg), error=0.3, first_error=0.9, next_level=0.5)
    assert signal(cfg, course) is None  # not validated yet: the level rests
    assert moved(cfg, 0.5, None, IMAGES) == 0.5
    # validation error, gap = 1 - 0.3 / it, and the move by 0.1; at rest between 0.225 and 0.275
    for validation, gap, level in ((0.6, 0.5, 0.6), (0.4, 0.25, 0.5), (0.31, 0.0323, 0.4), (0.2, -0.5, 0.4)):
        measured = signal(cfg, replace(course, validation_error=validation))
        assert measured == pytest.approx(gap, abs=1e-3)
        assert moved(cfg, 0.5, measured, IMAGES) == pytest.approx(level)


@given(
    errors=st.lists(st.floats(0, 3), min_size=1, max_size=30),
    speed=st.floats(0.01, 50),
    top=st.floats(0, 1),
    target=st.floats(0.01, 0.99),
)
def test_the_level_moves_by_a_bounded_amount_within_its_range(
    errors: list[float], speed: float, top: float, target: float
) -> None:
    cfg = AdaptiveConfig(speed=speed, max=top, target=target)
    levels = [course.level for course in course_of(cfg, errors)]
    assert all(0 <= level <= top for level in levels)
    assert all(abs(one - other) <= speed * IMAGES / 1000 + 1e-9 for one, other in pairwise(levels))


def test_the_level_moves_by_images_not_by_steps() -> None:
    """At batch 4 and at batch 32, a window of 64 images and the same level after 640 of them."""
    cfg = AdaptiveConfig(window_images=64, speed=0.5)
    after = []
    for batch in (4, 32):
        steps = window_steps(cfg, batch)
        assert steps * batch == 64
        level = 0.0
        for _ in range(640 // 64):
            level = moved(cfg, level, 0.0, steps * batch)
        after.append(level)
    assert after == [pytest.approx(0.32)] * 2  # 0.5 * 0.64


def test_errors_add_up_exactly_in_any_order() -> None:
    errors = torch.rand(1000, generator=torch.Generator().manual_seed(0)) ** 8  # from 1e-20 to 1
    whole = error_units(errors).item()
    for parts in (3, 7, 16):
        shuffled = errors[torch.randperm(1000, generator=torch.Generator().manual_seed(parts))]
        assert sum(error_units(part).item() for part in shuffled.chunk(parts)) == whole
    assert whole / UNITS == pytest.approx(errors.double().sum().item(), abs=1000 / UNITS)
    assert error_units(torch.tensor([torch.nan, torch.inf, -1.0])).item() == 2 * 1024 * UNITS


# Which step has which level


@dataclass
class Steps:
    """As much of a run's state as `Levels` looks at."""

    step: int
    course: Course
    windows: list[Any]


@pytest.mark.parametrize(("window_images", "workers", "prefetch"), [(12, 0, 2), (12, 2, 2), (12, 4, 1), (3, 1, 1)])
@pytest.mark.parametrize("first", [0, 1, 4, 7, 8, 10])
def test_the_level_of_a_step_is_known_when_the_loader_asks(
    window_images: int, workers: int, prefetch: int, first: int
) -> None:
    """Batches of 3, so windows of four steps or of one; the loader asks for ``ahead`` more than are trained."""
    cfg = RunConfig.model_validate(
        {"train": {"batch_global": 3}, "augment": {"policy": "adaptive", "adaptive": {"window_images": window_images}}}
    )
    window = window_steps(cfg.augment.adaptive, 3)
    ahead = workers * prefetch
    assert ahead <= window
    # window w has level w / 100 here
    state = Steps(first, Course(first // window / 100, (first // window + 1) / 100), [])
    levels = Levels(cfg, state, window)  # type: ignore[arg-type]
    asked = [levels.of(step) for step in range(first, first + ahead)]
    for step in range(first, first + 30):
        asked.append(levels.of(step + ahead))  # asked for when ``step`` is handed out
        state.step += 1
        if levels.step_done(torch.zeros((), dtype=torch.float64)):
            number = state.step // window
            assert state.windows[-1][0] == state.step
            state.course = replace(state.course, level=number / 100, next_level=(number + 1) / 100)
    assert asked == [step // window / 100 for step in range(first, first + 30 + ahead)]


def test_further_ahead_nothing_is_known() -> None:
    with pytest.raises(IndexError):
        level_at(Course(0.1, 0.2), 2)


# What a level does to a sample


def draws(level: float, **changes: Any) -> list[list[tuple[str, float]]]:
    cfg = AugmentConfig(policy="adaptive", operations=tuple("abcdefghij"), adaptive=AdaptiveConfig(**changes))
    chance = random.Random(3)
    return [list(draw_adaptive(cfg, chance, level)) for _ in range(4000)]


def test_at_level_0_nothing_is_augmented() -> None:
    assert draws(0.0) == [[]] * 4000


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0])
def test_how_often_how_many_and_how_strong(level: float) -> None:
    drawn = draws(level, stack_max=3, probability_max=0.8, strength_max=0.9, weights=(1,) * 10)
    stacks = [len(stack) for stack in drawn if stack]
    assert len(stacks) / 4000 == pytest.approx(0.8 * level, abs=0.03)
    # 1 + floor(u * (1 + 2 L)): with L = 0.1 u * 1.2, 1 in 6 has two; with L = 0.5 evenly 1 and 2; with L = 1, 1 to 3
    wanted = {0.1: {1: 5 / 6, 2: 1 / 6}, 0.5: {1: 1 / 2, 2: 1 / 2}, 1.0: {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}}[level]
    counted = Counter(stacks)
    assert counted.keys() == wanted.keys()
    for count, part in wanted.items():
        assert counted[count] / len(stacks) == pytest.approx(part, abs=0.06)
    strengths = [strength for stack in drawn for _, strength in stack]
    assert max(strengths) <= 0.9 * level
    assert sum(strengths) / len(strengths) == pytest.approx(0.45 * level, abs=0.03 * level)
    assert all(len({name for name, _ in stack}) == len(stack) for stack in drawn)  # none twice


@pytest.mark.parametrize(("level", "names"), [(0.05, "a"), (0.2, "ab"), (0.21, "abc"), (1.0, "abcdefghij")])
def test_the_list_opens_from_its_front(level: float, names: str) -> None:
    """ceil(L * 10) of ten operations, drawn evenly."""
    counted = Counter(name for stack in draws(level, stack_max=1) for name, _ in stack)
    assert counted.keys() == set(names)
    total = counted.total()
    assert all(count / total == pytest.approx(1 / len(names), abs=0.06) for count in counted.values())


def test_weights_decide_at_every_level() -> None:
    weights = (5, 0, 3, 2, 0, 0, 0, 0, 0, 0)
    for level in (0.3, 1.0):
        counted = Counter(name for stack in draws(level, stack_max=1, weights=weights) for name, _ in stack)
        assert counted.keys() == set("acd")
        assert [counted[name] / counted.total() for name in "acd"] == pytest.approx([0.5, 0.3, 0.2], abs=0.06)
    deep = draws(1.0, stack_max=8, weights=weights)
    assert max(map(len, deep)) == 3  # there are no more


def test_full_level_and_a_stack_of_one_is_trivialaugment() -> None:
    cfg = AugmentConfig(operations=("a", "b", "c"), adaptive=AdaptiveConfig(stack_max=1))
    chance = random.Random(0)
    mine = [draw_adaptive(cfg, chance, 1.0) for _ in range(3000)]
    theirs = [draw_trivial(cfg, chance, 0.0) for _ in range(3000)]
    for drawn in (mine, theirs):
        assert {len(stack) for stack in drawn} == {1}
        counted = Counter(name for ((name, _),) in drawn)
        assert all(count / 3000 == pytest.approx(1 / 3, abs=0.03) for count in counted.values())
        tenths = Counter(int(10 * strength) for ((_, strength),) in drawn)
        assert all(tenths[tenth] / 3000 == pytest.approx(0.1, abs=0.025) for tenth in range(10))


def test_randaugment_draws_n_of_strength_m() -> None:
    cfg = AugmentConfig.model_validate({"operations": ("a", "b"), "randaugment": {"n": 3, "m": 4}})
    drawn = [draw_randaugment(cfg, random.Random(seed), 0.0) for seed in range(50)]
    assert {len(stack) for stack in drawn} == {3}
    assert {strength for stack in drawn for _, strength in stack} == {0.4}
    assert {name for stack in drawn for name, _ in stack} == {"a", "b"}


# In a run

WINDOW = 2
"""Steps: epochs have three, so windows end within them, and steps are killed within windows."""
ADAPTIVE: dict[str, Any] = {
    "augment.policy": "adaptive",
    "augment.adaptive.window_images": 3 * WINDOW,
    "augment.adaptive.target": 0.98,  # little is learned in nine steps
    "augment.adaptive.dead_band": 0.0,
    "augment.adaptive.speed": 40.0,  # 0.24 a window
    "augment.adaptive.half_life_images": 3,
}


def course_on_disk(folder: Path) -> list[tuple[Any, ...]]:
    rows = read_json_lines(folder / "epochs.jsonl")
    return [(row["augment_level"], *map(tuple, row["augment_windows"])) for row in rows]


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = spec_of(tmp_path_factory.mktemp("runs") / "whole", shards, ADAPTIVE)
    run(spec, worker())
    return spec


def test_a_run_tells_its_levels(whole: Any) -> None:
    courses = course_on_disk(whole.folder)
    windows = [window for _, *of_epoch in courses for window in of_epoch]
    assert [step for step, _, _ in windows] == [2, 4, 6, 8]
    levels = [0.0, *(level for _, level, _ in windows)]
    assert levels[:2] == [0.0, 0.0]  # of windows 0 and 1, the start
    assert windows[0][2] == 1.0  # the first window's error over itself
    assert len(set(levels)) > 1
    for (_, _, measured), (_, level), (_, after) in zip(
        windows, pairwise(levels), pairwise([*levels[1:], final(whole)["course"]["next_level"]]), strict=False
    ):
        wanted = level + 0.24 if measured < 0.98 else max(0.0, level - 0.24)
        assert after == pytest.approx(wanted)
    assert [level for level, *_ in courses] == [levels[1], levels[3], levels[4]]  # in force after steps 3, 6, 9


@pytest.mark.parametrize("step", [1, 2, 5])
def test_interrupted_equals_uninterrupted_at_any_place_in_a_window(
    step: int, whole: Any, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path / "run", shards, ADAPTIVE)
    kill_at(step, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    run(spec, worker())
    assert_same_end(final(spec), final(whole))
    assert final(spec)["course"] == final(whole)["course"]
    assert course_on_disk(spec.folder) == course_on_disk(whole.folder)


def test_checkpoints_do_not_change_the_course(whole: Any, shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {**ADAPTIVE, "train.checkpoint_steps": None, "train.micro_batch": None})
    run(spec, worker())
    assert_same_end(final(spec), final(whole))
    assert final(spec)["course"] == final(whole)["course"]


def test_the_level_changes_what_is_trained_on(whole: Any, shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {**ADAPTIVE, "augment.adaptive.max": 0.0})
    run(spec, worker())
    assert {level for level, *_ in course_on_disk(spec.folder)} == {0.0}
    assert final(spec)["history"][0]["loss"] == final(whole)["history"][0]["loss"]  # levels of the start
    assert final(spec)["history"][-1]["loss"] != final(whole)["history"][-1]["loss"]


@pytest.mark.parametrize("error", ["loss_ratio", "soft_dice"])
def test_the_gap_is_measured_and_survives_a_kill(
    error: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**ADAPTIVE, "augment.adaptive.signal": "gap", "augment.adaptive.error": error}
    undisturbed, spec = spec_of(tmp_path / "whole", shards, changes), spec_of(tmp_path / "run", shards, changes)
    run(undisturbed, worker())
    kill_at(4, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    run(spec, worker())
    assert_same_end(final(spec), final(undisturbed))
    course = final(undisturbed)["course"]
    assert course == final(spec)["course"]
    signals = [window[2] for _, *windows in course_on_disk(undisturbed.folder) for window in windows]
    assert signals[0] is None  # step 2: not validated yet
    assert all(isinstance(gap, float) and gap < 1 for gap in signals[1:])
    assert course["validation_error"] == pytest.approx(validation_error(undisturbed, error, shards), abs=1e-5)


def validation_error(spec: RunSpec, error: str, shards: Path) -> float:
    """Mean over the validation images of the last network's loss, or 1 - soft Dice, measured anew."""
    manifest = ShardFolder.open(shards).manifest
    best = checkpoint.load(spec.folder / "checkpoints/best.pt")
    predictor = restore_predictor(spec.config, {**best, "network": final(spec)["network"]}, manifest)
    measure = build_loss(spec.config.loss if error == "loss_ratio" else LossConfig(name="dice"))
    batches = EvalBatches(
        open_split(ShardFolder.open(shards), training=False, fold=None), batch=4, rank=0, world_size=1
    )
    with torch.inference_mode():
        return float(measure(predictor.logits(batches[0].images), batches[0].masks).mean())


def test_other_policies_have_no_level(shards: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "run", shards, {"train.epochs": 1})
    run(spec, worker())
    assert course_on_disk(spec.folder) == [(None,)]
    assert final(spec)["course"] is None
