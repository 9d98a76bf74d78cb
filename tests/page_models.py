"""Files such as ``distseg export`` writes, whose answers can be told from an image's colours by hand."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from distseg.export.torchscript import save
from distseg.records import ExportManifest

CLASSES = {
    "binary": ("background", "rose"),
    "multiclass": ("red", "green", "blue"),
    "instance": ("leaf", "coin"),
}


class Redness(nn.Module):
    """Task binary: how red a pixel is, is how probable."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.probabilities(images)[:, 0] > 0.5).to(torch.uint8)

    @torch.jit.export
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1].float() / 255


class Colour(nn.Module):
    """Task multiclass: a colour's part of the pixel is its class's probability."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.probabilities(images).argmax(1).to(torch.uint8)

    @torch.jit.export
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        values = images.float()
        return values / values.sum(1, keepdim=True).clamp(min=1)


class Halves(nn.Module):
    """Task instance: a leaf (0.9) is the left half of every image, a coin (0.4) its upper quarter."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return self.detect(list(images.unbind(0)))

    @torch.jit.export
    def detect(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = []
        for image in images:
            height, width = image.shape[-2], image.shape[-1]
            masks = torch.zeros([2, height, width], dtype=torch.uint8)
            masks[0, :, : width // 2] = 1
            masks[1, : height // 4] = 1
            left, upper = [0.0, 0.0, float(width // 2), float(height)], [0.0, 0.0, float(width), float(height // 4)]
            found.append(
                {
                    "boxes": torch.tensor([left, upper]),
                    "labels": torch.tensor([0, 1]),
                    "scores": torch.tensor([0.9, 0.4]),
                    "masks": masks,
                }
            )
        return found


MODULES: dict[str, type[nn.Module]] = {"binary": Redness, "multiclass": Colour, "instance": Halves}


def write_model(path: Path, task: str) -> Path:
    """The file of this task's model, and its digest beside it."""
    manifest = ExportManifest.bare(CLASSES[task]).model_copy(update={"task": task})
    save(torch.jit.script(MODULES[task]().eval()), manifest, path)
    return path


def two_colours(width: int = 40, height: int = 20) -> np.ndarray:
    """(H, W, 3) uint8 RGB: a rather red left half (probability 0.8 of 1), a green right one with a little red (0.3)."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = (204, 51, 0)
    image[:, width // 2 :] = (77, 178, 0)
    return image
