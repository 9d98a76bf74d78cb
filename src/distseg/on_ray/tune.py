"""A study on Ray Tune: Optuna suggests, ASHA stops, and our own record outlives both.

A trial with one worker runs the loop directly in a Tune worker, which stays warm for the next trial. A trial with
several drives a nested TorchTrainer, whose workers hold the CPUs and GPUs.
"""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.schedulers import TrialScheduler

from distseg import config
from distseg.data.cache import ShardCache
from distseg.home import unique_name
from distseg.on_ray.lease import UNBOUNDED, Lease
from distseg.on_ray.schedulers import SCORE, scheduler_of
from distseg.on_ray.searcher import BudgetStopper, OnEvent, RecordedSearcher
from distseg.on_ray.session import cluster_total, concurrent_trials
from distseg.on_ray.train import fit
from distseg.on_ray.trainers import release
from distseg.on_ray.turns import Turns
from distseg.records import TRIALS_FOLDER
from distseg.search.study import Study
from distseg.train.run_folder import RunSpec
from distseg.train.worker import default_device

TUNE_FOLDER = "ray"
"""Tune's own files in a study's folder: a resumed study writes over the old driver's notes."""

_DRIVER_HOLDS = {"memory": 1.0}  # of a trial that only drives a TorchTrainer: Ray refuses nothing, and the workers
# need the CPUs whole: any part of one, held here, would keep them waiting for ever where they want all there are


def search(
    study: Study,
    on_event: OnEvent,
    say: Callable[[str], None],
    cache: ShardCache | None = None,
    lease: Lease = UNBOUNDED,
) -> None:
    """Runs a study to the end of its budget, replaying first what its record holds.

    ``on_event`` is called in the driver for every trial that starts, reports, is lost or ends; ``say`` with what there
    is to know of the whole; ``cache`` takes copies of shards behind a URL, on each node; ``lease`` bounds how many
    trials run at once. Raises ClusterError before anything starts when one trial can never fit, HomeError when
    somebody else runs the study, KeyboardInterrupt when a Ctrl-C left trials that can go on.
    """
    _quieten()
    resources = study.search.resources
    concurrency = concurrent_trials(resources, lease)
    study.begin()
    say(concurrency.reason)
    scheduler = scheduler_of(study.search, study.base, study.info.mode)
    size = [resources.workers_per_trial * each for each in (resources.cpus_per_worker, resources.gpus_per_worker)]
    total = {name: cluster_total(name) for name in ("CPU", "GPU")}
    with Turns(unique_name(study.info.name), size[0], size[1], total) as turns:
        searcher = RecordedSearcher(study, scheduler, on_event, turns, study.folder / TUNE_FOLDER)
        searcher.replay()
        try:
            while not searcher.done() and turns.wait(searcher.done):
                searcher.start()
                _tuner(study, searcher, scheduler, concurrency.trials, cache).fit()
                if not searcher.gave_way:
                    break
        finally:
            left = searcher.close()
            study.end()
    if why := searcher.over():
        say(f"the study ends: {why}")
    elif left or not searcher.done():  # Tune takes a Ctrl-C for itself and returns as if all were done
        raise KeyboardInterrupt


def _tuner(
    study: Study, searcher: RecordedSearcher, scheduler: TrialScheduler, trials: int, cache: ShardCache | None
) -> tune.Tuner:
    resources = study.search.resources
    nested = resources.workers_per_trial > 1
    held = _DRIVER_HOLDS if nested else {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    trainable = tune.with_parameters(train_trial, study=_trial_setting(study, cache))
    # what Ray's own tools read
    callbacks: list[Any] = [JsonLoggerCallback(), CSVLoggerCallback()]  # type: ignore[no-untyped-call]
    if nested:
        callbacks.append(_Releases(study.folder / TRIALS_FOLDER))
    return tune.Tuner(
        tune.with_resources(trainable, held),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher ends the study
            max_concurrent_trials=trials,
            reuse_actors=not nested,
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(study.folder),
            verbose=0,
            stop=BudgetStopper(searcher),
            callbacks=callbacks,
        ),
    )


class _Releases(tune.Callback):
    """Gives the room of a nested trial's workers to the next trial, however its own process ended."""

    def __init__(self, trials: Path) -> None:
        self._trials = trials  # the folder of all

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        release(self._trials / trial.config["trial_id"])

    on_trial_error = on_trial_complete


def _quieten() -> None:
    """Leaves the progress of a study to ``on_event``; a trial's error is a row with its reason."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints at verbose=0, too
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # a second TensorBoard run for each trial, with less in it
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPESampler(group=...)


def _trial_setting(study: Study, cache: ShardCache | None) -> dict[str, Any]:
    """What every trial of a study shares, as plain values."""
    return {
        "name": study.info.name,
        "folder": study.folder,
        "base": study.base,
        "data": study.info.data,
        "cache": cache,
        "resources": study.search.resources,
    }


def train_trial(trial: dict[str, Any], study: dict[str, Any]) -> None:
    """Tune's trainable: one trial, ``trial`` = {trial_id, overrides}."""
    spec = RunSpec(
        config=config.with_overrides(study["base"], trial["overrides"], f"trial {trial['trial_id']}"),
        data=study["data"],
        cache=study["cache"],
        folder=study["folder"] / "trials" / trial["trial_id"],
        trial_id=trial["trial_id"],
        study=study["name"],
        overrides=trial["overrides"],
        gpus_per_worker=study["resources"].gpus_per_worker,
    )
    resources = study["resources"]
    if resources.workers_per_trial == 1:
        from distseg.train.loop import run  # here: the study's driver, and those of nested trials, do without

        run(spec, TrialWorker(gpu=resources.gpus_per_worker > 0))
        return
    fit(
        spec,
        storage=study["folder"] / "ray-train",
        workers=resources.workers_per_trial,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        callbacks=[TuneReportCallback()],  # type: ignore[no-untyped-call]
    )


class TrialWorker:
    """The only worker of a trial, inside Tune's own process."""

    rank = 0
    world_size = 1

    def __init__(self, gpu: bool) -> None:
        """``gpu``: the trial holds one. Ray shows it to a process that does, and hides none from one that does not."""
        self.device = default_device(0) if gpu else torch.device("cpu")

    def report(self, epoch: dict[str, Any]) -> None:
        tune.report({"epoch": epoch["epoch"], SCORE: epoch["score"]})
