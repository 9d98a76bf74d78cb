"""One training run, start or resume to end: the same alone, under torchrun and under Ray."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from distseg import checkpoint, records
from distseg.config import RunConfig
from distseg.data.manifest import Manifest, ShardFolder
from distseg.errors import ConfigError, InputError
from distseg.models.build import build_model
from distseg.records import Status, TrialRecord
from distseg.scores import metrics_of, width
from distseg.tasks.check import check_task
from distseg.tasks.dense import DenseTask
from distseg.tasks.predictor import Predictor
from distseg.tasks.scoring import measure
from distseg.train.data import open_data
from distseg.train.epoch import Since, close_epoch, take_in, validation_due
from distseg.train.extremes import Extremes
from distseg.train.levels import Levels
from distseg.train.network import check_input, on_device, over_ranks, torch_settings
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
from distseg.train.worker import Worker, broadcast_buffers, reduce_sum


def run(spec: RunSpec, worker: Worker) -> TrialRecord:
    """Trains one run to its end, from its last checkpoint where there is one; returns its record, on every rank.

    A run that raises leaves its record with status FAILED and the reason; one that is interrupted, INTERRUPTED. What is
    wrong with the config or the data is raised before anything is written: a resume that is refused leaves the run as
    it was. Only a study's trial is FAILED by that too.
    """
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    try:
        with torch_settings(spec.config.train):
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


def _run(spec: RunSpec, worker: Worker, begin: Callable[[], None]) -> TrialRecord:
    cfg = spec.config
    shards = ShardFolder.open(spec.data, spec.cache)
    manifest = shards.manifest
    check_task(cfg.task, manifest)
    _check_metric(cfg, manifest)
    task = DenseTask(cfg, manifest)
    data = open_data(cfg, shards, worker)
    steps = cfg.train.epochs * data.plan.steps

    # Model and state, the latter from the last checkpoint where there is one.
    torch.manual_seed(cfg.seed)
    built = build_model(cfg.model, task.channels_out)
    check_input(built, cfg.model, data.size)
    network = on_device(built.network, cfg.train, worker)
    precision = resolve_precision(cfg.train.precision, worker.device)
    state = TrainState.create(cfg, network, worker.device, precision)
    last = spec.folder / records.LAST_CHECKPOINT
    if last.exists():
        state.restore(checkpoint.load(last), cfg, manifest, str(last))
    predictor_of = partial(Predictor, input_size=data.size, divisor=built.divisor, mean=built.mean, std=built.std)
    trainer = predictor_of(over_ranks(network, built, cfg.train, worker)).to(worker.device)
    predictor = predictor_of(state.evaluated).to(worker.device)

    # The loop, over all epochs, from the very batch it stopped at.
    begin()
    levels = Levels(cfg, state, data.window_steps)
    meter = GpuMeter(worker.device)
    since = Since(worker, meter, spec.gpus_per_worker)
    with Watch(spec, data.plan.steps, steps, meter, worker.rank) as watch, Uploads(cfg.train.upload) as uploads:
        if worker.rank == 0:
            write_start(spec, state, record_of(spec, state, shards, steps, worker), uploads)
        for batch in () if state.stopped_early else data.training(state.step, steps, levels.of):
            set_learning_rate(state, cfg, steps)
            batch = data.warped(batch, levels.of(state.step), worker.device)
            since.add(train_step(trainer, task, state, batch, cfg, worker, precision))
            since.bad += batch.bad
            state.step += 1
            if levels.step_done(since.error_units):
                since.error_units.zero_()
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
                    extremes = Extremes(len(manifest.classes))
                    look = extremes.take_in
                    score, bad = measure(predictor, data.validation, manifest, worker.device, reduce_sum, look)
                    levels.validated(predictor, task, data.validation, worker.device)
                network.train()
                since.bad += bad
            take_in(since, state, cfg, data.samples)  # the same on every rank from here on
            improved = close_epoch(state, cfg, data.plan, score, worker.world_size) if epoch_over else False
            if worker.rank == 0:
                fence(spec.folder)
                if epoch_over:  # before the checkpoint: a run killed in between trains and draws the epoch again
                    watch.epoch(state, predictor, data.validation, manifest.ignore_label, worker.device)
                if improved and score:
                    uploads.copy(save_best(spec, state, shards, built, score))
                    extremes.draw(spec.folder, predictor, data.val_batches, manifest.ignore_label, worker.device)
                    network.train()
                checkpoint.save(last, state.to_tree(cfg, manifest))
                uploads.copy(last)
                write_progress(spec, state, record_of(spec, state, shards, steps, worker))
                if epoch_over:
                    keep_last(spec.folder, epoch, cfg.train.keep_last)
            if score:
                worker.report(state.history[-1])
            if state.stopped_early:
                break
    return record_of(spec, state, shards, steps, worker)


def _check_metric(cfg: RunConfig, manifest: Manifest) -> None:
    classes = manifest.classes
    nothing = metrics_of(np.zeros(width(len(classes))), classes)  # all metrics that there are, by name
    known = [name for name, value in nothing.items() if isinstance(value, float)]
    if cfg.eval.metric not in known:
        raise ConfigError(f"eval.metric: got '{cfg.eval.metric}', want one of {', '.join(known)}")
