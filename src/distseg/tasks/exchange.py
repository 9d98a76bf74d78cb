"""What the loop and a task hand to each other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Losses:
    """Of n images that went through the network together."""

    of_images: torch.Tensor
    """(n,) float32, with gradients."""
    parts: torch.Tensor
    """(P,) float32: of each part that the task names, its sum over the images."""
    errors: Callable[[], torch.Tensor]
    """(n,) what the augmentation level follows; only asked where one does."""


@dataclass(frozen=True)
class Ranks:
    """How a score hears of what other ranks measured; both return the same on each rank."""

    reduce: Callable[[torch.Tensor], torch.Tensor]
    """Sum of a float64 tensor over all ranks."""
    gather: Callable[[Any], list[Any]]
    """Small values of all ranks, in rank order."""
