"""Counting pixels: a confusion matrix per image and its boundary bands, as rows that are added up (see scores.py).

An image whose truth and prediction are both empty has Dice and IoU 1, as Kaggle's Carvana rule says.
"""

import math

import numpy as np
import torch

from distseg.scores import Sums, dice_and_iou

BOUNDARY_FRACTION = 0.02
"""Width of a boundary band as a part of the image's diagonal (Cheng et al. 2021, Boundary IoU)."""


def image_sums(predictions: torch.Tensor, targets: torch.Tensor, classes: int, ignore_label: int | None) -> Sums:
    """Label maps (B, H, W) uint8 of predictions and truth -> rows (B, width(classes)) to be added up.

    Dice and IoU of an image are those of class 1 for two classes, else the mean over the classes that occur in truth or
    prediction; 1 when there are none (nothing but ignored pixels).
    """
    matrices = confusion(predictions, targets, classes, ignore_label).cpu().numpy().astype(np.float64)
    both, either = (
        part.cpu().numpy().astype(np.float64) for part in boundary(predictions, targets, classes, ignore_label)
    )
    dice, iou = dice_and_iou(matrices)
    if classes == 2:
        dice, iou = dice[:, 1:], iou[:, 1:]
    images = len(matrices)
    ones = np.ones(images)
    return np.column_stack([matrices.reshape(images, -1), ones, _mean_or_one(dice), _mean_or_one(iou), both, either])


def confusion(predictions: torch.Tensor, targets: torch.Tensor, classes: int, ignore_label: int | None) -> torch.Tensor:
    """Label maps (B, H, W) uint8 -> (B, classes, classes) int64 pixel counts [image, truth, prediction].

    Pixels whose truth is ``ignore_label`` are left out.
    """
    images = targets.shape[0]
    offsets = torch.arange(images, device=targets.device).view(-1, 1, 1) * classes * classes
    cells = offsets + targets.long() * classes + predictions.long()
    if ignore_label is not None:
        cells = cells[targets != ignore_label]
    counts = torch.bincount(cells.flatten(), minlength=images * classes * classes)
    return counts.view(images, classes, classes)


def boundary(
    predictions: torch.Tensor, targets: torch.Tensor, classes: int, ignore_label: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels in the bands of both and in those of either, per image and class: two (B, classes) int64.

    A class's band is what an erosion by 2 % of the image's diagonal takes away from its mask; a mask cut by the image's
    edge has a band there, too. With two classes only class 1 is counted.
    """
    height, width = targets.shape[-2:]
    reach = max(1, round(BOUNDARY_FRACTION * math.hypot(height, width)))
    counted = torch.ones_like(targets, dtype=torch.bool) if ignore_label is None else targets != ignore_label
    both = torch.zeros(len(targets), classes, dtype=torch.int64, device=targets.device)
    either = torch.zeros_like(both)
    for label in range(1 if classes == 2 else 0, classes):
        truth = band(targets == label, reach) & counted
        predicted = band(predictions == label, reach) & counted
        both[:, label] = (truth & predicted).sum((1, 2))
        either[:, label] = (truth | predicted).sum((1, 2))
    return both, either


def band(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Masks (B, H, W) bool -> the part of each within ``reach`` pixels of its outside, in rows and columns."""
    inside = _eroded_in_rows(masks, reach)
    inside = _eroded_in_rows(inside.transpose(1, 2).contiguous(), reach).transpose(1, 2)
    return masks & ~inside


def _eroded_in_rows(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Pixels whose row is set for ``reach`` pixels to either side; by running sums, so the reach costs nothing."""
    side = 2 * reach + 1
    sums = torch.nn.functional.pad(masks.to(torch.int32), [reach + 1, reach]).cumsum(2, dtype=torch.int32)
    return sums[:, :, side:] - sums[:, :, :-side] == side


def _mean_or_one(rates: Sums) -> Sums:
    """(B, C) rates -> (B,) means over the defined ones; 1 where there are none."""
    defined = ~np.isnan(rates)
    number = defined.sum(axis=1)
    return np.where(number, np.where(defined, rates, 0.0).sum(axis=1) / np.maximum(number, 1), 1.0)
