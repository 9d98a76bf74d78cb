"""An exponential moving average of a network's weights (Polyak and Juditsky 1992), kept beside it."""

import copy

import torch
from torch import nn


class Ema:
    """A copy of a network whose weights follow it slowly; BatchNorm's statistics are averaged with them.

    The decay is warmed up, (1 + steps) / (10 + steps) at most, so that the random start is forgotten within some steps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, steps: int) -> None:
        """Moves the copy towards ``network`` after its ``steps``-th step (1-based)."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        own, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
        for name in own.keys() - set(floats):  # counters
            own[name].copy_(theirs[name])
