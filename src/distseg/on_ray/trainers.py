"""TorchTrainers for the ways in which a run of ours differs from what Ray Train expects.

Both override private parts of Ray Train (2.60); where a version of Ray lacks such a part, Ray does as ever.
"""

import asyncio
import os
import secrets
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from distseg.errors import DistsegError

_FAILURES_MAX = 5
"""One after another without a new checkpoint; a lost node costs two: its workers, and waiting for it in vain."""


class LeanTrainer(TorchTrainer):
    """For a fixed number of workers: without the helpers that a run of ours has no use for.

    Ray Train starts a process each for Ray Data's shards, for asking an autoscaler, and for placement groups that
    outlive a killed controller. A run of ours reads no Ray Data, and starts only where the nodes that are there hold
    it. Each of those processes takes four seconds of CPU time, most of it before the first step.
    """

    def __init__(self, *given: Any, cleaned: bool, **named: Any) -> None:
        """``cleaned``: somebody else removes the placement group of a run that is killed."""
        super().__init__(*given, **named)
        self._not_needed = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if cleaned else set())

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in self._not_needed]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        settings["scaling_policy"] = _WithoutAutoscaler(self.scaling_config)  # type: ignore[arg-type]
        return self._run_controller(**settings)

    def _run_controller(self, **settings: Any) -> Any:
        return super()._initialize_and_run_controller(**settings)


class NestedTrainer(LeanTrainer):
    """For a trial of Ray Tune: the trial's own actor is the controller.

    Ray Train gives the controller a process of its own, which the workers wait for: six seconds that the trial, which
    has loaded the same libraries just before, only waits. When the trial's process dies, so do the workers, as ever;
    their placement group is for the study to remove, with ``release``. Ray's own cleaner is another process, and gives
    up at once where it finds several Rays on its machine, or traces of a dead one.
    """

    def __init__(self, *given: Any, folder: Path, **named: Any) -> None:
        """``folder``: the trial's, as in ``release``."""
        super().__init__(*given, cleaned=True, **named)
        self._folder = folder

    def _run_controller(self, **settings: Any) -> Any:
        named = partial(placement_group, name=f"{self._folder} {secrets.token_hex(4)}")
        vars(worker_group)["placement_group"] = named  # Ray Train names none
        controller = TrainController(**settings)
        asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        return controller.get_result()


def release(folder: Path) -> None:
    """Removes the placement groups that a trial's NestedTrainer left behind, with whatever still runs in them.

    Ray does so when the whole study has ended, not when the process that made them has.
    """
    for group in placement_group_table().values():
        if group["name"].startswith(f"{folder} ") and group["state"] != "REMOVED":
            remove_placement_group(ray.util.get_placement_group(group["name"]))


class ElasticTrainer(TorchTrainer):
    """For a number of workers within bounds: starts them anew after a loss, as long as the run gets on."""

    def __init__(self, *given: Any, checkpoint: Path, **named: Any) -> None:
        """``checkpoint``: the file that the run replaces as it gets on."""
        super().__init__(*given, **named)
        self._checkpoint = checkpoint

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        settings["failure_policy"] = _AsLongAsItGetsOn(self._checkpoint)
        # Ray counts a lost node's CPUs for a while, and would wait a minute for workers that cannot be placed there
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
        return super()._initialize_and_run_controller(**settings)


class _WithoutAutoscaler(FixedScalingPolicy):
    """Asks nobody for nodes: those that are there are all there will be."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _AsLongAsItGetsOn(FailurePolicy):
    """Tries again after a lost worker, but not after an error of our own, nor where nothing was trained in between."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(FailureConfig())
        self._checkpoint = checkpoint
        self._written: float | None = None
        self._failures = 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if own_error(training_failed_error) is not None:
            return FailureDecision.RAISE
        written = self._checkpoint.stat().st_mtime if self._checkpoint.exists() else None
        self._failures = self._failures + 1 if written == self._written else 1
        self._written = written
        return FailureDecision.RAISE if self._failures > _FAILURES_MAX else FailureDecision.RETRY


def own_error(error: Exception) -> DistsegError | None:
    """The first of our own errors among those of the workers: the others' connections fail when one of them is gone."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    return next((failure for _, failure in sorted(failures.items()) if isinstance(failure, DistsegError)), None)
