"""One board over one or more studies, read from their folders alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.leaderboard.rank import rank, sorting
from distseg.leaderboard.store import Store
from distseg.leaderboard.ties import Evidence
from distseg.records import LeaderboardRow, StudyInfo


@dataclass(frozen=True)
class Board:
    """The trials of some studies, ranked together where they can be compared."""

    studies: tuple[StudyInfo, ...]
    metric: str
    mode: str
    rows: tuple[LeaderboardRow, ...]
    """In the order of the board, see ``rank``."""

    @property
    def best(self) -> LeaderboardRow | None:
        """The row ranked 1, if any is ranked."""
        return next((row for row in self.rows if row.rank == 1), None)

    @property
    def trials_planned(self) -> int:
        return sum(study.trials_planned for study in self.studies)


class BoardReader:
    """Reads a board again and again; only files that have changed are opened."""

    def __init__(self, folders: Sequence[Path], sort: str | None = None) -> None:
        """``folders`` of studies, at least one; ``sort``: rank by this metric, default that of the first study."""
        self._stores = [Store(folder) for folder in folders]
        self._sort = sort
        self._evidence: Evidence | None = None

    def read(self) -> Board:
        """The board as it is now. HomeError when a study cannot be read, InputError when no trial has the metric."""
        studies = tuple(StudyInfo.load(store.folder) for store in self._stores)
        trials = [trial for store in self._stores for trial in store.trials()]
        metric, mode = sorting(studies, (trial.record for trial in trials), self._sort)
        if self._evidence is None or self._evidence.metric != metric:
            self._evidence = Evidence(metric)
        return Board(studies, metric, mode, tuple(rank(trials, metric, mode, self._evidence.differences)))


def read_board(*folders: Path, sort: str | None = None) -> Board:
    """The board of these studies as it is now, see ``BoardReader``."""
    return BoardReader(folders, sort).read()
