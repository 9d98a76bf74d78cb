"""Optuna behind our own record: what is suggested, reported and ended is written down, and can be replayed."""

import math
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Stopper
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from distseg import checkpoint, records
from distseg.errors import HomeError
from distseg.on_ray.schedulers import NO_CONTROLLER, SCORE, as_result, named
from distseg.on_ray.suggestions import Suggestions
from distseg.records import Status, TrialRecord
from distseg.search.events import Event
from distseg.search.keep import KeptCheckpoints
from distseg.search.study import Study
from distseg.train.run_folder import catch_up

LOSSES_MAX = 3
"""Losing its process this often without finishing an epoch ends a trial: then it is not the machine."""

_OUT_OF_MEMORY = re.compile(r"low on memory|OutOfMemory|out of memory", re.IGNORECASE)

OnEvent = Callable[[Event], None]


class TakesTurns(Protocol):
    """What the searcher needs of ``Turns``."""

    def take(self) -> bool: ...
    def hold(self, trials: int) -> None: ...


class RecordedSearcher(Searcher):
    """A searcher that writes down what it is asked and told, and can be brought back by replaying that.

    Optuna lives behind it under our own trial ids, which do not change when a study is resumed. One searcher outlives
    several of Tune's runs: where another study waits for what this one holds, it lets Tune's run end (``gave_way``).
    """

    def __init__(
        self,
        study: Study,
        scheduler: TrialScheduler,
        on_event: OnEvent,
        turns: TakesTurns | None = None,
        notes: Path | None = None,
    ):
        """``turns``: the study's place among others of the cluster. ``notes``: folder of Tune's own files."""
        super().__init__(metric=SCORE, mode=study.info.mode)
        self._study = study
        self._log = study.log
        self._scheduler = scheduler
        self._on_event = on_event
        self._turns = turns
        self._notes = notes
        self._suggestions = Suggestions(study.search, study.base, study.info.mode)
        self._kept = KeptCheckpoints(study.search.resources.keep_best, study.info.metric, study.info.mode)
        self._names: dict[str, str] = {}  # Tune's trial id -> ours
        self._epochs: dict[str, int] = {}  # epochs recorded of each of our trials
        self._unfinished: list[str] = []  # trials to go on with first
        self._stopped: set[str] = set()  # trials that the scheduler stops on what it heard from here, not from Tune
        self._target_reached = False
        self._granted = False
        self.gave_way = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing to speak of: Tune keeps a copy for its own tools, and the study's record is the state."""
        return {"_metric": self._metric, "_mode": self._mode}

    def replay(self) -> None:
        """Feeds the study's record to Optuna and the scheduler in the order in which it happened."""
        for event in list(self._log.events):
            if event.kind == "ask":
                self._suggestions.ask_again(event.trial_id, event.overrides or {})
                self._scheduler.on_trial_add(NO_CONTROLLER, named(event.trial_id))
            elif event.kind == "report":
                self._epochs[event.trial_id] = event.epoch or 0
                self._tell(event)
                self._schedule(event)
            elif event.kind == "end":
                self._tell(event)
                with suppress(HomeError):  # torn: a row that says so, of which nothing is removed
                    folder = self._study.trial_folder(event.trial_id)
                    self._kept.ended(folder, TrialRecord.load(folder))
        for name in [name for name in self._log.asked if name not in self._log.ended]:
            self._take_in(name)
            if name in self._stopped or self._record_of(name).status.finished:
                self._end(name)
        self._unfinished = [name for name in self._log.asked if name not in self._log.ended]

    def over(self) -> str | None:
        """Why the study ends here whatever is still running, in words; None: it goes on."""
        budget = self._study.search.budget
        if self._target_reached:
            return f"the target {self._study.info.metric} {budget.target:g} is reached"
        if budget.hours is not None and self._log.seconds > 3600 * budget.hours:
            return f"the budget of {budget.hours:g} hours is used up"
        return None

    def done(self) -> bool:
        """Whether there is nothing left to start."""
        asked_all = len(self._log.asked) >= self._study.search.budget.trials
        return self.over() is not None or (asked_all and not self._unfinished)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial: an unfinished one, a fixed point, or Optuna's; FINISHED at the end; None: wait."""
        if self.done():
            # a trial that is running may be lost yet, and has to go on in this run of Tune's
            return Searcher.FINISHED if self.over() or not self._names else None
        if not self._granted and self._turns is not None and not self._turns.take():
            return self._give_way()
        self._granted = False
        if self._unfinished:
            name = self._unfinished.pop(0)
            overrides = self._log.asked[name]
        else:
            name, overrides = self._new_trial()
            if not name:
                self._hold(len(self._names))
                return Searcher.FINISHED if not self._names else None
        self._names[trial_id] = name
        self._hold(len(self._names))
        self._on_event(Event("ask", name, overrides=overrides))
        return {"trial_id": name, "overrides": overrides}

    def start(self) -> None:
        """Before each of Tune's runs; its first trial has been granted."""
        self._granted = True
        self.gave_way = False

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records an epoch's score, then tells Optuna."""
        name = self._names[trial_id]
        epoch = result.get("epoch")
        if epoch is None or epoch <= self._epochs.get(name, 0):
            return  # Tune repeats the last result when a trial returns
        self._epochs[name] = epoch
        self._record(Event("report", name, epoch=epoch, score=_finite(result[SCORE])))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records how a trial ended. Tune brings the last result here when it stops the trial on it.

        A trial whose process or worker died without a reason of its own goes on from its last checkpoint.
        """
        if result:
            self.on_trial_result(trial_id, result)
        name = self._names.pop(trial_id)
        if error:
            self._take_in(name)
        record = self._record_of(name)
        if error and not record.status.finished and name not in self._stopped:
            reason = record.reason or self._words_on(trial_id) or "its process died"
            self._record(Event("lost", name, reason=reason))
            if self._log.losses[name] < LOSSES_MAX and not _OUT_OF_MEMORY.search(reason):
                self._unfinished.append(name)
            else:
                times = self._log.losses[name]
                self._end(name, f"lost {times} time{'s' if times > 1 else ''} without finishing an epoch: {reason}")
        else:
            self._end(name)
        self._hold(len(self._names))

    def close(self) -> bool:
        """Marks what is still running as interrupted, to be resumed; False when nothing was."""
        for name, status in self._log.ended.items():  # a stopped nested worker may have written its record once more
            folder = self._study.trial_folder(name)
            with suppress(HomeError):  # as in ``replay``
                record = TrialRecord.load(folder)
                if record.status != status:
                    record.model_copy(update={"status": Status(status)}).save(folder)
        why = self.over()
        reason = "study interrupted" if why is None else f"the study ended before it: {why}"
        running = [*self._names.values(), *self._unfinished]
        for name in running:
            record = self._record_of(name)
            if record.status in (Status.RUNNING, Status.INTERRUPTED):
                stopped = record.model_copy(update={"status": Status.INTERRUPTED, "reason": reason})
                stopped.save(self._study.trial_folder(name))
        return bool(running)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's own record is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see ``save``."""

    def _give_way(self) -> str | None:
        """Waits for its turn; where nothing of its own runs, without the warm process that Tune keeps."""
        if not self._names:
            self.gave_way = True
            return Searcher.FINISHED
        warm = self._study.search.resources.workers_per_trial == 1
        self._hold(len(self._names) + warm)  # that process holds what a trial holds
        return None

    def _hold(self, trials: int) -> None:
        if self._turns is not None:
            self._turns.hold(trials)

    def _new_trial(self) -> tuple[str, dict[str, Any]]:
        """Name and overrides of the next trial that can start; no name at the end of the budget."""
        while (number := len(self._log.asked)) < self._study.search.budget.trials:
            name = f"{number:04d}"
            overrides = self._suggestions.ask(name)
            if self._study.announce(name, overrides):
                return name, overrides
            self._end(name)
        return "", {}

    def _record(self, event: Event) -> None:
        self._log.append(event)
        self._tell(event)
        self._on_event(event)

    def _tell(self, event: Event) -> None:
        target = self._study.search.budget.target
        if event.kind == "report" and event.score is not None and target is not None:
            reached = event.score >= target if self._study.info.mode == "max" else event.score <= target
            self._target_reached |= reached
        self._suggestions.tell(event)

    def _end(self, name: str, failure: str | None = None) -> None:
        """Closes the trial's record where its process did not, and records the end."""
        folder = self._study.trial_folder(name)
        record = self._record_of(name)
        if failure is not None:
            record = record.model_copy(update={"status": Status.FAILED, "reason": failure})
            record.save(folder)
        elif not record.status.finished:
            reason = f"stopped by the scheduler after epoch {record.epochs}"
            record = record.model_copy(update={"status": Status.PRUNED, "reason": reason})
            record.save(folder)
        score = None if record.status is Status.FAILED else self._log.last_score.get(name)
        self._record(Event("end", name, status=record.status, score=score))
        self._kept.ended(folder, record)

    def _record_of(self, name: str) -> TrialRecord:
        """Of a trial that has not ended; where its machine died while writing it, as when it was announced."""
        try:
            return TrialRecord.load(self._study.trial_folder(name))
        except HomeError:
            return self._study.announce_again(name)

    def _words_on(self, trial_id: str) -> str | None:
        """What Ray said of a trial that died, in one line; None when it said nothing."""
        if self._notes is None:
            return None
        for path in self._notes.glob(f"*{trial_id}*/error.txt"):
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
            return next((line for line in lines if line and not line.startswith("Failure #")), None)
        return None

    def _schedule(self, report: Event) -> None:
        if report.score is None:
            return
        decision = self._scheduler.on_trial_result(NO_CONTROLLER, named(report.trial_id), as_result(report))
        if decision == TrialScheduler.STOP:
            self._stopped.add(report.trial_id)

    def _take_in(self, name: str) -> None:
        """Adds to the record the epochs that a trial finished and, its process or its driver killed, never reported."""
        folder = self._study.trial_folder(name)
        last = folder / records.LAST_CHECKPOINT  # written before all else: it knows every epoch that counts
        if not last.exists():
            return
        try:
            saved = checkpoint.load(last)
        except HomeError:  # the trial will fail on it, in its own row
            return
        if len(saved["history"]) > self._record_of(name).epochs:
            catch_up(folder, saved)
        for row in saved["history"][self._epochs.get(name, 0) :]:
            if name in self._stopped:
                return  # what a nested worker went on to do does not count
            self._epochs[name] = row["epoch"]
            if row["score"] is not None:
                self._record(Event("report", name, epoch=row["epoch"], score=_finite(row["score"])))
                self._schedule(self._log.events[-1])


class BudgetStopper(Stopper):
    """Lets Tune stop all trials when the study's hours or its target end it."""

    def __init__(self, searcher: RecordedSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.over() is not None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a copy for its own tools."""
        return {}


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None
