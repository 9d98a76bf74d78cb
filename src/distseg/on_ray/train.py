"""One training run on Ray Train: DDP over the workers of a TorchTrainer."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback

from distseg import records
from distseg.errors import FencedError, InputError, TrainingError
from distseg.home import unique_name
from distseg.on_ray.lost import STARTS_MAX, interrupt, is_loss, reason_of_loss, wait_for_room
from distseg.on_ray.trainers import ElasticTrainer, LeanTrainer, NestedTrainer, own_error
from distseg.records import Status, TrialRecord
from distseg.train.run_folder import RunSpec, close_record, one_line


class TrainWorker:
    """A worker of Ray Train, as the loop sees it."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()

    def report(self, epoch: dict[str, Any]) -> None:
        ray.train.report({"epoch": epoch["epoch"], "score": epoch["score"]})


def fit(
    spec: RunSpec,
    *,
    storage: Path,
    workers: int,
    workers_min: int | None = None,
    cpus_per_worker: float,
    gpus_per_worker: float,
    callbacks: Sequence[UserCallback] = (),
    own_ray: bool = False,
) -> TrialRecord:
    """Trains one run on ``workers`` DDP workers.

    With ``workers_min``, a run that loses workers goes on from its last checkpoint with as many as the cluster still
    holds, down to that number, and with more again when nodes return: as often as it takes, as long as it gets on.
    ``storage`` is a folder that all nodes see, for Ray's own notes while it runs. ``own_ray``: Ray serves this run
    alone. Where others hold the cluster, waits.
    When it fails for good, raises the worker's own error where it is one of ours, else TrainingError with the reason.
    A run that lost a worker, or the room for one, is INTERRUPTED: it can go on from its last checkpoint.
    """
    spec = replace(spec, gpus_per_worker=gpus_per_worker)
    name = unique_name(spec.folder.name)  # under a name used before, Ray would resume its own snapshot in silence
    resources = {"CPU": cpus_per_worker} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    elastic = workers_min is not None and workers_min < workers
    kind: Any = partial(LeanTrainer, cleaned=own_ray)  # a Ray of its own ends with the run
    if spec.study is not None:
        kind = partial(NestedTrainer, folder=spec.folder)
    if elastic:
        kind = partial(ElasticTrainer, checkpoint=spec.folder / records.LAST_CHECKPOINT)
    trainer = kind(
        partial(_train_worker, spec),  # not by train_loop_config: Ray's controller would import what a spec takes
        scaling_config=ScalingConfig(
            num_workers=(workers_min, workers) if elastic else workers,  # type: ignore[arg-type]
            use_gpu=gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=STARTS_MAX),  # type: ignore[call-arg]
            callbacks=list(callbacks),  # type: ignore[arg-type]
        ),
    )
    try:
        wait_for_room(workers if workers_min is None else workers_min, resources)
        trainer.fit()
    except (KeyboardInterrupt, SystemExit):  # Ray Train takes a Ctrl-C for itself and leaves with exit code 0
        close_record(spec, Status.INTERRUPTED, "interrupted by the user")
        raise KeyboardInterrupt from None
    except ray.train.TrainingFailedError as error:
        own = own_error(error)
        if own is None and is_loss(error):
            reason = reason_of_loss(error)
            interrupt(spec, reason)
            raise TrainingError(reason) from error
        refused = isinstance(own, FencedError) or (isinstance(own, InputError) and spec.study is None)
        if not refused:  # rank 0 may have seen no more of another's failure than a lost connection
            close_record(spec, Status.FAILED, one_line(own) if own else _reason(spec, error))
        raise own or TrainingError(_reason(spec, error)) from error
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)
    return TrialRecord.load(spec.folder)


def _train_worker(spec: RunSpec) -> None:
    from distseg.train.loop import run  # here: a driver that only waits for its workers does without

    run(spec, TrainWorker())


def _reason(spec: RunSpec, error: Exception) -> str:
    """The reason on the run's record, else Ray's first line."""
    try:
        record = TrialRecord.load(spec.folder)
        reason = record.reason if record.status is Status.FAILED else None
    except Exception:  # the run did not get as far as a record
        reason = None
    lines = [line for line in str(error).splitlines() if line.strip()]
    return reason or (lines[-1].strip() if lines else type(error).__name__)
