"""Detections measured on stored samples: COCO's AP of boxes and masks, and the losses one by one.

Every image is matched where it was predicted; what that leaves goes to all ranks, which put it in one order, that of
the keys. So a score does not depend on how many ranks there were.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco

from distseg.augment.keyed_random import key_seed
from distseg.data.layouts.base import Instance
from distseg.data.manifest import BadSample, Manifest
from distseg.data.stream import InstanceBatch
from distseg.data.targets import single_masks, targets_of
from distseg.errors import DataError
from distseg.records import Score
from distseg.scores import resampled
from distseg.tasks.average_precision import (
    AREAS,
    KINDS,
    THRESHOLDS,
    Detections,
    ImageMatches,
    average_precision,
    match,
)
from distseg.tasks.instance_losses import LOSSES, torchvision_target

_INTERVAL = (2.5, 97.5)  # percentiles: 95 %
_INTERVALS_MAX = 2_000_000  # groups x detections: about a second

Gather = Callable[[Any], list[Any]]
"""Values of all ranks, on each of them."""


@dataclass(frozen=True)
class _Measured:
    """What one image leaves."""

    key: str
    group: str
    matches: ImageMatches
    losses: tuple[float, ...]


def measure_instances(
    predictor: Any, batches: Iterable[InstanceBatch], manifest: Manifest, device: torch.device, gather: Gather
) -> tuple[Score, list[BadSample]]:
    """Scores an `InstancePredictor`, or the exported file of one, on this rank's batches of a split.

    Returns the score over all ranks, the same on each, and the bad samples that this rank left out. DataError when none
    of all images holds a single object: AP is then undefined.
    """
    own: list[_Measured] = []
    bad: list[BadSample] = []
    for batch in batches:
        bad += batch.bad
        for key, group, image, instances in zip(batch.keys, batch.groups, batch.images, batch.instances, strict=True):
            image = image.to(device)
            size = image.shape[2], image.shape[1]
            matches = match(detections(predictor.detect([image])[0]), instances, size)
            own.append(_Measured(key, group, matches, image_losses(predictor, key, image, instances)))
    images = sorted((one for part in gather(own) for one in part), key=lambda one: one.key)
    metrics = _metrics([one.matches for one in images], manifest.classes)
    if metrics["mask_ap"] is None:
        raise DataError(
            f"none of {len(images)} images holds an object, so AP is undefined; choose another fold, or pack with a "
            "larger fraction to validate on"
        )
    losses = np.array([one.losses for one in images]).mean(axis=0).tolist()
    metrics |= {"val_loss": sum(losses)} | {f"val_{name}": value for name, value in zip(LOSSES, losses, strict=True)}
    score = Score(
        metrics=metrics,
        intervals=_intervals([one.matches for one in images], [one.group for one in images], len(manifest.classes)),
        groups={},  # AP follows from no sums: it ranks the detections of all groups together
        samples=len(images),
        resolution=manifest.size,
    )
    return score, bad


def metric_names() -> list[str]:
    """Metrics that may choose the best checkpoint."""
    ap = [f"{kind}_ap{ending}" for kind in KINDS for ending in ("", "50", "75", *list(AREAS)[1:])]
    return [*ap, "val_loss", *(f"val_{name}" for name in LOSSES)]


def detections(found: dict[str, torch.Tensor]) -> Detections:
    """What `InstancePredictor.detect` finds in an image, on the CPU and as run lengths."""
    masks = found["masks"].cpu().numpy()
    return Detections(
        labels=found["labels"].cpu().numpy(),
        scores=found["scores"].cpu().numpy().astype(np.float64),
        boxes=found["boxes"].cpu().numpy().astype(np.float64),
        masks=tuple(coco.encode(np.asfortranarray(mask)) for mask in masks),
    )


def image_losses(predictor: Any, key: str, image: torch.Tensor, instances: tuple[Instance, ...]) -> tuple[float, ...]:
    """``LOSSES`` of one image uint8 (3, H, W) by itself; which proposals are sampled follows from its key."""
    small = predictor.fit(image)
    size = small.shape[2], small.shape[1]
    masks, labels = single_masks(instances, (image.shape[2], image.shape[1]), size)
    target = torchvision_target(targets_of(masks, labels, size), image.device)
    torch.manual_seed(key_seed(0, 0, key))
    with _heads_learn(predictor.network):
        losses = predictor.losses([small], [target])
    return tuple(float(losses[name]) for name in LOSSES)


@contextmanager
def _heads_learn(network: Any) -> Iterator[None]:
    """The detector computes losses; its layers, BatchNorm among them, stay as they are."""
    parts = (network, network.rpn, network.roi_heads)
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part in parts:
            part.training = False


def _metrics(images: list[ImageMatches], classes: tuple[str, ...]) -> dict[str, Any]:
    """COCO's figures by name, in [0, 1]; None where there is no such object."""
    metrics: dict[str, Any] = {}
    per_class: list[dict[str, Any]] = [{"class": name} for name in classes]
    together = np.zeros(len(images), np.int64)
    for kind, (precision,) in average_precision(images, len(classes), together, np.ones((1, 1))).items():
        # (A, T, classes)
        by_name = {f"{kind}_ap": precision[0], f"{kind}_ap50": precision[0, :1]}
        by_name[f"{kind}_ap75"] = precision[0, np.isclose(THRESHOLDS, 0.75)]
        by_name |= {f"{kind}_ap{ending}": precision[number] for number, ending in enumerate(AREAS) if ending}
        for name, values in by_name.items():
            metrics[name] = _mean_or_none(values)
            for row, of_class in zip(per_class, values.T, strict=True):
                row[name] = _mean_or_none(of_class)
    return metrics | {"per_class": per_class}


def _intervals(images: list[ImageMatches], groups: list[str], classes: int) -> dict[str, tuple[float, float]]:
    """95 % percentile bootstrap intervals over groups of AP and AP50, as those of the other tasks (``scores.py``).

    Whole groups are drawn with replacement. Empty with fewer than two groups, and where it would take long.
    """
    names = {group: number for number, group in enumerate(sorted(set(groups)))}
    detections = sum(len(one.scores) for image in images for one in image.values())
    if len(names) < 2 or len(names) * detections > _INTERVALS_MAX:
        return {}
    numbers = np.array([names[group] for group in groups])
    drawn = average_precision(images, classes, numbers, resampled(len(names)), areas=1)
    found = {}
    for kind, precision in drawn.items():  # (R, 1, T, classes)
        for name, values in ((f"{kind}_ap", precision), (f"{kind}_ap50", precision[:, :, :1])):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any object
                means = np.nanmean(values, axis=(1, 2, 3))
            low, high = np.nanpercentile(means, _INTERVAL)
            found[name] = float(low), float(high)
    return found


def _mean_or_none(values: npt.NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
