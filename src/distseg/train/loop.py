"""One training run, start or resume to end: the same alone, under torchrun and under Ray."""

from collections.abc import Callable

import torch

from distseg import checkpoint, records
from distseg.config import RunConfig
from distseg.data.manifest import ShardFolder
from distseg.data.stream import EvalBatches
from distseg.errors import ConfigError, FencedError, InputError
from distseg.records import Status, TrialRecord
from distseg.tasks.exchange import Ranks
from distseg.tasks.task import Task, task_of
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
from distseg.train.turn import Turn
from distseg.train.upload import Uploads
from distseg.train.watch import Watch
from distseg.train.worker import Worker, broadcast_buffers, gather_objects, is_broken_connection, reduce_sum


def run(spec: RunSpec, worker: Worker) -> TrialRecord:
    """Trains one run to its end, from its last checkpoint where there is one; returns its record, on every rank.

    A run that raises leaves its record with status FAILED and the reason; one that is interrupted or loses a worker,
    INTERRUPTED. What is wrong with the config or the data is raised before anything is written: a resume that is
    refused leaves the run as it was. Only a study's trial is FAILED by that too. One that another process has gone on
    with says nothing.
    """
    begun = False
    turn = Turn(spec.folder)

    def begin() -> None:
        nonlocal begun
        begun = True

    try:
        with torch_settings(spec.config.train):
            return _run(spec, worker, begin, turn)
    except KeyboardInterrupt:
        if worker.rank == 0 and not turn.is_over:
            close_record(spec, Status.INTERRUPTED, "interrupted by the user")
        raise
    except FencedError:
        raise
    except Exception as error:
        refused = isinstance(error, InputError) and not begun and spec.study is None
        if worker.rank == 0 and not refused and not turn.is_over:
            if worker.world_size > 1 and is_broken_connection(error):
                close_record(spec, Status.INTERRUPTED, f"another worker was lost: {one_line(error)}")
            else:
                close_record(spec, Status.FAILED, one_line(error))
        raise


def _run(spec: RunSpec, worker: Worker, begin: Callable[[], None], turn: Turn) -> TrialRecord:
    cfg = spec.config
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
    check_input(built, cfg.model, data.size)
    network = on_device(built.network, cfg.train, worker)
    if worker.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(worker.device)  # a warm process has trained other trials before
    precision = resolve_precision(cfg.train.precision, worker.device)
    state = TrainState.create(cfg, network, worker.device, precision)
    if saved is not None:
        state.restore(saved, cfg, manifest, str(last))
    trainer = task.predictor(over_ranks(network, built, cfg.train, worker), built, data.size).to(worker.device)
    predictor = task.predictor(state.evaluated, built, data.size).to(worker.device)

    # The loop, over all epochs, from the very batch it stopped at.
    begin()
    levels = Levels(cfg, state, data.window_steps)
    meter = GpuMeter(worker.device)
    since = Since(worker, meter, spec.gpus_per_worker, task.loss_names)
    with Watch(spec, data.plan.steps, steps, meter, worker.rank) as watch, Uploads(spec.upload) as uploads:
        if worker.rank == 0:
            turn.take()
            record = record_of(spec, state, shards, steps, worker, built.notes)
            write_start(spec, state, record, uploads)
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
                    ranks = Ranks(reduce_sum, gather_objects)
                    score, bad = task.measure(predictor, data.validation, worker.device, ranks, extremes.take_in)
                    levels.validated(predictor, task, data.validation, worker.device)
                network.train()
                since.bad += bad
            take_in(since, state, cfg, data.samples)  # the same on every rank from here on
            improved = close_epoch(state, cfg, data.plan, score, worker.world_size) if epoch_over else False
            if worker.rank == 0:
                turn.check()
                fence(spec.folder)
                if epoch_over:  # before the checkpoint: a run killed in between trains and draws the epoch again
                    watch.epoch(state, predictor, data.validation, manifest, worker.device)
                if improved and score:
                    uploads.copy(save_best(spec, state, shards, built, score))
                    if isinstance(data.val_batches, EvalBatches):
                        extremes.draw(spec.folder, predictor, data.val_batches, manifest.ignore_label, worker.device)
                        network.train()
                record = record_of(spec, state, shards, steps, worker)
                checkpoint.save(last, state.to_tree(cfg, manifest) | {"record": record.model_dump_json()})
                uploads.copy(last)
                write_progress(spec, state, record)
                if epoch_over:
                    keep_last(spec.folder, epoch, cfg.train.keep_last)
            if score:
                worker.report(state.history[-1])
            if state.stopped_early:
                break
    return record_of(spec, state, shards, steps, worker)


def _check_metric(cfg: RunConfig, task: Task) -> None:
    known = task.metric_names()
    if cfg.eval.metric not in known:
        raise ConfigError(f"eval.metric: got '{cfg.eval.metric}', want one of {', '.join(known)}")
