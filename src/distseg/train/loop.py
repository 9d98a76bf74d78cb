"""One training run, start or resume to end: the same alone, under torchrun and under Ray."""

import itertools
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distseg import checkpoint, records
from distseg.augment.keyed_random import key_seed
from distseg.augment.policies import Augmenter, Pixels
from distseg.config import RunConfig
from distseg.data.manifest import BadSample, Manifest, ShardFolder
from distseg.data.order import EpochPlan
from distseg.data.stream import Batch, EvalBatches, TrainBatches, batch_loader, open_split
from distseg.errors import ConfigError, InputError, TrainingError
from distseg.metrics import metrics_of
from distseg.models.build import build_model
from distseg.records import Score, Status, TrialRecord
from distseg.tasks.binary import BinaryTask
from distseg.tasks.check import check_task
from distseg.tasks.predictor import Predictor
from distseg.tasks.scoring import measure
from distseg.train.precision import autocast, resolve_precision
from distseg.train.run_folder import (
    RunSpec,
    close_record,
    fence,
    one_line,
    record_of,
    save_best,
    write_progress,
    write_start,
)
from distseg.train.schedule import lr_factor
from distseg.train.state import TrainState
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
    torch.set_num_threads(cfg.train.threads)
    shards = ShardFolder.open(spec.data, spec.cache)
    manifest = shards.manifest
    check_task(cfg.task, manifest)
    task = BinaryTask(cfg.loss)
    _check_metric(cfg, manifest)

    # Data: every rank plans the same epochs and takes its own slice of each global batch.
    train_reader = open_split(shards, training=True, fold=cfg.data.fold, window=cfg.data.shuffle_window)
    val_reader = open_split(shards, training=False, fold=cfg.data.fold)
    plan = EpochPlan(
        train_reader.shard_sizes, cfg.train.batch_global, cfg.seed, cfg.data.shuffle_window, tail=cfg.data.tail
    )
    _check_plan(plan, worker.world_size)
    size = cfg.data.input_size or manifest.size
    if size is None:
        raise ConfigError(f"data.input_size: missing; the samples of {spec.data} keep their original sizes, give WxH")
    augment = KeyedAugment(Augmenter(cfg.augment.policy, size), cfg.seed)
    train_batches = TrainBatches(
        train_reader, plan, size=size, augment=augment, rank=worker.rank, world_size=worker.world_size
    )
    val_batches = EvalBatches(val_reader, batch=cfg.eval.batch, rank=worker.rank, world_size=worker.world_size)
    samples = len(train_reader) + len(val_reader)

    # Model and state, the latter from the last checkpoint where there is one.
    torch.manual_seed(cfg.seed)
    built = build_model(cfg.model, task.channels_out)
    network = built.network.to(worker.device)
    if cfg.train.channels_last:
        network = network.to(memory_format=torch.channels_last)
    precision = resolve_precision(cfg.train.precision, worker.device)
    state = TrainState.create(cfg, network, worker.device, precision)
    last = spec.folder / records.LAST_CHECKPOINT
    if last.exists():
        state.restore(checkpoint.load(last), cfg, manifest, str(last))
    ddp = DistributedDataParallel(network) if worker.world_size > 1 else network
    predictor = Predictor(network, input_size=size, divisor=built.divisor, mean=built.mean, std=built.std)
    trainer = Predictor(ddp, input_size=size, divisor=built.divisor, mean=built.mean, std=built.std)
    predictor.to(worker.device)
    trainer.to(worker.device)

    # The loop, over all epochs, from the very batch it stopped at.
    steps = cfg.train.epochs * plan.steps
    loader = partial(
        batch_loader, workers=cfg.data.workers, prefetch=cfg.data.prefetch, pin=worker.device.type == "cuda"
    )
    train_loader = loader(train_batches, range(state.step, steps))
    val_loader = loader(val_batches, range(len(val_batches)))
    begin(state, record_of(spec, state, shards, steps, worker))
    since = Since(worker.device)
    for batch in train_loader:
        set_learning_rate(state, cfg, steps)
        since.losses += train_step(trainer, task, state, batch, cfg, worker, precision)
        since.bad += batch.bad
        state.step += 1
        epoch_over = state.step % plan.steps == 0
        if not epoch_over and not (cfg.train.checkpoint_steps and state.step % cfg.train.checkpoint_steps == 0):
            continue

        score = None
        if epoch_over:
            broadcast_buffers(network)
            network.eval()
            with torch.inference_mode():
                score, bad = measure(predictor, val_loader, manifest, worker.device, reduce_sum)
            network.train()
            since.bad += bad
        _take_in(since, state, cfg, samples)  # the same on every rank from here on
        improved = _close_epoch(state, cfg, plan, score) if score else False
        if worker.rank == 0:
            fence(spec.folder)
            if improved and score:
                save_best(spec, state, shards, built, score)
            checkpoint.save(last, state.to_tree(cfg, manifest))
            write_progress(spec, state, record_of(spec, state, shards, steps, worker))
        if epoch_over:
            worker.report(state.history[-1])
    return record_of(spec, state, shards, steps, worker)


def train_step(
    trainer: Predictor,
    task: BinaryTask,
    state: TrainState,
    batch: Batch,
    cfg: RunConfig,
    worker: Worker,
    precision: str,
) -> torch.Tensor:
    """One optimizer step on this rank's share of a global batch; returns (sum of losses, images), float64.

    The loss is the mean over the images of the global batch, whatever the micro-batches and ranks: each image's loss is
    divided by the global batch, and DDP's averaging over ranks is undone.
    """
    torch.manual_seed(key_seed(cfg.seed, batch.step, f"rank {worker.rank}"))  # for dropout
    images = batch.images.to(worker.device, non_blocking=True)
    masks = batch.masks.to(worker.device, non_blocking=True)
    micro_batch = cfg.train.micro_batch or len(images)
    starts = range(0, len(images), micro_batch)
    total = torch.zeros((), dtype=torch.float64, device=worker.device)
    for start in starts:
        part = slice(start, start + micro_batch)
        with _gradients_stay_local(trainer.network, start != starts[-1]):
            with autocast(worker.device, precision):
                logits = trainer.network_logits(images[part])
            losses = task.loss(logits, masks[part])
            loss = losses.sum() * (worker.world_size / cfg.train.batch_global)
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += losses.detach().sum()
    if cfg.optim.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(trainer.network.parameters(), cfg.optim.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return torch.stack([total, torch.full_like(total, len(images))])


def set_learning_rate(state: TrainState, cfg: RunConfig, steps: int) -> None:
    """Sets the rate for the step that comes next."""
    rate = cfg.optim.lr * lr_factor(cfg.schedule, state.step, steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate


class KeyedAugment:
    """An augmenter seeded for each sample from (seed, epoch, key)."""

    def __init__(self, augmenter: Augmenter, seed: int) -> None:
        self._augmenter = augmenter
        self._seed = seed

    def __call__(self, image: Pixels, mask: Pixels, epoch: int, key: str) -> tuple[Pixels, Pixels]:
        return self._augmenter(image, mask, key_seed(self._seed, epoch, key))


class Since:
    """What this rank gathered since the ranks last added up."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        """Begins anew."""
        self.losses = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.bad: list[BadSample] = []
        self.wall = time.perf_counter()
        self.cpu = time.process_time()


def _take_in(since: Since, state: TrainState, cfg: RunConfig, samples: int) -> None:
    """Adds up over ranks what they gathered, and fails on all of them together when the run cannot go on."""
    cpu_seconds = torch.tensor([time.process_time() - since.cpu], dtype=torch.float64, device=since.device)
    loss_sum, images, cpu = reduce_sum(torch.cat([since.losses, cpu_seconds])).tolist()
    if not math.isfinite(loss_sum):
        raise TrainingError(
            f"loss is {loss_sum} by step {state.step}; the last checkpoint is from before; "
            f"lower optim.lr (now {cfg.optim.lr}) or set train.precision=fp32"
        )
    state.loss_sum += loss_sum
    state.loss_images += int(images)
    state.cpu_seconds += cpu
    state.seconds += time.perf_counter() - since.wall
    for sample in itertools.chain.from_iterable(gather_objects(since.bad)):
        state.bad.setdefault(sample.key, sample)
    if len(state.bad) > cfg.data.bad_fraction_max * samples:
        first = next(iter(state.bad.values()))
        raise TrainingError(
            f"{len(state.bad)} of {samples} samples cannot be used, more than data.bad_fraction_max="
            f"{cfg.data.bad_fraction_max}; first: shard {first.shard}, sample {first.key}: {first.reason}; "
            "look at all of them with 'distseg data verify'"
        )
    since.start()


def _close_epoch(state: TrainState, cfg: RunConfig, plan: EpochPlan, score: Score) -> bool:
    """Adds the epoch's row to the history; True when it is the best so far."""
    value: float = score.metrics[cfg.eval.metric]
    epoch = state.step // plan.steps
    seconds = state.seconds - (state.history[-1]["seconds"] if state.history else 0.0)
    state.history.append(
        {
            "epoch": epoch,
            "step": state.step,
            "images_seen": state.step * plan.batch_global,
            "loss": state.loss_sum / state.loss_images,
            "lr": state.optimizer.param_groups[0]["lr"],
            "metrics": score.metrics,
            "score": value,
            "samples": score.samples,
            "seconds": state.seconds,
            "images_per_s": state.loss_images / seconds,
            "bad_samples": len(state.bad),
            "surplus": plan.surplus,  # samples seen twice in the epoch or, below 0, left out of it
        }
    )
    state.loss_sum, state.loss_images = 0.0, 0
    sign = 1 if cfg.eval.mode == "max" else -1
    improved = state.best is None or sign * value > sign * state.best
    if improved:
        state.best, state.best_epoch, state.best_metrics = value, epoch, score.metrics
    return improved


def _check_metric(cfg: RunConfig, manifest: Manifest) -> None:
    classes = manifest.classes
    nothing = metrics_of(np.zeros(len(classes) ** 2 + 3), classes)  # all metrics that there are, by name
    known = [name for name, value in nothing.items() if isinstance(value, float)]
    if cfg.eval.metric not in known:
        raise ConfigError(f"eval.metric: got '{cfg.eval.metric}', want one of {', '.join(known)}")


def _check_plan(plan: EpochPlan, world_size: int) -> None:
    if plan.batch_global < world_size:
        raise ConfigError(
            f"train.batch_global: got {plan.batch_global} for {world_size} workers; want at least one image each"
        )
    if plan.steps == 0:
        raise ConfigError(
            f"train.batch_global: got {plan.batch_global}, but there are only {plan.samples} training samples and "
            "data.tail=drop leaves no batch; lower it or set data.tail=wrap"
        )


def _gradients_stay_local(network: nn.Module, local: bool) -> AbstractContextManager[None]:
    """Keeps DDP from averaging gradients over ranks before the last micro-batch of a step."""
    return network.no_sync() if local and isinstance(network, DistributedDataParallel) else nullcontext()
