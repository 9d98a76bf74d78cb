"""What the loop knows of where it runs: a rank, a device, and somewhere to report.

Ray's workers and the plain local one implement this; the difference between them is Ray's cost. Checkpoints need no
method here: the run's folder lies in the home that all nodes see, so rank 0 writes them there and any rank reads them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist


class Worker(Protocol):
    """One process of a training run. With world_size > 1 torch's default process group is joined already."""

    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def report(self, epoch: dict[str, Any]) -> None:
        """Called on every rank after every validated epoch, with the same values.

        May not return when the run is to stop.
        """
        ...


class LocalWorker:
    """A worker without Ray: alone, or one of torchrun's."""

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank = rank
        self.world_size = world_size
        self.device = device

    def report(self, epoch: dict[str, Any]) -> None:
        """Nobody is told: followers read the run's folder."""


@contextmanager
def local_worker() -> Iterator[LocalWorker]:
    """This process as a worker; joins torchrun's group when torchrun started it, and leaves it at the end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # set by torchrun for its processes alone
        yield LocalWorker(0, 1, default_device(0))
        return
    device = default_device(int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield LocalWorker(dist.get_rank(), dist.get_world_size(), device)
        dist.barrier()  # ranks leave together: rank 0 still writes when the others have nothing left to do
    finally:
        dist.destroy_process_group()


def default_device(local_rank: int) -> torch.device:
    """The GPU of a local rank, else the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum over all ranks, on each of them; the values themselves when there is one rank."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return values
    device = values.device
    if dist.get_backend() == "nccl":
        values = values.cuda()
    summed = values.clone()
    dist.all_reduce(summed)
    return summed.to(device)


def gather_objects(value: Any) -> list[Any]:
    """Small Python values of all ranks, in rank order, on each of them."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def is_broken_connection(error: BaseException) -> bool:
    """Whether a rank's error says no more than that it lost another one: NCCL's errors, gloo's, the store's."""
    gloo = isinstance(error, RuntimeError) and "Connection " in str(error)  # closed by peer, reset by peer
    return gloo or isinstance(error, dist.DistError)


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Gives all ranks rank 0's buffers (BatchNorm's running statistics), in place."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
