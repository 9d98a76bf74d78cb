"""A run's batches: every rank plans the same epochs and takes its own slice of each global batch."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from distseg.augment import adaptive
from distseg.augment.any_size import AnySizeAugmenter
from distseg.augment.keyed_random import KeyedAugment, key_seed
from distseg.augment.on_device import warp_batch
from distseg.augment.policies import Augmenter
from distseg.config import RunConfig
from distseg.data.manifest import ShardFolder
from distseg.data.order import EpochPlan
from distseg.data.stream import (
    Batch,
    EvalBatches,
    InstanceEvalBatches,
    InstanceTrainBatches,
    TrainBatches,
    batch_loader,
    open_split,
)
from distseg.errors import ConfigError
from distseg.train.worker import Worker


@dataclass(frozen=True)
class LeveledSteps:
    """Global steps, each with its augmentation level, which is asked for when the loader asks for the step."""

    steps: range
    level_of: Callable[[int], float]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        for step in self.steps:
            yield step, self.level_of(step)


@dataclass(frozen=True)
class RunData:
    """What one rank reads."""

    plan: EpochPlan
    size: tuple[int, int]
    """(width, height) in pixels at which the network sees images."""
    samples: int
    """Of training and validation together, over all ranks."""
    train_batches: TrainBatches | InstanceTrainBatches
    val_batches: EvalBatches | InstanceEvalBatches
    validation: Iterable[Any]
    """This rank's validation batches; can be iterated again and again."""
    loader: partial[Iterable[Any]]
    window_steps: int | None
    """Steps over which the augmentation level is constant; None without the adaptive policy."""
    device_warps: Augmenter | None
    """Draws the warps that are left to the training device, where they are."""

    def training(self, first_step: int, steps: int, level_of: Callable[[int], float]) -> Iterable[Any]:
        """This rank's share of global batches ``first_step`` to ``steps`` - 1, over all epochs.

        ``level_of``: a step's augmentation level; it is asked at most ``window_steps`` steps ahead.
        """
        items = LeveledSteps(range(first_step, steps), level_of)
        return self.loader(self.train_batches, items, ahead_max=self.window_steps)

    def warped(self, batch: Batch, level: float, device: torch.device) -> Batch:
        """A training batch with the warps that were left to the training device; as it is where none were."""
        if self.device_warps is None:
            return batch
        epoch, _ = self.plan.positions(batch.step)
        seeds = [key_seed(self.plan.seed, epoch, key) for key in batch.keys]
        stages = [self.device_warps.stages(seed, level) for seed in seeds]
        images, masks = (each.to(device, non_blocking=True) for each in (batch.images, batch.masks))
        images, masks = warp_batch(images, masks, stages, self.device_warps.canvas)
        return replace(batch, images=images, masks=masks)


def open_data(cfg: RunConfig, shards: ShardFolder, worker: Worker) -> RunData:
    """Opens the splits; ConfigError where batch, size and data do not fit together."""
    train_reader = open_split(shards, training=True, fold=cfg.data.fold, window=cfg.data.shuffle_window)
    val_reader = open_split(shards, training=False, fold=cfg.data.fold)
    plan = EpochPlan(
        train_reader.shard_sizes, cfg.train.batch_global, cfg.seed, cfg.data.shuffle_window, tail=cfg.data.tail
    )
    _check_plan(plan, worker.world_size)
    size = cfg.data.input_size or shards.manifest.size
    if size is None:
        raise ConfigError(f"data.input_size: missing; the samples of {shards.root} keep their own sizes, give WxH")
    on_device = cfg.augment.device == "gpu"
    augmenter = None
    place = {"rank": worker.rank, "world_size": worker.world_size}
    train_batches: TrainBatches | InstanceTrainBatches
    val_batches: EvalBatches | InstanceEvalBatches
    if cfg.task == "instance":
        if on_device:
            raise ConfigError("augment.device: got 'gpu', but images of task 'instance' differ in size; want 'cpu'")
        augment = KeyedAugment(AnySizeAugmenter(cfg.augment), cfg.seed)
        train_batches = InstanceTrainBatches(train_reader, plan, size=size, augment=augment, **place)
        val_batches = InstanceEvalBatches(val_reader, batch=cfg.eval.batch, **place)
    else:
        augmenter = Augmenter(cfg.augment, size, shards.manifest.ignore_label)
        augment = KeyedAugment(augmenter.before_warps if on_device else augmenter, cfg.seed)
        train_batches = TrainBatches(train_reader, plan, size=size, augment=augment, **place)
        val_batches = EvalBatches(val_reader, batch=cfg.eval.batch, **place)
    loader = partial(
        batch_loader, workers=cfg.data.workers, prefetch=cfg.data.prefetch, pin=worker.device.type == "cuda"
    )
    return RunData(
        plan=plan,
        size=size,
        samples=len(train_reader) + len(val_reader),
        train_batches=train_batches,
        val_batches=val_batches,
        validation=loader(val_batches, range(len(val_batches))),
        loader=loader,
        window_steps=(
            adaptive.window_steps(cfg.augment.adaptive, cfg.train.batch_global)
            if cfg.augment.policy == "adaptive"
            else None
        ),
        device_warps=augmenter if on_device else None,
    )


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
