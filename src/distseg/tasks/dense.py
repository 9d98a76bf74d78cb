"""The dense tasks: a label for every pixel. Binary has one logit (object or background), multi-class one a class."""

import torch

from distseg.config import LossConfig, RunConfig
from distseg.data.manifest import Manifest
from distseg.losses import build_loss, median_frequency_weights


class DenseTask:
    """Channels and loss; decoding stands in ``tasks/predictor.py``, metrics in ``metrics.py``."""

    def __init__(self, cfg: RunConfig, manifest: Manifest) -> None:
        """The data are of the config's task (``check_task``)."""
        classes = len(manifest.classes)
        self.channels_out = channels_out(cfg.task, classes)
        weights = None
        if cfg.loss.class_weights == "median_frequency":
            pixels = torch.tensor([manifest.class_pixels[name] for name in manifest.classes])
            weights = median_frequency_weights(pixels)
        self._loss = build_loss(cfg.loss, manifest.ignore_label, weights)
        self._soft_dice_error = (
            build_loss(LossConfig(name="dice"), manifest.ignore_label)
            if cfg.augment.adaptive.error == "soft_dice"
            else None
        )

    def loss(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H, W) of any float type, masks (B, H, W) uint8 -> (B,) float32."""
        return self._loss(logits.float(), masks)

    def errors(self, logits: torch.Tensor, masks: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """What the augmentation level follows, of each image (B,) float32: its loss, or 1 - its soft Dice."""
        return losses if self._soft_dice_error is None else self._soft_dice_error(logits.float(), masks)


def channels_out(task: str, classes: int) -> int:
    """Logits per pixel."""
    return 1 if task == "binary" else classes
