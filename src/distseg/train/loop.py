"""One training run, start or resume to end: the same alone, under torchrun and under Ray."""

from collections.abc import Callable

import torch

from distseg import checkpoint, records
from distseg.config import RunConfig
from distseg.data.manifest import ShardFolder
from distseg.errors import ConfigError, InputError
from distseg.records import Status, TrialRecord
from distseg.tasks.ranks import Ranks
from distseg.tasks.task import Task, task_of
from distseg.train.data import open_data
from distseg.train.epoch import Since, close_epoch, take_in, validation_due
from distseg.train.network import configure_torch, on_device, over_ranks
from distseg.train.precision import resolve_precision
from distseg.train.run_folder import (
    RunSpec,
    close_record,
    fence,
    keep_last,
    one_line,
    record_of,
    save_best,
    write_progress,
    write_start,
)
from distseg.train.state import TrainState
from distseg.train.step import set_learning_rate, train_step
from distseg.train.telemetry import GpuMeter
from distseg.train.upload import Uploads
from distseg.train.watch import Watch
from distseg.train.worker import Worker, broadcast_buffers, gather_objects, reduce_sum


def run(spec: RunSpec, worker: Worker) -> TrialRecord:
    """Trains one run to its end, from its last checkpoint where there is one; returns its record, on every rank.

    A run that raises leaves its record with status FAILED and the reason; one that is interrupted, INTERRUPTED. What is
    wrong with the config or the data is raised before anything is written: a resume that is refused leaves the run as
    it was. Only a study's trial is FAILED by that too.
    """
    begun = False

    def begin(state: TrainState, record: TrialRecord) -> None:
        nonlocal begun
        begun = True
        if worker.rank == 0:
            write_start(spec, state, record)

    try:
        return _run(spec, worker, begin)
    except KeyboardInterrupt:
        if worker.rank == 0:
            close_record(spec, Status.INTERRUPTED, "interrupted by the user")
        raise
    except Exception as error:
        refused = isinstance(error, InputError) and not begun and spec.study is None
        if worker.rank == 0 and not refused:
            close_record(spec, Status.FAILED, one_line(error))
        raise


def _run(spec: RunSpec, worker: Worker, begin: Callable[[TrainState, TrialRecord], None]) -> TrialRecord:
    cfg = spec.config
    configure_torch(cfg.train)
    shards = ShardFolder.open(spec.data, spec.cache)
    manifest = shards.manifest
    task = task_of(cfg, manifest)
    _check_metric(cfg, task)
    data = open_data(cfg, shards, worker)
    steps = cfg.train.epochs * data.plan.steps

    # Model and state, the latter from the last checkpoint where there is one.
    torch.manual_seed(cfg.seed)
    last = spec.folder / records.LAST_CHECKPOINT
    saved = checkpoint.load(last) if last.exists() else None
    built = task.build(cfg.model, saved and saved["network"])
    network = on_device(built.network, cfg.train, worker)
    precision = resolve_precision(cfg.train.precision, worker.device)
    state = TrainState.create(cfg, network, worker.device, precision)
    if saved is not None:
        state.restore(saved, cfg, manifest, str(last))
    trainer = task.predictor(over_ranks(network, built, cfg.train, worker), built, data.size).to(worker.device)
    predictor = task.predictor(state.evaluated, built, data.size).to(worker.device)

    # The loop, over all epochs, from the very batch it stopped at.
    begin(state, record_of(spec, state, shards, steps, worker, built.notes))
    meter = GpuMeter(worker.device)
    since = Since(worker.device, meter, task.loss_names)
    with Watch(spec, data.plan.steps, steps, meter, worker.rank) as watch, Uploads(cfg.train.upload) as uploads:
        for batch in () if state.stopped_early else data.training(state.step, steps):
            set_learning_rate(state, cfg, steps)
            since.losses += train_step(trainer, task, state, batch, cfg, worker, precision)
            since.bad += batch.bad
            state.step += 1
            if state.ema is not None:
                state.ema.update(network, state.step)
            watch.step(state, since.losses)
            epoch, rest = divmod(state.step, data.plan.steps)
            epoch_over = rest == 0
            if not epoch_over and not (cfg.train.checkpoint_steps and state.step % cfg.train.checkpoint_steps == 0):
                continue

            score = None
            if epoch_over and validation_due(cfg, epoch):
                broadcast_buffers(state.evaluated)
                predictor.eval()
                with torch.inference_mode():
                    score, bad = task.measure(
                        predictor, data.validation, worker.device, Ranks(reduce_sum, gather_objects)
                    )
                network.train()
                since.bad += bad
            take_in(since, state, cfg, data.samples)  # the same on every rank from here on
            improved = close_epoch(state, cfg, data.plan, score) if epoch_over else False
            if worker.rank == 0:
                fence(spec.folder)
                if improved and score:
                    uploads.copy(save_best(spec, state, shards, built, score))
                checkpoint.save(last, state.to_tree(cfg, manifest))
                uploads.copy(last)
                write_progress(spec, state, record_of(spec, state, shards, steps, worker))
                if epoch_over:
                    keep_last(spec.folder, epoch, cfg.train.keep_last)
                    watch.epoch(state, predictor, data.validation, manifest, worker.device)
            if score:
                worker.report(state.history[-1])
            if state.stopped_early:
                break
    return record_of(spec, state, shards, steps, worker)


def _check_metric(cfg: RunConfig, task: Task) -> None:
    known = task.metric_names()
    if cfg.eval.metric not in known:
        raise ConfigError(f"eval.metric: got '{cfg.eval.metric}', want one of {', '.join(known)}")
