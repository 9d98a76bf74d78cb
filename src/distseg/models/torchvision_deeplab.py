"""torchvision's DeepLabV3 as a plain network: logits out, not a dictionary."""

from typing import Any

import torch
from torch import nn
from torchvision.models import segmentation

_MOMENTUM = 0.1  # torch's default: statistics follow the weights within some tens of steps


class TorchvisionDeepLab(nn.Module):
    """(B, 3, H, W) float32 -> logits (B, ``channels_out``, H, W), any H and W from 32 up."""

    def __init__(self, name: str, channels_out: int, *, weights_backbone: Any) -> None:
        """``weights_backbone``: None, or "DEFAULT" for ImageNet (downloads)."""
        super().__init__()
        create = getattr(segmentation, name.removeprefix("tv_"))
        self.model = create(weights=None, weights_backbone=weights_backbone, num_classes=channels_out)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                # MobileNet's 0.01 is made for 100,000s of steps: over 600, the statistics of validation stayed so far
                # behind the weights that pixel accuracy was 0.62 where that of the batches' own statistics was 0.91
                module.momentum = _MOMENTUM

    @property
    def encoder(self) -> nn.Module:
        """The backbone: what ``model.weights=PATH`` fills."""
        backbone: nn.Module = self.model.backbone
        return backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)["out"]
        return logits
