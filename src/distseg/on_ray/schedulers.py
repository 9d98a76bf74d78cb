"""Which trials stop early: ASHA on epochs, as Ray Tune has it, knowing trials by our own ids."""

import math
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from distseg.config import RunConfig, SearchConfig
from distseg.search.events import Event
from distseg.search.space import epochs_max

SCORE = "score"
"""Key of the metric in what trials report to Tune."""

NO_CONTROLLER: Any = None
"""Schedulers that replay needs do not look at it."""


class AshaByName(ASHAScheduler):
    """ASHA that knows trials by our own ids, and lets a score that is not a number pass.

    Tune's ids are new after a resume, and a trial under two ids would stand twice in the rungs that it has passed.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, named(trial.config["trial_id"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not math.isfinite(result[SCORE]):
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, named(trial.config["trial_id"]), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, named(trial.config["trial_id"]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, named(trial.config["trial_id"]))


def scheduler_of(search: SearchConfig, base: RunConfig, mode: str) -> TrialScheduler:
    """The scheduler that a search file asks for."""
    if search.search.scheduler == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    epochs = epochs_max(search, base)
    return AshaByName(
        time_attr="epoch",
        metric=SCORE,
        mode=mode,
        max_t=epochs,
        grace_period=min(search.search.grace_epochs, epochs),
        reduction_factor=search.search.reduction,
    )


def named(trial_id: str) -> Any:
    """All that a scheduler reads of a trial."""
    return SimpleNamespace(trial_id=trial_id, config={"trial_id": trial_id})


def as_result(event: Event) -> dict[str, Any]:
    """An event as what Tune hands to schedulers and searchers."""
    return {"epoch": event.epoch, SCORE: event.score, "training_iteration": event.epoch}
