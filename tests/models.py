"""Exported files that need no training: what is bright is the object, or the brightest channel is the class."""

from pathlib import Path

import torch
import torch.nn.functional as F

from distseg.export.torchscript import save
from distseg.records import ExportManifest


class RedIsObject(torch.nn.Module):
    """Binary: the object is where red is above ``threshold``."""

    def __init__(self, threshold: float = 127.5) -> None:
        super().__init__()
        self.threshold = threshold

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, :1].float() - self.threshold) / 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.logits(images)[:, 0] > 0).to(torch.uint8)

    @torch.jit.export
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits(images).sigmoid()


class ColourIsClass(torch.nn.Module):
    """Three classes: the brightest of red, green and blue."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().argmax(dim=1).to(torch.uint8)

    @torch.jit.export
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 16).softmax(dim=1)


class Blurred(torch.nn.Module):
    """Binary: red, seen through convolutions that reach ``reach`` pixels to each side."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("kernel", torch.randn(1, 3, 2 * reach + 1, 2 * reach + 1, generator=generator) / 40)
        self.reach = reach

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images.float() / 255 - 0.5, self.kernel, padding=self.reach)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.logits(images)[:, 0] > 0).to(torch.uint8)

    @torch.jit.export
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits(images).sigmoid()


def exported(module: torch.nn.Module, path: Path, classes: tuple[str, ...] = ("background", "car")) -> Path:
    """The module as 'distseg export' would have written it."""
    save(torch.jit.script(module), ExportManifest.bare(classes), path)
    return path
