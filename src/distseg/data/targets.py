"""What a detector learns from: boxes, labels and masks of an image's objects, as arrays of its own pixels.

Boxes are derived from masks, so whatever moves the masks moves the boxes; an object of which nothing is left is gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from distseg.data.codec import Pixels, resize_labels
from distseg.data.instances import instance_mask
from distseg.data.layouts.base import Instance


@dataclass(frozen=True)
class Targets:
    """The objects of one image that can be learnt."""

    boxes: torch.Tensor
    """(N, 4) float32: left, top, right, bottom in pixels; right and bottom lie beyond the last pixel."""
    labels: torch.Tensor
    """(N,) int64 class indices."""
    masks: torch.Tensor
    """(N, H, W) uint8, 0 or 1, none of them empty."""

    def pin_memory(self) -> "Targets":
        return replace(
            self, boxes=self.boxes.pin_memory(), labels=self.labels.pin_memory(), masks=self.masks.pin_memory()
        )


def single_masks(
    instances: Sequence[Instance], stored: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[Pixels, ...], tuple[int, ...]]:
    """Masks (H, W) uint8 and labels of single objects of an image of ``stored`` (width, height), seen at ``size``.

    Crowds are left out: nobody says where one object of them ends.
    """
    single = [one for one in instances if not one.crowd]
    masks = tuple(resize_labels(instance_mask(one, stored), size) for one in single)
    return masks, tuple(one.label for one in single)


def targets_of(masks: Sequence[Pixels], labels: Sequence[int], size: tuple[int, int]) -> Targets:
    """Masks (H, W) of an image of ``size`` = (width, height) and their labels -> targets, without the empty ones."""
    kept: list[tuple[tuple[int, int, int, int], int, Pixels]] = []
    for mask, label in zip(masks, labels, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            kept.append((box, label, mask))
    stacked = np.stack([mask for *_, mask in kept]) if kept else np.zeros((0, size[1], size[0]), np.uint8)
    return Targets(
        boxes=torch.tensor([box for box, *_ in kept], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([label for _, label, _ in kept], dtype=torch.int64),
        masks=torch.from_numpy(stacked),
    )
