"""A study on Ray Tune: Optuna suggests, ASHA stops, and our own record outlives both.

A trial with one worker runs the loop directly in a Tune worker, which stays warm for the next trial. A trial with
several drives a nested TorchTrainer, whose workers hold the CPUs and GPUs.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import optuna
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from distseg import checkpoint, config, records
from distseg.config import SearchConfig
from distseg.data.cache import ShardCache
from distseg.on_ray.session import concurrent_trials
from distseg.on_ray.train import fit
from distseg.records import Status, TrialRecord
from distseg.search.space import base_point, parameters, suggest
from distseg.search.study import Event, Study
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec
from distseg.train.worker import default_device

_SCORE = "score"
_DRIVER_HOLDS = {"memory": 1.0}  # of a trial that only drives a TorchTrainer: Ray refuses nothing, and the workers
# need the CPUs whole: any part of one, held here, would keep them waiting for ever where they want all there are

_NO_CONTROLLER: Any = None  # schedulers that replay needs do not look at it

OnEvent = Callable[[Event], None]


def search(study: Study, on_event: OnEvent, cache: ShardCache | None = None) -> None:
    """Runs a study to the end of its budget, replaying first what its record holds.

    ``on_event`` is called in the driver for every trial that starts, reports or ends; ``cache`` takes copies of shards
    behind a URL, on each node. Raises ClusterError before anything starts when one trial can never fit,
    KeyboardInterrupt when a Ctrl-C left trials that can go on.
    """
    _quieten()
    resources = study.search.resources
    concurrency = concurrent_trials(resources)
    study.begin()
    nested = resources.workers_per_trial > 1
    scheduler = _scheduler(study.search, study.base.train.epochs, study.info.mode)
    searcher = RecordedSearcher(study, on_event)
    searcher.replay(scheduler)
    held = _DRIVER_HOLDS
    if not nested:
        held = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    trainable = tune.with_parameters(train_trial, study=_trial_setting(study, cache))
    tuner = tune.Tuner(
        tune.with_resources(trainable, held),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher ends the study
            max_concurrent_trials=concurrency,
            reuse_actors=not nested,
        ),
        run_config=tune.RunConfig(
            name="ray",  # a study has one folder; a resumed study writes over the old driver's own notes
            storage_path=str(study.folder),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        interrupted = searcher.close()
    if interrupted:  # Tune takes a Ctrl-C for itself and returns as if all were done
        raise KeyboardInterrupt


def _quieten() -> None:
    """Leaves the progress of a study to ``on_event``; a trial's error is a row with its reason."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints at verbose=0, too
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
        tune.report({"epoch": epoch["epoch"], _SCORE: epoch["score"]})


class RecordedSearcher(Searcher):
    """A searcher that writes down what it is asked and told, and can be brought back by replaying that.

    Optuna lives behind it under our own trial ids, which do not change when a study is resumed.
    """

    def __init__(self, study: Study, on_event: OnEvent) -> None:
        super().__init__(metric=_SCORE, mode=study.info.mode)
        self._study = study
        self._on_event = on_event
        points = [base_point(study.search.space, study.base), *map(dict, study.search.points)]
        # A point outside the space (the base config may be one) is tried all the same, but Optuna is not told of it.
        self._points = [(point, parameters(study.search.space, point)) for point in points]
        self._inner = OptunaSearch(
            space=lambda trial: {"overrides": suggest(study.search.space, trial, study.base)},
            metric=_SCORE,
            mode=study.info.mode,
            points_to_evaluate=[inside for _, inside in self._points if inside is not None],
            sampler=_sampler(study.search),
        )
        self._untold: set[str] = set()
        self._names: dict[str, str] = {}  # Tune's trial id -> ours
        self._epochs: dict[str, int] = {}  # epochs recorded of each of our trials
        self._unfinished: list[str] = []  # trials of an earlier driver, to go on first
        self._stopped: set[str] = set()  # trials that the scheduler stops when it hears again what they reported
        self._deadline = None if study.search.budget.hours is None else time.time() + 3600 * study.search.budget.hours

    def replay(self, scheduler: TrialScheduler) -> None:
        """Feeds the study's record to Optuna and the scheduler in the order in which it happened."""
        for event in list(self._study.events):
            if event.kind == "ask":
                overrides = self._ask(event.trial_id)
                if overrides != event.overrides:  # concurrent asks saw results in another order
                    self._untold.add(event.trial_id)
                scheduler.on_trial_add(_NO_CONTROLLER, _named(event.trial_id))
            elif event.kind == "report":
                self._epochs[event.trial_id] = event.epoch or 0
                self._tell(event)
                self._schedule(scheduler, event)
            else:
                self._tell(event)
        self._reconcile(scheduler)
        self._unfinished = [name for name in self._study.asked() if name not in self._study.ended()]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial: an unfinished one of an earlier driver, a fixed point, or Optuna's; FINISHED at the end."""
        if self._deadline is not None and time.time() > self._deadline:
            return Searcher.FINISHED
        asked = self._study.asked()
        if self._unfinished:
            name = self._unfinished.pop(0)
            overrides = asked[name]
        else:
            name, overrides = self._new_trial()
            if not name:
                return Searcher.FINISHED
        self._names[trial_id] = name
        self._on_event(Event("ask", name, overrides=overrides))
        return {"trial_id": name, "overrides": overrides}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records an epoch's score, then tells Optuna."""
        name = self._names[trial_id]
        epoch = result.get("epoch")
        if epoch is None or epoch <= self._epochs.get(name, 0):
            return  # Tune repeats the last result when a trial returns
        self._epochs[name] = epoch
        self._record(Event("report", name, epoch=epoch, score=result[_SCORE]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records how a trial ended. Tune brings the last result here when it stops the trial on it."""
        if result:
            self.on_trial_result(trial_id, result)
        self._end(self._names.pop(trial_id), error)

    def close(self) -> bool:
        """Marks what is still running as interrupted, to be resumed; False when nothing was."""
        for event in self._study.events:  # a stopped nested worker may have written its record once more
            if event.kind == "end" and event.status is not None:
                folder = self._study.trial_folder(event.trial_id)
                record = TrialRecord.load(folder)
                if record.status != event.status:
                    record.model_copy(update={"status": Status(event.status)}).save(folder)
        for name in self._names.values():
            folder = self._study.trial_folder(name)
            record = TrialRecord.load(folder)
            if record.status is Status.RUNNING:
                record.model_copy(update={"status": Status.INTERRUPTED, "reason": "study interrupted"}).save(folder)
        return bool(self._names)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's own record is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see ``save``."""

    def _new_trial(self) -> tuple[str, dict[str, Any]]:
        """Name and overrides of the next trial that can start; no name at the end of the budget."""
        while (number := len(self._study.asked())) < self._study.search.budget.trials:
            name = f"{number:04d}"
            overrides = self._ask(name)
            if self._study.announce(name, overrides):
                return name, overrides
            self._end(name, error=True)
        return "", {}

    def _ask(self, name: str) -> dict[str, Any]:
        """Overrides of a new trial: the fixed points first."""
        number = int(name)
        if number < len(self._points) and self._points[number][1] is None:
            self._untold.add(name)
            return self._points[number][0]
        suggested = self._inner.suggest(name)
        assert suggested is not None
        overrides: dict[str, Any] = suggested["overrides"]
        return overrides

    def _record(self, event: Event) -> None:
        self._study.append(event)
        self._tell(event)
        self._on_event(event)

    def _tell(self, event: Event) -> None:
        if event.trial_id in self._untold:
            return
        if event.kind == "report":
            self._inner.on_trial_result(event.trial_id, _result(event))
        else:
            failed = event.score is None
            self._inner.on_trial_complete(event.trial_id, None if failed else _result(event), error=failed)

    def _end(self, name: str, error: bool) -> None:
        """Closes the trial's record where its process did not, and records the end."""
        folder = self._study.trial_folder(name)
        record = TrialRecord.load(folder)
        if error and record.status is not Status.FAILED:
            reason = record.reason or "its process died; Ray's logs may say why (out of memory, a lost node)"
            record = record.model_copy(update={"status": Status.FAILED, "reason": reason})
            record.save(folder)
        elif not record.status.finished:
            reason = f"stopped by the scheduler after epoch {record.epochs}"
            record = record.model_copy(update={"status": Status.PRUNED, "reason": reason})
            record.save(folder)
        score = None if record.status is Status.FAILED else self._last_score(name)
        self._record(Event("end", name, status=record.status, score=score))

    def _last_score(self, name: str) -> float | None:
        reports = [event.score for event in self._study.events if event.kind == "report" and event.trial_id == name]
        return reports[-1] if reports else None

    def _schedule(self, scheduler: TrialScheduler, report: Event) -> None:
        decision = scheduler.on_trial_result(_NO_CONTROLLER, _named(report.trial_id), _result(report))
        if decision == TrialScheduler.STOP:
            self._stopped.add(report.trial_id)

    def _reconcile(self, scheduler: TrialScheduler) -> None:
        """Adds to the record what trials finished after their driver had died, and ends those that were to stop."""
        for name in self._study.asked():
            if name in self._study.ended():
                continue
            folder = self._study.trial_folder(name)
            last = folder / records.LAST_CHECKPOINT  # written before epochs.jsonl: it knows every epoch that counts
            history = checkpoint.load(last)["history"] if last.exists() else []
            for row in history[self._epochs.get(name, 0) :]:
                self._epochs[name] = row["epoch"]
                self._record(Event("report", name, epoch=row["epoch"], score=row["score"]))
                self._schedule(scheduler, self._study.events[-1])
            if TrialRecord.load(folder).status.finished or name in self._stopped:
                self._end(name, error=False)


class AshaByName(ASHAScheduler):
    """ASHA that knows trials by our own ids.

    Tune's are new after a resume, and a trial under two ids would stand twice in the rungs that it has passed.
    """

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _named(trial.config["trial_id"]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return super().on_trial_result(tune_controller, _named(trial.config["trial_id"]), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _named(trial.config["trial_id"]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _named(trial.config["trial_id"]))


def _named(trial_id: str) -> Any:
    """All that ASHA reads of a trial."""
    return SimpleNamespace(trial_id=trial_id, config={"trial_id": trial_id})


def _result(event: Event) -> dict[str, Any]:
    return {"epoch": event.epoch, _SCORE: event.score, "training_iteration": event.epoch}


def _scheduler(search: SearchConfig, epochs: int, mode: str) -> TrialScheduler:
    if search.search.scheduler == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return AshaByName(
        time_attr="epoch",
        metric=_SCORE,
        mode=mode,
        max_t=epochs,
        grace_period=min(search.search.grace_epochs, epochs),
        reduction_factor=search.search.reduction,
    )


def _sampler(search: SearchConfig) -> optuna.samplers.BaseSampler:
    if search.search.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=search.search.seed)
    return optuna.samplers.TPESampler(
        seed=search.search.seed,
        n_startup_trials=search.search.startup_trials,
        multivariate=True,
        group=True,  # conditional fields: one model for each set of fields that occur together
        constant_liar=True,  # trials still running count as bad, so that concurrent ones spread out
    )
