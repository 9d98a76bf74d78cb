"""How much each hyperparameter mattered in a study, by the simplest statistic that can say "nothing".

The trials are put into classes by one hyperparameter: its values, or four bins with as many trials each where it is a
number with more. Its importance is the share of the metric's variance between those classes, as epsilon squared (Kelley
1935): (between - (k - 1) * within / (n - k)) / total, which is 0 on average when the classes mean nothing. What chance
gives all the same is told beside it: the share that the metric, shuffled among the trials, exceeds 1 time in 20.

These are main effects alone, in the trials that the search chose to try: a search that soon turns to good values makes
differences small, and trials that were stopped early count with what they had reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distseg.leaderboard.rank import number
from distseg.records import LeaderboardRow

TRIALS_MIN = 12
"""With fewer there is nothing to say."""
_BINS = 4
_SHUFFLES = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Of one hyperparameter."""

    path: str
    share: float
    """Of the metric's variance over trials, in [0, 1]."""
    chance: float
    """What a hyperparameter without any effect exceeds 1 time in 20."""
    trials: int
    """That have a value of it, and a figure."""


def importances(rows: Sequence[LeaderboardRow], metric: str, paths: Sequence[str]) -> list[Importance]:
    """Of each dotted path set by at least ``TRIALS_MIN`` ranked rows, in two ways or more, most important first."""
    found = []
    for path in paths:
        told = [row for row in rows if row.rank is not None and path in row.overrides]
        classes = _classes([row.overrides[path] for row in told])
        figures = np.array([row.metrics[metric] for row in told], np.float64)
        if len(told) >= TRIALS_MIN and 1 < classes.shape[1] < len(told) and figures.std() > 0:
            share = _shares(classes, figures[None])[0]
            shuffled = np.random.default_rng(0).permuted(np.tile(figures, (_SHUFFLES, 1)), axis=1)
            chance = np.percentile(_shares(classes, shuffled), 95)
            found.append(Importance(path, max(0.0, float(share)), max(0.0, float(chance)), len(told)))
    return sorted(found, key=lambda one: -one.share)


def _classes(values: Sequence[Any]) -> Floats:
    """(n, k) one-hot: which class each value is in."""
    numbers = [number(value) for value in values]
    told = [value for value in numbers if value is not None]
    key: Callable[[int], Any] = lambda place: repr(values[place])  # noqa: E731
    if len(told) == len(values) and len({*told}) > _BINS:
        edges = np.quantile(told, np.linspace(0, 1, _BINS + 1)[1:-1])
        bins = np.searchsorted(edges, told, side="right")
        key = lambda place: int(bins[place])  # noqa: E731
    keys = [key(place) for place in range(len(values))]
    names = sorted({*keys})
    return np.array([[float(one == name) for name in names] for one in keys]).reshape(len(values), len(names))


def _shares(classes: Floats, figures: Floats) -> Floats:
    """Classes (n, k) and figures (m, n) -> (m,) epsilon squared of each row of figures."""
    n, k = classes.shape
    centred = figures - figures.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    between = ((centred @ classes) ** 2 / classes.sum(axis=0)).sum(axis=1)
    shares: Floats = (between - (k - 1) * (total - between) / (n - k)) / total
    return shares
