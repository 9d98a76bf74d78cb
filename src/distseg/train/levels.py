"""The augmentation level of each batch, from the errors that all ranks measured (rule: ``augment/adaptive.py``)."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from distseg.augment import adaptive
from distseg.config import RunConfig
from distseg.tasks.task import Task
from distseg.train.state import TrainState
from distseg.train.worker import reduce_sum

_ERROR_MAX = 1024.0  # the sum over 2 ** 23 images of such errors is still exact


def error_units(errors: torch.Tensor) -> torch.Tensor:
    """Errors (B,) of images, any float -> their sum in whole parts of 1 / UNITS, a float64 scalar."""
    bounded = errors.double().nan_to_num(nan=_ERROR_MAX).clamp(0, _ERROR_MAX)
    return (bounded * adaptive.UNITS).round().sum()


class Levels:
    """What the loader asks for the level of a step, and what the loop tells the controller.

    With another policy than ``adaptive`` the level is always 0 and nothing is reduced.
    """

    def __init__(self, cfg: RunConfig, state: TrainState, window_steps: int | None) -> None:
        """``window_steps``: as ``adaptive.window_steps``; None without the adaptive policy."""
        self._cfg = cfg
        self._state = state
        self._window_steps = window_steps

    def of(self, step: int) -> float:
        """The level of a global step in the present window or in the next."""
        if self._window_steps is None or self._state.course is None:
            return 0.0
        ahead = step // self._window_steps - self._state.step // self._window_steps
        return adaptive.level_at(self._state.course, ahead)

    def step_done(self, units: torch.Tensor) -> bool:
        """After every step, ``units``: this rank's errors since the ranks last added up.

        True at the end of a window, on all ranks together: ``units`` are in the course then.
        """
        state = self._state
        if self._window_steps is None or state.course is None or state.step % self._window_steps:
            return False
        add_errors(state, reduce_sum(units).item())
        images = self._window_steps * self._cfg.train.batch_global
        state.course = adaptive.end_window(self._cfg.augment.adaptive, state.course, images)
        state.windows.append(
            (state.step, state.course.level, adaptive.signal(self._cfg.augment.adaptive, state.course))
        )
        return True

    def validated(self, predictor: Any, task: Task, batches: Iterable[Any], device: torch.device) -> None:
        """After every validation: where the signal is the gap, measures the error there as training does."""
        state = self._state
        if state.course is None or self._cfg.augment.adaptive.signal != "gap":
            return
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        for errors in task.validation_errors(predictor, batches, device):
            sums += torch.stack([error_units(errors), torch.tensor(float(len(errors)), device=device).double()])
        units, images = reduce_sum(sums).tolist()
        state.course = replace(state.course, validation_error=units / adaptive.UNITS / images)


def add_errors(state: TrainState, units: float) -> None:
    """Adds errors of the present window, over all ranks, to the course; nothing where there is none."""
    if state.course is not None:
        state.course = replace(state.course, error_units=state.course.error_units + units)
