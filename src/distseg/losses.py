"""Losses, one value per image, always computed in float32.

Per image, because a loss that sums over the batch first (as SMP's Dice does) changes when the same global batch is cut
into other micro-batches or ranks. The mean over images does not.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from distseg.config import LossConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (B, 1, H, W) float32, targets (B, H, W) float32 in {0, 1}) -> (B,) float32, each >= 0."""


def bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, mean over pixels: (B, 1, H, W), (B, H, W) -> (B,)."""
    per_pixel = F.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")
    return per_pixel.mean(dim=(1, 2))


def dice(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice (Milletari et al. 2016, V-Net, with plain sums): (B, 1, H, W), (B, H, W) -> (B,) in [0, 1].

    One pixel is added above and below, so an empty target has a gradient (towards predicting nothing).
    """
    probabilities = logits[:, 0].sigmoid()
    intersection = (probabilities * targets).sum(dim=(1, 2))
    total = probabilities.sum(dim=(1, 2)) + targets.sum(dim=(1, 2))
    return 1 - (2 * intersection + 1) / (total + 1)


def build_loss(cfg: LossConfig) -> Loss:
    """The loss of a config."""
    if cfg.name == "bce":
        return bce
    if cfg.name == "dice":
        return dice
    weight = cfg.dice_weight

    def bce_dice(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (1 - weight) * bce(logits, targets) + weight * dice(logits, targets)

    return bce_dice
