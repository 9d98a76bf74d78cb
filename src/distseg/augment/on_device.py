"""The warps of ``warps.py`` in plain torch, on whatever device the batch lies: the same stages, the same points.

Differences are those of rounding.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from distseg.augment.canvas import GREY, Canvas
from distseg.augment.warps import Coordinates, ElasticStage, GridStage, Stage

Points = tuple[torch.Tensor, torch.Tensor]
"""x and y in pixels: (H, W), or (1, W) and (H, 1)."""


@torch.no_grad()
def warp_batch(
    images: torch.Tensor, masks: torch.Tensor, stages: Sequence[Sequence[Stage]], canvas: Canvas
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 3, H, W) uint8, bilinear, and masks (B, H, W) uint8, nearest, each sample after its own stages."""
    moving = [number for number, of_sample in enumerate(stages) if of_sample]
    if not moving:
        return images, masks
    size = images.shape[-2], images.shape[-1]
    grid = torch.stack([_sampling_grid(stages[number], size, images.device) for number in moving])  # (M, H, W, 2)
    index = torch.tensor(moving, device=images.device)
    blank = canvas.blank_label
    padding = "reflection" if blank is None else "zeros"
    grey = torch.tensor(GREY, device=images.device)[:, None, None] if blank is not None else 0.0

    pixels = F.grid_sample(images[index].float() - grey, grid, "bilinear", padding, align_corners=True) + grey
    labels = masks[index].float()[:, None] - (blank or 0)
    labels = F.grid_sample(labels, grid, "nearest", padding, align_corners=True)[:, 0] + (blank or 0)
    warped_images, warped_masks = images.clone(), masks.clone()
    warped_images[index] = pixels.round().clamp(0, 255).to(torch.uint8)
    warped_masks[index] = labels.round().to(torch.uint8)
    return warped_images, warped_masks


def _sampling_grid(stages: Sequence[Stage], size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Where each pixel is taken from after all stages: (H, W, 2) in [-1, 1] between the outermost pixels' centres."""
    height, width = size
    points = (
        torch.arange(width, dtype=torch.float32, device=device)[None],
        torch.arange(height, dtype=torch.float32, device=device)[:, None],
    )
    for stage in reversed(stages):
        points = _before(stage, points, size)
    x, y = (each.expand(size) for each in points)
    return torch.stack([2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], dim=-1)


def _before(stage: Stage, points: Points, size: tuple[int, int]) -> Points:
    x, y = points
    height, width = size
    if isinstance(stage, GridStage):
        return _along(x, stage.columns, width), _along(y, stage.rows, height)
    if isinstance(stage, ElasticStage):
        knots = torch.from_numpy(np.moveaxis(stage.knots, -1, 0).copy()).to(x.device)[None]  # (1, 2, rows, columns)
        at = torch.stack([(2 * x + 1).expand(size) / width - 1, (2 * y + 1).expand(size) / height - 1], dim=-1)
        moved = F.grid_sample(knots, at[None], "bicubic", "border", align_corners=False)[0]
        return x + moved[0], y + moved[1]
    after: Points = stage.before(x, y, size)  # type: ignore[arg-type, assignment]
    return after


def _along(at: torch.Tensor, lines: Coordinates, length: int) -> torch.Tensor:
    """As in ``warps.py``."""
    cells = len(lines) - 1
    parts = (at + 0.5) / length
    inside = parts.clamp(0, 1)
    cell = (inside * cells).floor().clamp(max=cells - 1).long()
    before = torch.from_numpy(lines).to(at.device)
    moved = before[cell] + (inside * cells - cell) * (before[cell + 1] - before[cell])
    return (moved + parts - inside) * length - 0.5
