"""How a score hears of what other ranks measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ranks:
    """Both return the same on each rank."""

    reduce: Callable[[torch.Tensor], torch.Tensor]
    """Sum of a float64 tensor over all ranks."""
    gather: Callable[[Any], list[Any]]
    """Small values of all ranks, in rank order."""


ALONE = Ranks(reduce=lambda sums: sums, gather=lambda value: [value])
