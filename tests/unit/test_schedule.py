"""The learning rate as a function of the step: values by hand, bounds, no jumps."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.config import ScheduleConfig
from distseg.train.schedule import lr_factor


def factors(steps: int, **fields: object) -> list[float]:
    cfg = ScheduleConfig.model_validate(fields)
    return [lr_factor(cfg, step, steps) for step in range(steps)]


def test_one_cycle_by_hand() -> None:
    # 9 steps, warm-up of round(0.45 * 9) = 4: up in 4 steps, peak at step 4, down in the 4 after it.
    rates = factors(9, name="one_cycle", warmup_fraction=0.45, final_fraction=0.1)
    assert rates[0] == pytest.approx(0.04)  # 1/25
    assert rates[2] == pytest.approx(0.52)  # half way: (0.04 + 1) / 2
    assert rates[4] == 1.0
    assert rates[6] == pytest.approx(0.55)  # half way: (1 + 0.1) / 2
    assert rates[8] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_cosine_by_hand() -> None:
    # 7 steps, warm-up of round(0.4 * 7) = 3: 1/4, 2/4, 3/4, then the peak.
    rates = factors(7, name="cosine", warmup_fraction=0.4)
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == pytest.approx(0.75)  # (1 + cos 60 degrees) / 2
    assert rates[5] == pytest.approx(0.25)  # (1 + cos 120 degrees) / 2
    assert rates[6] == pytest.approx(0.0)


def test_constant_is_one_throughout() -> None:
    assert factors(5, name="constant") == [1.0] * 5


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_one_step_alone_takes_the_peak(name: str) -> None:
    assert factors(1, name=name) == [1.0]


@settings(deadline=None)
@given(
    st.sampled_from(["one_cycle", "cosine"]),
    st.integers(1, 300),
    st.floats(0, 0.99),
    st.floats(0, 1),
)
def test_every_factor_is_a_part_of_the_peak_and_the_way_has_one_summit(
    name: str, steps: int, warmup: float, final: float
) -> None:
    rates = factors(steps, name=name, warmup_fraction=warmup, final_fraction=final)
    assert all(-1e-12 <= rate <= 1 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert all(one <= other + 1e-12 for one, other in itertools.pairwise(rates[: top + 1]))
    assert all(one >= other - 1e-12 for one, other in itertools.pairwise(rates[top:]))
    if round(warmup * steps) < steps - 1:
        assert rates[-1] == pytest.approx(final, abs=1e-9)
        assert max(rates) == pytest.approx(1)


@pytest.mark.parametrize("name", ["one_cycle", "cosine"])
def test_no_jumps(name: str) -> None:
    # 1000 steps, warm-up of 250: half a cosine wave of height 1 over 250 steps climbs at most pi / 2 / 250 a step.
    rates = factors(1000, name=name)
    steepest = max(abs(one - other) for one, other in itertools.pairwise(rates))
    assert steepest < math.pi / 2 / 250
