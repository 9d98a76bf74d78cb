"""The whole kill matrix of the queue; ``tests/kill_matrix.py`` says what a cell is, and writes the table."""

from collections.abc import Iterator

import pytest
from kill_matrix import Lab, cells, lab, play

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.mark.parametrize(("victim", "step"), cells())
def test_a_kill_loses_nothing_and_runs_nothing_twice(cluster: Lab, victim: str, step: str) -> None:
    row = play(cluster, victim, step)
    print(f"{victim} {step}: {row.attempts}, {row.seconds:.1f} s")
