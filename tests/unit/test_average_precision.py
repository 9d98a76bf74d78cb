"""COCO's average precision: pycocotools' own numbers, on made-up detections of every awkward kind."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from distseg.data.layouts.base import Instance
from distseg.tasks.average_precision import AREAS, Detections, ImageMatches, Kind, average_precision, match

SIZE = (160, 128)  # width, height
CLASSES = 3


def plain(images: list[ImageMatches], classes: int) -> dict[Kind, np.ndarray]:
    """AP (A, T, classes) of all images, each once."""
    drawn = average_precision(images, classes, np.zeros(len(images), np.int64), np.ones((1, 1)))
    return {kind: precision[0] for kind, precision in drawn.items()}


def rectangle(rng: np.random.Generator, side_max: int) -> np.ndarray:
    width, height = rng.integers(2, side_max, 2)
    left, top = rng.integers(0, SIZE[0] - 4), rng.integers(0, SIZE[1] - 4)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def runs(mask: np.ndarray) -> dict[str, Any]:
    encoded: dict[str, Any] = coco.encode(np.asfortranarray(mask))
    return encoded


def scene(rng: np.random.Generator) -> tuple[list[Instance], Detections]:
    """Objects of all areas, some crowds, and detections near them, doubled, of another class, or of nothing."""
    truth, masks, labels = [], [], []
    for _ in range(rng.integers(0, 7)):
        mask = rectangle(rng, 140)
        label = int(rng.integers(0, CLASSES - 1))  # the last class has no object at all
        truth.append(Instance(label, runs(mask)["counts"].decode(), bool(rng.random() < 0.25)))
        for _ in range(rng.integers(0, 4)):
            masks.append(np.roll(mask, rng.integers(-6, 7, 2), (0, 1)))
            labels.append(label if rng.random() < 0.8 else int(rng.integers(0, CLASSES)))
    for _ in range(rng.integers(0, 4)):
        masks.append(rectangle(rng, 60))
        labels.append(int(rng.integers(0, CLASSES)))
    encoded = [runs(mask) for mask in masks]
    boxes = np.array([coco.toBbox(run) for run in encoded]).reshape(-1, 4) + rng.normal(0, 1, (len(masks), 4))
    corners = np.column_stack([boxes[:, :2], boxes[:, :2] + np.abs(boxes[:, 2:])])
    scores = rng.integers(1, 12, len(masks)) / 12  # many are equal
    return truth, Detections(np.array(labels, np.int64), scores, corners, tuple(encoded))


def cocos_own(scenes: list[tuple[list[Instance], Detections]], kind: str) -> np.ndarray:
    """AP (areas, thresholds, classes) as pycocotools has it, -1 where there is no object."""
    size = [SIZE[1], SIZE[0]]
    annotations, results = [], []
    for number, (truth, found) in enumerate(scenes, 1):
        for one in truth:
            run = {"size": size, "counts": one.counts}
            encoded = {"size": size, "counts": one.counts.encode()}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": one.label + 1,
                    "segmentation": run,
                    "area": float(coco.area(encoded)),
                    "bbox": coco.toBbox(encoded).tolist(),
                    "iscrowd": int(one.crowd),
                }
            )
        for label, score, box, run in zip(found.labels, found.scores, found.boxes, found.masks, strict=True):
            entry: dict[str, Any] = {"image_id": number, "category_id": int(label) + 1, "score": float(score)}
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append(entry | ({"segmentation": dict(run)} if kind == "mask" else {"bbox": bbox}))
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {
            "info": {},
            "images": [{"id": n, "width": SIZE[0], "height": SIZE[1]} for n in range(1, len(scenes) + 1)],
            "categories": [{"id": label + 1, "name": str(label)} for label in range(CLASSES)],
            "annotations": annotations,
        }
        dataset.createIndex()
        evaluation = COCOeval(dataset, dataset.loadRes(results), "segm" if kind == "mask" else "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # (T, recalls, K, A), at most 100 detections
    ap: np.ndarray = precision.mean(axis=1).transpose(2, 0, 1)
    return ap


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_are_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [scene(rng) for _ in range(25)]
    found = plain([match(detections, truth, SIZE) for truth, detections in scenes], CLASSES)
    for kind in ("mask", "box"):
        wanted = cocos_own(scenes, kind)
        np.testing.assert_allclose(np.nan_to_num(found[kind], nan=-1), wanted, atol=1e-12)
        assert (wanted > 0).sum() > 40  # the scenes put something to the test


def test_no_detection_is_no_precision_and_no_object_is_undefined() -> None:
    truth, _ = scene(np.random.default_rng(0))
    nothing = Detections(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)), ())
    single = [one for one in truth if not one.crowd]
    precision = plain([match(nothing, single, SIZE), match(nothing, [], SIZE)], CLASSES)["mask"]
    there = sorted({one.label for one in single})
    assert there
    for label in range(CLASSES):
        if label in there:
            assert (precision[0, :, label] == 0).all()
        else:
            assert np.isnan(precision[0, :, label]).all()


def test_a_crowd_takes_any_number_of_detections_and_counts_for_none() -> None:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[10:90, 10:90] = 1
    inside = np.zeros_like(mask)
    inside[20:60, 20:60] = 1
    crowd = Instance(0, runs(mask)["counts"].decode(), True)
    object_ = Instance(0, runs(np.roll(inside, 70, 1))["counts"].decode(), False)
    masks = [inside, inside, np.roll(inside, 70, 1)]  # two in the crowd, one right
    boxes = np.array([coco.toBbox(runs(one)) for one in masks])
    corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    found = Detections(np.zeros(3, np.int64), np.array([0.9, 0.8, 0.7]), corners, tuple(map(runs, masks)))
    precision = plain([match(found, [crowd, object_], SIZE)], 1)
    assert precision["mask"][0, :, 0].tolist() == pytest.approx([1.0] * 10)
    large = list(AREAS).index("_large")
    assert np.isnan(precision["mask"][large]).all()  # 40 x 40 pixels are a medium object


def test_a_draw_of_groups_is_the_ap_of_their_images_as_often() -> None:
    rng = np.random.default_rng(5)
    scenes = [scene(rng) for _ in range(9)]
    images = []
    for truth, found in scenes:  # all scores differ, so that their order is no matter of images
        distinct = Detections(found.labels, rng.random(len(found.labels)), found.boxes, found.masks)
        images.append(match(distinct, truth, SIZE))
    groups = np.arange(9) % 3
    draws = np.array([[1.0, 1, 1], [2, 0, 1], [0, 3, 0]])
    drawn = average_precision(images, CLASSES, groups, draws)
    for number, draw in enumerate(draws):
        copies = [image for image, group in zip(images, groups, strict=True) for _ in range(int(draw[group]))]
        for kind, precision in plain(copies, CLASSES).items():
            # Copies of one detection stand one after another, a drawn one counts at once: a false one among right ones
            # of the same score is the only place where that shows.
            np.testing.assert_allclose(drawn[kind][number], precision, atol=2e-2)
            if draw.max() == 1:
                np.testing.assert_allclose(drawn[kind][number], precision, atol=1e-12)
