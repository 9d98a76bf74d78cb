"""Metrics from counts: a confusion matrix per image, summed per group, divided once at the end.

Two averages of Dice are two names: ``dice_mean_per_image`` (Kaggle's) and the per-data-set figures. An image whose
truth and prediction are both empty has Dice and IoU 1, as Kaggle's Carvana rule says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Sums = npt.NDArray[np.float64]
"""(classes * classes + 3,): confusion matrix row-major (truth, prediction), then images, sum of Dice, sum of IoU."""


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


def image_sums(counts: torch.Tensor) -> Sums:
    """Confusion matrices (B, C, C) of single images -> (B, C * C + 3) rows to be added up.

    Dice and IoU of an image are those of class 1 for two classes, else the mean over the classes that occur in truth or
    prediction; 1 when there are none (nothing but ignored pixels).
    """
    matrices = counts.cpu().numpy().astype(np.float64)
    images, classes, _ = matrices.shape
    dice, iou = _dice_and_iou(matrices)
    if classes == 2:
        dice, iou = dice[:, 1:], iou[:, 1:]
    ones = np.ones(images)
    return np.column_stack([matrices.reshape(images, -1), ones, _mean_or_one(dice), _mean_or_one(iou)])


def metrics_of(sums: Sums, classes: Sequence[str]) -> dict[str, Any]:
    """Metrics of a whole set from its summed row; ``nan`` where nothing was counted.

    ``per_class`` leaves undefined (None) a class that occurs neither in the truth nor in the predictions.
    """
    size = len(classes)
    matrix = sums[: size * size].reshape(1, size, size)
    images, dice_sum, iou_sum = (float(value) for value in sums[size * size :])
    dice, iou = (rates[0] for rates in _dice_and_iou(matrix))
    pixels = matrix.sum()
    metrics: dict[str, Any] = {
        "dice_mean_per_image": dice_sum / images if images else float("nan"),
        "iou_mean_per_image": iou_sum / images if images else float("nan"),
        "pixel_accuracy": float(np.trace(matrix[0]) / pixels) if pixels else float("nan"),
        "per_class": [
            {"class": name, "dice": _or_none(dice[index]), "iou": _or_none(iou[index])}
            for index, name in enumerate(classes)
        ],
    }
    if size == 2:
        empty = 1.0 if images else float("nan")
        metrics["iou_dataset"] = empty if np.isnan(iou[1]) else float(iou[1])
        metrics["dice_dataset"] = empty if np.isnan(dice[1]) else float(dice[1])
    else:
        metrics["miou"] = float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")
    return metrics


def group_values(sums: Mapping[str, Sums], classes: int) -> dict[str, dict[str, Any]]:
    """Summed rows per group in the form that ``groups.json`` keeps."""
    return {
        group: {
            "confusion": row[: classes * classes].astype(np.int64).reshape(classes, classes).tolist(),
            "images": int(row[classes * classes]),
            "dice_sum": float(row[classes * classes + 1]),
            "iou_sum": float(row[classes * classes + 2]),
        }
        for group, row in sums.items()
    }


def _dice_and_iou(matrices: Sums) -> tuple[Sums, Sums]:
    """(B, C, C) counts -> Dice (B, C) and IoU (B, C); NaN for a class in neither truth nor prediction."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    truth, predicted = matrices.sum(axis=2), matrices.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return 2 * hits / (truth + predicted), hits / (truth + predicted - hits)


def _mean_or_one(rates: Sums) -> Sums:
    """(B, C) rates -> (B,) means over the defined ones; 1 where there are none."""
    defined = ~np.isnan(rates)
    number = defined.sum(axis=1)
    return np.where(number, np.where(defined, rates, 0.0).sum(axis=1) / np.maximum(number, 1), 1.0)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
