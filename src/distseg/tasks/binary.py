"""The binary task: one logit a pixel, object against background."""

import torch

from distseg.config import LossConfig
from distseg.losses import build_loss


class BinaryTask:
    """Targets and loss; decoding stands in ``tasks/predictor.py``, metrics in ``metrics.py``."""

    channels_out = 1

    def __init__(self, loss: LossConfig) -> None:
        self._loss = build_loss(loss)

    def loss(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, H, W) of any float type, masks (B, H, W) uint8 in {0, 1} -> (B,) float32."""
        return self._loss(logits.float(), masks.float())
