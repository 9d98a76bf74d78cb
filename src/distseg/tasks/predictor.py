"""Everything around the network, from uint8 images to labels at their own size.

Validation during training and the exported file run this very class, so what is measured is what is shipped. It holds
nothing that TorchScript cannot compile.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class Predictor(nn.Module):
    """Resize, normalise and pad; the network; crop, resize back and decide."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        input_size: tuple[int, int] | None,
        divisor: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """``input_size``: (width, height) that the network sees; None leaves images at their own size."""
        super().__init__()
        self.network = network
        self.width, self.height = input_size or (0, 0)
        self.divisor = divisor
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def network_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, h, w), 0..255 -> float32 logits (B, C, h, w), at the size of the images."""
        height, width = images.shape[-2], images.shape[-1]
        x = (images.float() - self.mean) / self.std
        x = F.pad(x, [0, -width % self.divisor, 0, -height % self.divisor])
        logits: torch.Tensor = self.network(x)
        return logits[:, :, :height, :width].float()

    def resized(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> uint8 (B, 3, h, w) at the input size.

        Antialiased, as packing shrinks (area): a plain bilinear resize would skip pixels. A CPU does it in integers
        (1.5 ms for 1918x1280, laid out channels-last, against 11 to 30 in floats); a GPU, whose kernel knows only
        floats, differs from it by one grey level at most.
        """
        if images.is_cuda:
            return self.resized_in_floats(images).round().clamp(0, 255).to(torch.uint8)
        size = [self.height, self.width]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    def resized_in_floats(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, h, w), 0..255, at the input size: ``resized`` before it rounds."""
        size = [self.height, self.width]
        return F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=True)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 logits (B, C, H, W): seen at the input size, resized back bilinearly."""
        height, width = images.shape[-2], images.shape[-1]
        if self.height == 0 or (height == self.height and width == self.width):
            return self.network_logits(images)
        return self.enlarged_logits(self.resized(images), height, width)

    def enlarged_logits(self, resized: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Images (B, 3, h, w), 0..255, at the input size -> float32 logits (B, C, height, width), bilinearly."""
        return F.interpolate(self.network_logits(resized), size=[height, width], mode="bilinear", align_corners=False)

    def labels_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H, W) -> labels uint8 (B, H, W): 0/1 for one channel, else the class index."""
        if logits.shape[1] == 1:
            return (logits[:, 0] > 0).to(torch.uint8)
        return logits.argmax(dim=1).to(torch.uint8)

    def probabilities_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H, W) -> [0, 1]: sigmoid for one channel, else softmax over channels."""
        return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) RGB -> labels uint8 (B, H, W)."""
        return self.labels_of(self.logits(images))

    @torch.jit.export
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, 3, H, W) RGB -> float32 (B, C, H, W)."""
        return self.probabilities_of(self.logits(images))
