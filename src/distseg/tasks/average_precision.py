"""COCO's average precision of boxes and of masks, in the two steps that ranks need.

Each image is matched by itself, wherever it was predicted; what that leaves is small, travels, and is put in one order
for all images at the end. The numbers are pycocotools' own (its run lengths and its IoU, its rules, its 101 recalls; a
test compares them), but matching goes over all areas and thresholds at once, and nothing is printed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from distseg.data.layouts.base import Instance

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Kind = Literal["mask", "box"]
KINDS: tuple[Kind, ...] = ("mask", "box")

AREAS = {"": (0.0, 1e10), "_small": (0.0, 32.0**2), "_medium": (32.0**2, 96.0**2), "_large": (96.0**2, 1e10)}
"""Pixels of an object, both ends included, by the ending of the metric's name."""
THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
_RECALLS: Floats = np.linspace(0.0, 1.0, 101)
_DETECTIONS_MAX = 100  # of one class in one image
_WHOLE = 1 - 1e-10  # an IoU of 1 may come out a rounding below


@dataclass(frozen=True)
class Detections:
    """What a model found in one image."""

    labels: npt.NDArray[np.int64]
    """(N,) class indices."""
    scores: Floats
    """(N,) in [0, 1]."""
    boxes: Floats
    """(N, 4): left, top, right, bottom in pixels of the image."""
    masks: tuple[Mapping[str, Any], ...]
    """(N,) run lengths as pycocotools encodes them."""


@dataclass(frozen=True)
class Matches:
    """How the detections of one class in one image met the truth, for each of A areas and T thresholds."""

    scores: Floats
    """(D,) falling."""
    hits: Bools
    """(A, T, D): stands on an object that counts."""
    ignored: Bools
    """(A, T, D): neither right nor wrong: on a crowd, or on or of an area that does not count."""
    objects: npt.NDArray[np.int64]
    """(A,) objects that count."""


ImageMatches = Mapping[tuple[Kind, int], Matches]
"""Of one image, by kind and class index; classes that neither truth nor detections hold are left out."""


def match(found: Detections, truth: Sequence[Instance], size: tuple[int, int]) -> ImageMatches:
    """Meets detections with the objects of an image of ``size`` = (width, height)."""
    matches: dict[tuple[Kind, int], Matches] = {}
    truth_labels = np.array([one.label for one in truth], np.int64)
    crowd = np.array([one.crowd for one in truth], np.uint8)
    runs = [{"size": [size[1], size[0]], "counts": one.counts.encode()} for one in truth]
    pixels = coco.area(runs).astype(np.float64) if runs else np.zeros(0)
    truth_boxes = coco.toBbox(runs) if runs else np.zeros((0, 4))
    corners = found.boxes
    boxes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])  # x, y, width, height
    found_pixels = coco.area(list(found.masks)).astype(np.float64) if found.masks else np.zeros(0)
    for label in sorted({*truth_labels.tolist(), *found.labels.tolist()}):
        there = np.flatnonzero(truth_labels == label)
        mine = np.flatnonzero(found.labels == label)
        mine = mine[np.argsort(-found.scores[mine], kind="stable")][:_DETECTIONS_MAX]
        shapes: dict[Kind, tuple[Any, Any, Floats]] = {
            "mask": ([found.masks[k] for k in mine], [runs[k] for k in there], found_pixels[mine]),
            "box": (boxes[mine], truth_boxes[there], boxes[mine, 2] * boxes[mine, 3]),
        }
        for kind, (own, wanted, areas) in shapes.items():
            both = mine.size and there.size
            overlap = coco.iou(own, wanted, crowd[there]) if both else np.zeros((mine.size, there.size))
            matches[kind, label] = _meet(found.scores[mine], overlap, areas, pixels[there], crowd[there] > 0)
    return matches


def _meet(scores: Floats, overlap: Floats, areas: Floats, truth_areas: Floats, crowd: Bools) -> Matches:
    """Detections (D,) in falling order and objects (G,), their IoU (D, G) and areas -> matches.

    Each detection takes the free object of the largest IoU, the last of equals; one that counts before one that does
    not. A crowd is never taken up.
    """
    low, high = np.array(list(AREAS.values())).T[..., None]  # (A, 1) each
    apart = crowd | (truth_areas < low) | (truth_areas > high)  # (A, G)
    hits = np.zeros((len(AREAS), len(THRESHOLDS), len(scores)), np.bool_)
    taken_up = np.zeros((len(AREAS), len(THRESHOLDS), len(crowd)), np.bool_)
    # Who meets nothing is wrong, unless its own area does not count.
    ignored = np.repeat(((areas < low) | (areas > high))[:, None], len(THRESHOLDS), axis=1)
    thresholds = np.minimum(THRESHOLDS, _WHOLE)
    for number, row in enumerate(overlap):
        if not row.size or row.max() < thresholds[0]:
            continue
        within = (row >= thresholds[:, None]) & (~taken_up | crowd)  # (A, T, G)
        counting = within & ~apart[:, None]
        counts = counting.any(-1)
        candidates = np.where(counts[..., None], counting, within)
        chosen = len(row) - 1 - np.where(candidates, row, -1.0)[..., ::-1].argmax(-1)  # (A, T)
        area, threshold = np.nonzero(candidates.any(-1))
        taken_up[area, threshold, chosen[area, threshold]] = True
        hits[:, :, number] = counts
        ignored[area, threshold, number] = ~counts[area, threshold]
    return Matches(scores, hits, ignored, (~apart).sum(-1))


def average_precision(
    images: Sequence[ImageMatches], classes: int, groups: npt.NDArray[np.int64], draws: Floats, areas: int = len(AREAS)
) -> dict[Kind, Floats]:
    """Matches of all images -> AP (R, A, T, classes) of boxes and of masks, for each of R draws.

    NaN for a class without an object. ``groups`` (images,) are numbers from 0, and ``draws`` (R, groups) says how often
    each group counts: one draw of ones is the plain AP. Equal scores stand in the order of the images. ``areas``: only
    the first so many.
    """
    found: dict[Kind, Floats] = {}
    for kind in KINDS:
        precision = np.full((len(draws), areas, len(THRESHOLDS), classes), np.nan)
        for label in range(classes):
            there = [number for number, image in enumerate(images) if (kind, label) in image]
            if there:
                mine = [images[number][kind, label] for number in there]
                precision[..., label] = _of_class(mine, groups[there], draws, areas)
        found[kind] = precision
    return found


def _of_class(images: Sequence[Matches], groups: npt.NDArray[np.int64], draws: Floats, areas: int) -> Floats:
    """AP (R, A, T): the mean over 101 recalls of the best precision at that recall or a higher one.

    Recall only rises, and precision is only best, where there is a hit: all else is counted up to the next hit.
    """
    order = np.argsort(-np.concatenate([one.scores for one in images]), kind="stable")
    hits = np.concatenate([one.hits for one in images], axis=-1)[..., order]
    counted = ~np.concatenate([one.ignored for one in images], axis=-1)[..., order]
    group = np.repeat(groups, [len(one.scores) for one in images])[order]  # (D,)
    objects = np.zeros((draws.shape[1], len(AREAS)))
    np.add.at(objects, groups, [one.objects for one in images])
    drawn_objects = draws @ objects  # (R, A)
    found = np.full((len(draws), areas, len(THRESHOLDS)), np.nan)
    for area in range(areas):
        there = drawn_objects[:, area] > 0
        found[there, area] = 0.0
        for threshold in range(len(THRESHOLDS)):
            counts = counted[area, threshold]
            hit = np.flatnonzero(hits[area, threshold] & counts)
            if not hit.size:
                continue
            seen = np.flatnonzero(counts[: hit[-1] + 1])
            all_of, right_of = np.zeros((2, draws.shape[1], hit.size))  # (G, H): detections since the hit before
            np.add.at(all_of, (group[seen], np.searchsorted(hit, seen)), 1)
            right_of[group[hit], np.arange(hit.size)] = 1
            everything, right = ((draws[there] @ part).cumsum(-1) for part in (all_of, right_of))  # (R, H)
            precision = right / (everything + np.spacing(1))
            best = np.maximum.accumulate(precision[:, ::-1], axis=-1)[:, ::-1]
            passed = np.searchsorted(_RECALLS, right / drawn_objects[there, area, None], side="right")
            found[there, area, threshold] = (np.diff(passed, prepend=0) * best).sum(-1) / len(_RECALLS)
    return found
