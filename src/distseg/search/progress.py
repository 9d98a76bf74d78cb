"""A study in progress as lines of text: one for each trial that starts, each epoch, each end."""

import math
import time
from collections.abc import Callable

from distseg.config import as_assignments
from distseg.records import Status, TrialRecord
from distseg.search.events import Event
from distseg.search.study import Study


class ProgressLines:
    """Turns a study's events into lines for a person who follows it."""

    def __init__(self, study: Study, write: Callable[[str], None]) -> None:
        self._study = study
        self._write = write
        self._started = time.monotonic()
        self._best: tuple[float, str] | None = None
        for event in study.log.events:  # of an earlier driver, when the study is resumed
            self._consider(event)

    def __call__(self, event: Event) -> None:
        """Writes the line of one event."""
        if event.kind == "ask":
            self._line(event, "starts   " + " ".join(as_assignments(event.overrides or {})))
            return
        if event.kind == "lost":
            self._line(event, f"lost: {event.reason}")
            return
        if event.kind == "report":
            self._consider(event)
            score, holder = self._best or (math.nan, "none yet")
            own = math.nan if event.score is None else event.score
            epochs = TrialRecord.load(self._study.trial_folder(event.trial_id)).epochs_planned
            metric = self._study.info.metric
            self._line(
                event,
                f"epoch {event.epoch}/{epochs}  {metric} {own:.4f}  best {score:.4f} ({holder})",
            )
            return
        record = TrialRecord.load(self._study.trial_folder(event.trial_id))
        reason = f": {record.reason}" if record.status is Status.FAILED else f" after {record.epochs} epochs"
        ended = len(self._study.log.ended)
        self._line(event, f"{record.status}{reason}  ({ended} of {self._study.info.trials_planned} trials ended)")

    def say(self, text: str) -> None:
        """Writes a line that is not about one trial."""
        self._write(f"{self._clock()}  {text}")

    def _consider(self, event: Event) -> None:
        if event.kind != "report" or event.score is None:
            return
        sign = 1 if self._study.info.mode == "max" else -1
        if self._best is None or sign * event.score > sign * self._best[0]:
            self._best = event.score, event.trial_id

    def _line(self, event: Event, text: str) -> None:
        self.say(f"trial {event.trial_id}  {text}")

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes:3d}:{seconds:02d}"
