"""A network on its device, and over all ranks of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distseg.config import ModelConfig, TrainConfig
from distseg.errors import ConfigError
from distseg.models.build import BuiltModel
from distseg.train.run_folder import one_line
from distseg.train.worker import Worker

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def torch_settings(cfg: TrainConfig) -> Iterator[None]:
    """Threads and kernels of this process for one run; afterwards as they were, for the next run in it."""
    cudnn = torch.backends.cudnn
    threads, benchmark, deterministic = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic
    mode, workspace = torch.get_deterministic_debug_mode(), os.environ.get(_CUBLAS)
    torch.set_num_threads(cfg.threads)
    cudnn.benchmark, cudnn.deterministic = not cfg.deterministic, cfg.deterministic
    torch.use_deterministic_algorithms(cfg.deterministic)
    if cfg.deterministic:
        os.environ.setdefault(_CUBLAS, ":4096:8")  # what cuBLAS wants for it; torch reads this at its first product
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        torch.set_deterministic_debug_mode(mode)
        if workspace is None:
            os.environ.pop(_CUBLAS, None)


def check_input(built: BuiltModel, cfg: ModelConfig, size: tuple[int, int]) -> None:
    """ConfigError where a network cannot take images of ``size`` (width, height): some encoders know one size alone.

    Tried without data and without arithmetic, on torch's meta device.
    """
    if built.any_size:
        return
    width, height = (side + -side % built.divisor for side in size)
    network = built.network
    tensors = {name: value.to("meta") for name, value in [*network.named_parameters(), *network.named_buffers()]}
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            torch.func.functional_call(network, tensors, torch.empty(1, 3, height, width, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = one_line(error)
        named = f"{cfg.architecture} with encoder {cfg.encoder}" if cfg.encoder else cfg.architecture
        raise ConfigError(
            f"data.input_size: {named} does not take images of {size[0]}x{size[1]} (padded to {width}x{height}): "
            f"{reason}; set data.input_size=WxH to a size that it takes, or choose another encoder"
        ) from error
    finally:
        network.train(training)


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
