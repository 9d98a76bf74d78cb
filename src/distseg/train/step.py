"""One optimizer step on a rank's share of a global batch."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distseg.augment.keyed_random import key_seed
from distseg.config import RunConfig
from distseg.data.stream import Batch, InstanceTrainBatch
from distseg.errors import ConfigError, OutOfMemoryError
from distseg.tasks.task import Task
from distseg.train.levels import error_units
from distseg.train.precision import autocast
from distseg.train.schedule import lr_factor
from distseg.train.state import TrainState
from distseg.train.worker import Worker


def train_step(
    trainer: Any,
    task: Task,
    state: TrainState,
    batch: Batch | InstanceTrainBatch,
    cfg: RunConfig,
    worker: Worker,
    precision: str,
) -> torch.Tensor:
    """One optimizer step; what this rank adds: (sum of losses, images, sums of the loss's parts, error units).

    All float64, on its device. The last are what the augmentation level follows (``train/levels.py``), 0 with another
    policy than ``adaptive``. ``trainer``: the task's predictor around the network.

    The loss is the mean over the images of the global batch, whatever the micro-batches and ranks: each image's loss is
    divided by the global batch, and DDP's averaging over ranks is undone.
    """
    torch.manual_seed(key_seed(cfg.seed, batch.step, f"rank {worker.rank}"))  # for dropout
    inputs = task.inputs(batch, worker.device)
    images = len(batch.keys)
    micro_batch = cfg.train.micro_batch or images
    starts = range(0, images, micro_batch)
    total = torch.zeros((), dtype=torch.float64, device=worker.device)
    parts = torch.zeros(len(task.loss_names), dtype=torch.float64, device=worker.device)
    units = torch.zeros_like(total)
    try:
        for start in starts:
            part = slice(start, min(start + micro_batch, images))
            with _gradients_stay_local(trainer.network, start != starts[-1]):
                losses = task.losses(trainer, inputs, part, autocast(worker.device, precision))
                loss = losses.of_images.sum() * (worker.world_size / cfg.train.batch_global)
                state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += losses.of_images.detach().sum()
            parts += losses.parts.detach()
            if state.course is not None:
                with torch.no_grad():
                    units += error_units(losses.errors())
    except (RuntimeError, ValueError) as error:
        meant = _explained(error, part.stop - part.start)
        if meant is None:
            raise
        raise meant from error
    if cfg.optim.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(trainer.network.parameters(), cfg.optim.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return torch.cat([torch.stack([total, torch.full_like(total, images)]), parts, units[None]])


def set_learning_rate(state: TrainState, cfg: RunConfig, steps: int) -> None:
    """Sets the rate for the step that comes next."""
    rate = cfg.optim.lr * lr_factor(cfg.schedule, state.step, steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate


def _gradients_stay_local(network: nn.Module, local: bool) -> AbstractContextManager[None]:
    """Keeps DDP from averaging gradients over ranks before the last micro-batch of a step."""
    return network.no_sync() if local and isinstance(network, DistributedDataParallel) else nullcontext()


def _explained(error: Exception, images: int) -> Exception | None:
    """What an error of a pass over ``images`` images means, where that is known."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        if images == 1:
            return OutOfMemoryError("out of memory with one image at a time; lower data.input_size or the model")
        return OutOfMemoryError(
            f"out of memory with {images} images at a time; try train.micro_batch={images // 2}: gradients are "
            "accumulated, so the global batch stays the same"
        )
    if "does not have a deterministic implementation" in text or "CUBLAS_WORKSPACE_CONFIG" in text:
        return ConfigError(
            f"train.deterministic: {text.splitlines()[0].split('.')[0]}; choose another model or loss, start the "
            "process with CUBLAS_WORKSPACE_CONFIG=:4096:8, or set train.deterministic=false"
        )
    if "Expected more than 1 value per channel" in text:
        return ConfigError(
            f"BatchNorm cannot learn from {images} image(s) at a time in this network; want at least 2: raise "
            "train.micro_batch (or train.batch_global per worker), or choose one that leaves no single image over"
        )
    return None
