"""How much of the disk a study's checkpoints take: those of its best trials stay."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from distseg.records import BEST_CHECKPOINT, LAST_CHECKPOINT, Status, TrialRecord


class KeptCheckpoints:
    """Which ended trials still have their ``best.pt``.

    A trial that has ended never goes on: all its other checkpoints are removed at once. Of the ``best.pt`` those of the
    ``keep`` best trials stay, with all that tie with the last of them. Trials that were measured under different
    conditions have no common order, so each set keeps its own best. Nothing of a trial that has not ended is touched.
    """

    def __init__(self, keep: int, metric: str, mode: str) -> None:
        self._keep = keep
        self._metric = metric
        self._sign = 1 if mode == "max" else -1
        self._kept: dict[tuple[Any, ...], list[tuple[float, Path]]] = defaultdict(list)

    def ended(self, folder: Path, record: TrialRecord) -> None:
        """Takes in a trial that has ended, and removes what nobody will ask for again."""
        for path in [folder / LAST_CHECKPOINT, *(folder / LAST_CHECKPOINT).parent.glob("epoch-*.pt")]:
            path.unlink(missing_ok=True)
        score = record.metrics.get(self._metric)
        if record.status is Status.FAILED or record.checkpoint is None or score is None:
            _remove(folder)
            return
        conditions = (record.task, record.split_digest, record.resolution)
        kept = self._kept[conditions]
        kept.append((self._sign * score, folder))
        kept.sort(key=lambda pair: pair[0], reverse=True)
        worst = kept[min(self._keep, len(kept)) - 1][0]
        self._kept[conditions] = [pair for pair in kept if pair[0] >= worst]
        for value, loser in kept:
            if value < worst:
                _remove(loser)


def _remove(folder: Path) -> None:
    """Removes ``best.pt``, once the record no longer promises it."""
    record = TrialRecord.load(folder)
    if record.checkpoint is not None:
        record.model_copy(update={"checkpoint": None}).save(folder)
    (folder / BEST_CHECKPOINT).unlink(missing_ok=True)
