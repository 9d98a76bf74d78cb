"""From summed counts to metrics, and how far a metric can be trusted: numpy alone, for every room.

Counts are added up first and divided once. Two averages of Dice are two names: ``dice_mean_per_image`` (Kaggle's) and
``dice_dataset``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.float64]
"""(..., width(classes)): the confusion matrix row-major (truth, prediction), then the number of images, the sums of
their Dice and of their IoU, then per class the pixels in both boundary bands and those in either."""

PERCENTILES = (2.5, 97.5)
"""Ends of every interval here: 95 %."""
_RESAMPLES = 1000


def width(classes: int) -> int:
    """Numbers in a row of sums."""
    return classes * classes + 3 + 2 * classes


def values(sums: Sums, classes: int) -> dict[str, Sums]:
    """Rows of sums (..., width) -> every headline metric by name, each (...); NaN where nothing was counted.

    With two classes: those of class 1 (empty against empty is 1, any other 0 / 0 is 0). With more: ``miou``, the mean
    IoU of the classes that occur in truth or prediction. ``boundary_iou``: Cheng et al. 2021, summed over the set like
    IoU.
    """
    matrix, images, dice_sum, iou_sum, both, either = _parts(np.asarray(sums, np.float64), classes)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: dict[str, Sums] = {
            "dice_mean_per_image": dice_sum / images,
            "iou_mean_per_image": iou_sum / images,
            "pixel_accuracy": _diagonal(matrix).sum(-1) / matrix.sum((-1, -2)),
        }
        dice, iou = dice_and_iou(matrix)
        boundary = both / either
        if classes > 2:
            return found | {"miou": _mean_defined(iou), "boundary_iou": _mean_defined(boundary)}
        hits, truth, predicted = matrix[..., 1, 1], matrix[..., 1, :].sum(-1), matrix[..., :, 1].sum(-1)
        one_class = {
            "iou_dataset": iou[..., 1],
            "dice_dataset": dice[..., 1],
            "precision": hits / predicted,
            "recall": hits / truth,
            "boundary_iou": boundary[..., 1],
        }
    # 0 / 0 is right when truth and prediction are both empty; else, precision of nothing predicted, it is no merit
    undefined = np.where(images > 0, np.where(truth + predicted == 0, 1.0, 0.0), np.nan)
    return found | {name: np.where(np.isnan(rate), undefined, rate) for name, rate in one_class.items()}


def metrics_of(sums: Sums, classes: Sequence[str]) -> dict[str, Any]:
    """One row of sums (width,) -> all metrics, and ``per_class`` Dice, IoU and Boundary IoU.

    A class that occurs neither in the truth nor in the predictions is undefined (None), not zero.
    """
    matrix, *_, both, either = _parts(np.asarray(sums, np.float64), len(classes))
    dice, iou = dice_and_iou(matrix)
    with np.errstate(invalid="ignore"):
        boundary = both / either
    per_class = [
        {"class": name, "dice": _or_none(dice[k]), "iou": _or_none(iou[k]), "boundary_iou": _or_none(boundary[k])}
        for k, name in enumerate(classes)
    ]
    return {name: float(value) for name, value in values(sums, len(classes)).items()} | {"per_class": per_class}


def group_values(sums: Mapping[str, Sums], classes: int) -> dict[str, dict[str, Any]]:
    """Summed rows per group in the form that ``groups.json`` keeps."""
    found = {}
    for group, row in sums.items():
        matrix, images, dice_sum, iou_sum, both, either = _parts(row, classes)
        found[group] = {
            "confusion": matrix.astype(np.int64).tolist(),
            "images": int(images),
            "dice_sum": float(dice_sum),
            "iou_sum": float(iou_sum),
            "boundary_both": both.astype(np.int64).tolist(),
            "boundary_either": either.astype(np.int64).tolist(),
        }
    return found


def group_sums(groups: Mapping[str, Mapping[str, Any]]) -> Sums:
    """``groups.json`` -> rows (groups, width), in the order of the groups' names."""
    return np.array(
        [
            [
                *np.ravel(group["confusion"]),
                group["images"],
                group["dice_sum"],
                group["iou_sum"],
                *group["boundary_both"],
                *group["boundary_either"],
            ]
            for _, group in sorted(groups.items())
        ],
        dtype=np.float64,
    )


def intervals(groups: Sums, classes: int) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals over groups of all headline metrics: rows (groups, width) -> (low, high).

    Whole groups are drawn with replacement, for the images of one car or sequence are no independent evidence. The
    draws have a fixed seed. Empty with fewer than two groups; a metric that is undefined in every draw is left out.
    """
    if len(groups) < 2:
        return {}
    found = {}
    for metric, draws in values(resampled(len(groups)) @ groups, classes).items():
        interval = percentile_interval(draws)
        if interval is not None:
            found[metric] = interval
    return found


def percentile_interval(draws: Sums) -> tuple[float, float] | None:
    """The 95 % in the middle of the draws (n,) that are defined; None when none is."""
    if np.isnan(draws).all():
        return None
    low, high = np.nanpercentile(draws, PERCENTILES)
    return float(low), float(high)


def resampled(groups: int) -> Sums:
    """(resamples, groups) how often each group was drawn in each resample; the same for the same number of groups."""
    generator = np.random.Generator(np.random.PCG64(0))
    return generator.multinomial(groups, np.full(groups, 1 / groups), size=_RESAMPLES).astype(np.float64)


def dice_and_iou(matrices: Sums) -> tuple[Sums, Sums]:
    """(..., C, C) counts -> Dice (..., C) and IoU (..., C); NaN for a class in neither truth nor prediction."""
    hits = _diagonal(matrices)
    truth, predicted = matrices.sum(-1), matrices.sum(-2)
    with np.errstate(invalid="ignore"):
        return 2 * hits / (truth + predicted), hits / (truth + predicted - hits)


def _parts(sums: Sums, classes: int) -> tuple[Sums, Sums, Sums, Sums, Sums, Sums]:
    """Confusion (..., C, C), images, Dice sum, IoU sum (...), boundary pixels in both and in either (..., C)."""
    cells = classes * classes
    matrix = sums[..., :cells].reshape(*sums.shape[:-1], classes, classes)
    both, either = sums[..., cells + 3 : cells + 3 + classes], sums[..., cells + 3 + classes :]
    return matrix, sums[..., cells], sums[..., cells + 1], sums[..., cells + 2], both, either


def _diagonal(matrices: Sums) -> Sums:
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def _mean_defined(rates: Sums) -> Sums:
    """(..., C) -> (...) mean over the defined ones; NaN where there are none."""
    defined = ~np.isnan(rates)
    with np.errstate(invalid="ignore"):
        mean: Sums = np.where(defined, rates, 0.0).sum(-1) / defined.sum(-1)
    return mean


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
