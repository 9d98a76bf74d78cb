"""Whether chance alone may have put one trial before another: the paired bootstrap over groups.

Both trials are measured on the same draws of whole groups (cars, sequences), so that what makes a group hard for both
cancels out. Two trials are tied when the 95 % interval of their difference contains zero.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distseg.leaderboard.store import Stamp, Trial
from distseg.records import GROUPS_FILE
from distseg.scores import PERCENTILES, Sums, group_sums, resampled, values

Interval = tuple[float, float]


@dataclass(frozen=True)
class Groups:
    """What a trial's ``groups.json`` holds."""

    names: tuple[str, ...]
    """Sorted."""
    sums: Sums
    """(groups, width(classes)), see scores.py."""
    classes: int
    draws: Sums
    """(resamples,) the metric on each draw of these groups."""


class Evidence:
    """The groups of trials and one metric on their draws; a file is read again only when it has changed."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self._known: dict[Path, tuple[Stamp | None, Groups | None]] = {}
        self._weights: dict[int, Sums] = {}

    def differences(self, best: Trial, others: Sequence[Trial]) -> list[Interval | None]:
        """95 % interval of each other trial's metric minus the best's, over the groups that both have.

        None where it cannot be told: no counts per group, a metric that does not follow from them (mask AP), or fewer
        than two groups in common.
        """
        first = self._groups(best)
        found: list[Interval | None] = [None] * len(others)
        if first is None:
            return found
        pairs = [(place, self._paired(first, groups)) for place, trial in enumerate(others)
                 if (groups := self._groups(trial)) is not None]  # fmt: skip
        told = [(place, draws) for place, draws in pairs if draws is not None]
        if told:
            lows, highs = np.percentile(np.stack([draws for _, draws in told]), PERCENTILES, axis=1)
            for (place, _), low, high in zip(told, lows.tolist(), highs.tolist(), strict=True):
                found[place] = low, high
        return found

    def _paired(self, first: Groups, other: Groups) -> Sums | None:
        """(resamples,) other minus first on the same draws."""
        if other.classes != first.classes:
            return None
        if other.names == first.names:
            differences = other.draws - first.draws
        else:
            common = sorted({*first.names} & {*other.names})
            if len(common) < 2:
                return None
            one, two = (groups.sums[[groups.names.index(name) for name in common]] for groups in (first, other))
            differences = self._drawn(two, other.classes) - self._drawn(one, first.classes)
        return None if np.isnan(differences).any() else differences

    def _groups(self, trial: Trial) -> Groups | None:
        path = trial.folder / GROUPS_FILE
        stamp = Stamp.of(path)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = stamp, None if stamp is None else self._read(path)
        return known[1]

    def _read(self, path: Path) -> Groups | None:
        try:
            document = json.loads(path.read_text())
            names = tuple(sorted(document))
            sums = group_sums(document)
            classes = len(document[names[0]]["boundary_both"])
        except (OSError, ValueError, LookupError, TypeError):  # torn, or the counts of another kind of task
            return None
        if len(names) < 2 or self.metric not in values(sums[:1], classes):
            return None
        return Groups(names, sums, classes, self._drawn(sums, classes))

    def _drawn(self, sums: Sums, classes: int) -> Sums:
        """(groups, width) -> (resamples,) the metric on each draw."""
        weights = self._weights.get(len(sums))
        if weights is None:
            weights = self._weights[len(sums)] = resampled(len(sums))
        return values(weights @ sums, classes)[self.metric]
