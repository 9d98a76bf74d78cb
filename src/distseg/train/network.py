"""A network on its device, and over all ranks of a run."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distseg.config import TrainConfig
from distseg.errors import ConfigError
from distseg.models.build import BuiltModel
from distseg.train.worker import Worker


def configure_torch(cfg: TrainConfig) -> None:
    """Threads and kernels for this process."""
    torch.set_num_threads(cfg.threads)
    torch.backends.cudnn.benchmark = not cfg.deterministic
    torch.backends.cudnn.deterministic = cfg.deterministic
    # warn_only: some backward kernels (bilinear resize) exist in no deterministic form
    torch.use_deterministic_algorithms(cfg.deterministic, warn_only=True)


def on_device(network: nn.Module, cfg: TrainConfig, worker: Worker) -> nn.Module:
    """The network where the worker computes, in the memory layout of the config."""
    if cfg.sync_batchnorm:
        if worker.device.type != "cuda":
            raise ConfigError("train.sync_batchnorm: torch has it for GPUs alone, and this worker has none; drop it")
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    network = network.to(worker.device)
    return network.to(memory_format=torch.channels_last) if cfg.channels_last else network


def over_ranks(network: nn.Module, built: BuiltModel, cfg: TrainConfig, worker: Worker) -> nn.Module:
    """What a training step calls: the network itself, averaged over ranks, compiled."""
    called = network
    if worker.world_size > 1:
        called = DistributedDataParallel(called, find_unused_parameters=built.unused_parameters)
    if cfg.compile:
        called = torch.compile(called)  # type: ignore[assignment]
    return called
