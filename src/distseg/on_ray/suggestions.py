"""What to try next: the fixed points, then Optuna, which knows trials by our own ids and hears of each once."""

import json
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from distseg.config import RunConfig, SearchConfig
from distseg.on_ray.schedulers import SCORE, as_result
from distseg.search.events import Event
from distseg.search.space import base_point, parameters, suggest

_ASKED_AGAIN_MAX = 100
"""A small space may hold nothing new."""


class Suggestions:
    """Overrides of one trial after another, a function of the seed and of what was told in between."""

    def __init__(self, search: SearchConfig, base: RunConfig, mode: str) -> None:
        points = [base_point(search.space, base), *map(dict, search.points)]
        # A point outside the space (the base config may be one) is tried all the same, but Optuna is not told of it.
        self._points = [(point, parameters(search.space, point)) for point in points]
        self._optuna = OptunaSearch(
            space=lambda trial: {"overrides": suggest(search.space, trial, base)},
            metric=SCORE,
            mode=mode,
            points_to_evaluate=[inside for _, inside in self._points if inside is not None],
            sampler=sampler_of(search),
        )
        self._ids: dict[str, str] = {}  # our trial id -> Optuna's, of the trials that it is told of
        self._seen: set[str] = set()

    def ask(self, name: str) -> dict[str, Any]:
        """Overrides of a new trial: the fixed points as they are given, then what was not tried before."""
        number = int(name)
        overrides = self._fixed(name, *self._points[number]) if number < len(self._points) else self._new(name)
        self._seen.add(_key(overrides))
        return overrides

    def _fixed(self, name: str, point: dict[str, Any], inside: dict[str, Any] | None) -> dict[str, Any]:
        """A point; inside the space, Optuna adds the defaults of branches that it says nothing of."""
        return point if inside is None else self._suggested(name, 0) | point

    def _new(self, name: str) -> dict[str, Any]:
        """Optuna's own. What was tried before would end as it did then, to the bit, so it is asked again."""
        for attempt in range(_ASKED_AGAIN_MAX):
            overrides = self._suggested(name, attempt)
            if _key(overrides) not in self._seen:
                break
            if attempt < _ASKED_AGAIN_MAX - 1:
                self._optuna.on_trial_complete(self._ids[name], error=True)
        return overrides

    def _suggested(self, name: str, attempt: int) -> dict[str, Any]:
        self._ids[name] = f"{name}.{attempt}"
        suggested = self._optuna.suggest(self._ids[name])
        assert suggested is not None
        overrides: dict[str, Any] = suggested["overrides"]
        return overrides

    def ask_again(self, name: str, overrides: dict[str, Any]) -> None:
        """Replays an earlier ``ask``. Where it ended in other overrides, Optuna is not told of the trial.

        Asks that ran beside each other saw results in another order than the record has them.
        """
        if self.ask(name) != overrides:
            self._ids.pop(name, None)
            self._seen.add(_key(overrides))

    def tell(self, event: Event) -> None:
        """Takes in a report or an end; a score that is not a number tells nothing."""
        if event.trial_id not in self._ids:
            return
        if event.kind == "report" and event.score is not None:
            self._optuna.on_trial_result(self._ids[event.trial_id], as_result(event))
        elif event.kind == "end":
            failed = event.score is None
            result = None if failed else as_result(event)
            self._optuna.on_trial_complete(self._ids[event.trial_id], result, error=failed)


def sampler_of(search: SearchConfig) -> optuna.samplers.BaseSampler:
    """Optuna's sampler as a search file asks for it."""
    if search.search.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=search.search.seed)
    return optuna.samplers.TPESampler(
        seed=search.search.seed,
        n_startup_trials=search.search.startup_trials,
        multivariate=True,
        # conditional fields: one model for each set of fields that occur together
        group=any(dimension.when is not None for dimension in search.space.values()),
        constant_liar=True,  # trials still running count as bad, so that concurrent ones spread out
    )


def _key(overrides: dict[str, Any]) -> str:
    return json.dumps(overrides, sort_keys=True)
