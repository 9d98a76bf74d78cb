"""Counts by hand, empty masks, the ignore label, and agreement with torchmetrics and segmentation_models_pytorch."""

import json
import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.metrics import band, boundary, confusion, image_sums
from distseg.scores import Sums, group_sums, group_values, intervals, metrics_of, resampled, values, width

BINARY = ("background", "car")
THREE = ("sky", "road", "tree")


def labels(*rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def sums_of(predictions: torch.Tensor, targets: torch.Tensor, classes: int, ignore: int | None = None) -> Sums:
    return image_sums(predictions, targets, classes, ignore).sum(axis=0)


def test_confusion_by_hand() -> None:
    truth = labels([[0, 0, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]])
    predicted = labels([[0, 1, 1], [1, 0, 1]], [[0, 0, 0], [0, 0, 1]])
    # [truth][prediction]; image 1: TN 1, FP 1 / FN 1, TP 3; image 2: TN 5, FP 1 / 0, 0
    assert confusion(predicted, truth, 2, None).tolist() == [[[1, 1], [1, 3]], [[5, 1], [0, 0]]]


def test_pixels_of_the_ignore_label_are_left_out() -> None:
    truth = labels([[255, 0, 1], [1, 255, 255]])
    predicted = labels([[1, 1, 1], [0, 0, 1]])
    assert confusion(predicted, truth, 2, 255).tolist() == [[[0, 1], [1, 1]]]


def test_binary_metrics_by_hand() -> None:
    truth = labels([[0, 0, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 1]])
    predicted = labels([[0, 1, 1], [1, 0, 1]], [[0, 0, 0], [0, 1, 1]])
    # image 1: TP 3, FP 1, FN 1: Dice 6/8, IoU 3/5; image 2: TP 1, FP 1, FN 0: Dice 2/3, IoU 1/2
    # whole set: TP 4, FP 2, FN 1, TN 5: Dice 8/11, IoU 4/7; background Dice 10/13, IoU 5/8; 9 of 12 pixels right
    # of the 6 pixels predicted 4 are right, of the 5 true ones 4 are found
    metrics = metrics_of(sums_of(predicted, truth, 2), BINARY)
    assert metrics["precision"] == pytest.approx(4 / 6)
    assert metrics["recall"] == pytest.approx(4 / 5)
    assert metrics["dice_mean_per_image"] == pytest.approx((6 / 8 + 2 / 3) / 2)
    assert metrics["iou_mean_per_image"] == pytest.approx((3 / 5 + 1 / 2) / 2)
    assert metrics["dice_dataset"] == pytest.approx(8 / 11)
    assert metrics["iou_dataset"] == pytest.approx(4 / 7)
    assert metrics["pixel_accuracy"] == pytest.approx(9 / 12)
    assert metrics["per_class"] == [
        {"class": "background", "dice": pytest.approx(10 / 13), "iou": pytest.approx(5 / 8), "boundary_iou": None},
        # so small that every pixel is near the boundary
        {
            "class": "car",
            "dice": pytest.approx(8 / 11),
            "iou": pytest.approx(4 / 7),
            "boundary_iou": pytest.approx(4 / 7),
        },
    ]
    assert "miou" not in metrics


def test_three_classes_by_hand() -> None:
    truth, predicted = labels([[0, 0, 0, 1]]), labels([[0, 0, 1, 1]])
    # sky: TP 2, FN 1: IoU 2/3, Dice 4/5; road: TP 1, FP 1: IoU 1/2, Dice 2/3; tree occurs nowhere
    metrics = metrics_of(sums_of(predicted, truth, 3), THREE)
    assert metrics["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["iou_mean_per_image"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["dice_mean_per_image"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert metrics["per_class"][2] == {"class": "tree", "dice": None, "iou": None, "boundary_iou": None}
    assert not {"iou_dataset", "dice_dataset", "precision", "recall"} & metrics.keys()


def test_a_class_predicted_where_there_is_none_counts_as_zero() -> None:
    metrics = metrics_of(sums_of(labels([[0, 2]]), labels([[0, 0]]), 3), THREE)
    assert metrics["miou"] == pytest.approx((1 / 2 + 0) / 2)  # sky 1/2, tree 0, road undefined
    assert metrics["per_class"][2] == {"class": "tree", "dice": 0.0, "iou": 0.0, "boundary_iou": 0.0}


@pytest.mark.parametrize(
    ("truth", "predicted", "score"),
    [([[0, 0]], [[0, 0]], 1.0), ([[0, 0]], [[0, 1]], 0.0), ([[1, 0]], [[0, 0]], 0.0), ([[1, 1]], [[1, 1]], 1.0)],
)
def test_empty_and_full_masks(truth: list[list[int]], predicted: list[list[int]], score: float) -> None:
    metrics = metrics_of(sums_of(labels(predicted), labels(truth), 2), BINARY)
    names = ("dice_mean_per_image", "iou_mean_per_image", "dice_dataset", "iou_dataset", "boundary_iou")
    assert [metrics[name] for name in names] == [score] * 5
    # 0 / 0 is right when both are empty, and no merit otherwise
    assert [metrics[name] for name in ("precision", "recall")] == [score] * 2


@pytest.mark.parametrize("classes", [BINARY, THREE])
def test_an_image_of_the_ignore_label_alone_spoils_no_mean(classes: tuple[str, ...]) -> None:
    # image 1 is all void: nothing in truth or prediction, so Dice and IoU 1; image 2 has 1 of 2 pixels right
    truth, predicted = labels([[255, 255]], [[1, 1]]), labels([[0, 1]], [[1, 0]])
    metrics = metrics_of(sums_of(predicted, truth, len(classes), 255), classes)
    # two classes: class 1 has TP 1, FN 1: IoU 1/2; three: mean of 0 (class 0: one false alarm) and 1/2
    second = 1 / 2 if len(classes) == 2 else 1 / 4
    assert metrics["iou_mean_per_image"] == pytest.approx((1 + second) / 2)
    assert metrics["pixel_accuracy"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("classes", [BINARY, THREE])
def test_nothing_measured_is_nan_throughout(classes: tuple[str, ...]) -> None:
    metrics = metrics_of(np.zeros(width(len(classes))), classes)
    assert all(math.isnan(value) for name, value in metrics.items() if name != "per_class")
    assert all(row["dice"] is None and row["iou"] is None for row in metrics["per_class"])


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_sums_over_parts_add_up_to_the_whole(seed: int, classes: int, images: int, cut: int, void: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes, (images, 4, 5), generator=generator, dtype=torch.uint8)
    predicted = torch.randint(0, classes, (images, 4, 5), generator=generator, dtype=torch.uint8)
    ignore = 255 if void else None
    if void:
        truth[torch.rand(truth.shape, generator=generator) < 0.3] = 255
    parts = [
        sums_of(predicted[first : first + cut], truth[first : first + cut], classes, ignore)
        for first in range(0, images, cut)
    ]
    whole = sums_of(predicted, truth, classes, ignore)
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-12)
    assert whole[: classes * classes].sum() == (truth != 255).sum()
    assert whole[classes * classes] == images


def test_groups_keep_the_sums_from_which_the_metrics_follow() -> None:
    row = sums_of(labels([[0, 1, 1, 1]]), labels([[0, 0, 1, 1]]), 2)
    # TN 1, FP 1, FN 0, TP 2: Dice 4/5, IoU 2/3
    assert group_values({"a car": row}, 2) == {
        "a car": {
            "confusion": [[1, 1], [0, 2]],
            "images": 1,
            "dice_sum": pytest.approx(4 / 5),
            "iou_sum": pytest.approx(2 / 3),
            "boundary_both": [0, 2],
            "boundary_either": [0, 3],
        }
    }


def random_masks(classes: int, images: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Random truth, and a prediction that has three pixels of four right."""
    generator = torch.Generator().manual_seed(classes)
    truth = torch.randint(0, classes, (images, 24, 32), generator=generator, dtype=torch.uint8)
    noise = torch.randint(0, classes, truth.shape, generator=generator, dtype=torch.uint8)
    wrong = torch.rand(truth.shape, generator=generator) < 0.25
    return torch.where(wrong, noise, truth), truth


@pytest.mark.parametrize("classes", [2, 4])
def test_confusion_agrees_with_torchmetrics(classes: int) -> None:
    from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

    predicted, truth = random_masks(classes)
    truth[:, :3] = 255
    ours = confusion(predicted, truth, classes, 255)
    theirs = multiclass_confusion_matrix(predicted.long(), truth.long(), num_classes=classes, ignore_index=255)
    assert torch.equal(ours.sum(dim=0), theirs)
    iou = multiclass_jaccard_index(
        predicted.long(), truth.long(), num_classes=classes, average="none", ignore_index=255
    )
    metrics = metrics_of(sums_of(predicted, truth, classes, 255), [str(label) for label in range(classes)])
    assert [row["iou"] for row in metrics["per_class"]] == pytest.approx(iou.tolist(), rel=1e-6)


def test_binary_metrics_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import (
        binary_accuracy,
        binary_f1_score,
        binary_jaccard_index,
        binary_precision,
        binary_recall,
    )

    predicted, truth = random_masks(2)
    metrics = metrics_of(sums_of(predicted, truth, 2), BINARY)
    assert metrics["dice_dataset"] == pytest.approx(binary_f1_score(predicted, truth).item(), rel=1e-6)
    assert metrics["iou_dataset"] == pytest.approx(binary_jaccard_index(predicted, truth).item(), rel=1e-6)
    assert metrics["precision"] == pytest.approx(binary_precision(predicted, truth).item(), rel=1e-6)
    assert metrics["recall"] == pytest.approx(binary_recall(predicted, truth).item(), rel=1e-6)
    assert metrics["pixel_accuracy"] == pytest.approx(binary_accuracy(predicted, truth).item(), rel=1e-6)
    each = [binary_f1_score(one, other).item() for one, other in zip(predicted, truth, strict=True)]
    assert metrics["dice_mean_per_image"] == pytest.approx(np.mean(each), rel=1e-6)


def test_binary_metrics_agree_with_smp() -> None:
    from segmentation_models_pytorch import metrics as smp

    predicted, truth = random_masks(2)
    stats = smp.get_stats(predicted.long().unsqueeze(1), truth.long().unsqueeze(1), mode="binary", threshold=0.5)
    ours = metrics_of(sums_of(predicted, truth, 2), BINARY)
    for name, theirs, reduction in [
        ("dice_mean_per_image", smp.f1_score, "micro-imagewise"),
        ("iou_mean_per_image", smp.iou_score, "micro-imagewise"),
        ("dice_dataset", smp.f1_score, "micro"),
        ("iou_dataset", smp.iou_score, "micro"),
        ("pixel_accuracy", smp.accuracy, "micro"),
    ]:
        assert ours[name] == pytest.approx(theirs(*stats, reduction=reduction).item(), rel=1e-6), name


def test_miou_agrees_with_smp() -> None:
    from segmentation_models_pytorch import metrics as smp

    predicted, truth = random_masks(4)
    stats = smp.get_stats(predicted.long(), truth.long(), mode="multiclass", num_classes=4)
    ours = metrics_of(sums_of(predicted, truth, 4), "abcd")
    per_class = [smp.iou_score(*(part.sum(dim=0)[label] for part in stats)).item() for label in range(4)]
    assert [row["iou"] for row in ours["per_class"]] == pytest.approx(per_class, rel=1e-6)
    assert ours["miou"] == pytest.approx(np.mean(per_class), rel=1e-6)
    assert ours["iou_mean_per_image"] == pytest.approx(
        smp.iou_score(*stats, reduction="macro-imagewise").item(), rel=1e-6
    )


def test_miou_and_dice_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

    predicted, truth = random_masks(4)
    truth[0, :5] = 255
    options = {"num_classes": 4, "ignore_index": 255}
    ours = metrics_of(sums_of(predicted, truth, 4, 255), "abcd")
    iou = multiclass_jaccard_index(predicted.long(), truth.long(), average="macro", **options)
    dice = multiclass_f1_score(predicted.long(), truth.long(), average="none", **options)
    assert ours["miou"] == pytest.approx(iou.item(), rel=1e-6)
    assert [row["dice"] for row in ours["per_class"]] == pytest.approx(dice.tolist(), rel=1e-6)


# Boundary IoU


def reference_band(mask: np.ndarray, reach: int) -> np.ndarray:
    """``mask_to_boundary`` of Cheng et al. 2021: what as many 3x3 erosions take away, with nothing around the image."""
    ringed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(ringed, np.ones((3, 3), np.uint8), iterations=reach)
    return mask - eroded[1:-1, 1:-1]


def blobs(images: int, height: int, width: int, classes: int, seed: int = 0) -> torch.Tensor:
    """Label maps (B, H, W) of regions some ten pixels wide."""
    small = np.random.default_rng(seed).integers(0, classes, (images, height // 10 + 2, width // 10 + 2), np.uint8)
    grown = [cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST) for image in small]
    return torch.from_numpy(np.stack(grown))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))
def test_a_band_is_what_repeated_erosion_takes_away(seed: int, height: int, width: int, reach: int) -> None:
    masks = blobs(2, height, width, 2, seed)
    ours = band(masks.bool(), reach).numpy().astype(np.uint8)
    for one, mask in zip(ours, masks.numpy(), strict=True):
        np.testing.assert_array_equal(one, reference_band(mask, reach))


def test_a_band_by_hand() -> None:
    masks = torch.zeros(1, 5, 7, dtype=torch.bool)
    masks[0, :, 2:] = True  # 5 by 5, at the right edge: its own edges on three sides count
    inside = torch.zeros(1, 5, 7, dtype=torch.bool)
    inside[0, 1:4, 3:6] = True
    assert torch.equal(band(masks, 1), masks & ~inside)


@pytest.mark.parametrize(("height", "width", "reach"), [(100, 120, 3), (24, 32, 1), (8, 8, 1), (300, 400, 10)])
def test_boundary_iou_agrees_with_its_reference(height: int, width: int, reach: int) -> None:
    """2 % of the diagonal: 156 -> 3.1, 40 -> 0.8, 11 -> 0.2 (one pixel at least), 500 -> 10."""
    truth, predicted = blobs(2, height, width, 2), blobs(2, height, width, 2, seed=1)
    predicted[:, : height // 2] = truth[:, : height // 2]
    bands = [[reference_band(mask, reach).astype(bool) for mask in masks.numpy()] for masks in (truth, predicted)]
    both, either = np.logical_and(*bands).sum(), np.logical_or(*bands).sum()
    metrics = metrics_of(sums_of(predicted, truth, 2), BINARY)
    assert metrics["boundary_iou"] == pytest.approx(both / either)
    assert metrics["per_class"][1]["boundary_iou"] == metrics["boundary_iou"]


def test_boundary_iou_of_several_classes_is_the_mean_over_those_that_occur() -> None:
    truth, predicted = blobs(2, 60, 80, 3), blobs(2, 60, 80, 3, seed=1)  # of four classes; 2 % of 100 pixels is 2
    wanted = []
    for label in range(3):
        bands = [
            [reference_band((mask == label).astype(np.uint8), 2).astype(bool) for mask in masks.numpy()]
            for masks in (truth, predicted)
        ]
        wanted.append(np.logical_and(*bands).sum() / np.logical_or(*bands).sum())
    metrics = metrics_of(sums_of(predicted, truth, 4), "abcd")
    assert [row["boundary_iou"] for row in metrics["per_class"]] == [*map(pytest.approx, wanted), None]
    assert metrics["boundary_iou"] == pytest.approx(np.mean(wanted))


def test_bands_leave_ignored_pixels_out() -> None:
    truth = torch.ones(1, 20, 20, dtype=torch.uint8)
    truth[:, :10] = 255
    predicted = torch.ones_like(truth)
    both, either = boundary(predicted, truth, 2, 255)
    # the lower half's own band is a frame of one pixel; the prediction's has no edge where the void begins
    assert either[0].tolist() == [0, 20 + 18 + 2 * 9]
    assert both[0].tolist() == [0, 20 + 2 * 9]


# Intervals


def some_groups(number: int, seed: int = 0, classes: int = 2) -> Sums:
    """Rows of groups whose predictions are more or less right."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        truth = torch.from_numpy(draw.integers(0, classes, (3, 8, 8), np.uint8))
        noise = torch.from_numpy(draw.integers(0, classes, (3, 8, 8), np.uint8))
        wrong = torch.from_numpy(draw.random((3, 8, 8)) < draw.uniform(0, 0.5))
        rows.append(sums_of(torch.where(wrong, noise, truth), truth, classes))
    return np.array(rows)


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_are_the_same_each_time_and_hold_the_value(classes: int) -> None:
    groups = some_groups(12, classes=classes)
    found = intervals(groups, classes)
    assert found == intervals(groups.copy(), classes)
    whole = values(groups.sum(axis=0), classes)
    assert found.keys() == whole.keys()
    for name, (low, high) in found.items():
        assert 0 <= low < whole[name] < high <= 1, name


def test_an_interval_by_hand() -> None:
    """Two groups, of one image each, with Dice 0 and 1: both drawn twice in a quarter of the draws, so 0 and 1."""
    right = sums_of(labels([[0, 1]]), labels([[0, 1]]), 2)
    wrong = sums_of(labels([[1, 0]]), labels([[0, 1]]), 2)
    assert intervals(np.array([right, wrong]), 2)["dice_mean_per_image"] == (0.0, 1.0)


def test_an_interval_over_equal_groups_has_no_width() -> None:
    (row,) = some_groups(1)
    low, high = intervals(np.array([row] * 5), 2)["iou_dataset"]
    assert low == pytest.approx(high)
    assert low == pytest.approx(values(row, 2)["iou_dataset"])


def test_intervals_shrink_with_the_groups() -> None:
    """Sixteen times as many groups of the same kind: a quarter of the width, give or take half."""
    few, many = (intervals(np.tile(some_groups(10), (times, 1)), 2)["dice_mean_per_image"] for times in (1, 16))
    ratio = (many[1] - many[0]) / (few[1] - few[0])
    assert 0.125 < ratio < 0.5


def test_intervals_agree_with_the_normal_ones() -> None:
    """Of a mean over many groups: 1.96 standard errors to either side."""
    groups = some_groups(200)
    low, high = intervals(groups, 2)["dice_mean_per_image"]
    rates = values(groups, 2)["dice_mean_per_image"]
    assert (high - low) / 2 == pytest.approx(1.96 * rates.std() / math.sqrt(200), rel=0.15)


def test_the_order_of_groups_does_not_matter() -> None:
    """Bit for bit as ``groups.json`` is read, by name; else within the noise of a thousand draws."""
    rows = some_groups(30)
    kept = group_values({f"car-{number:02d}": row for number, row in enumerate(rows)}, 2)
    backwards = dict(reversed(kept.items()))
    np.testing.assert_array_equal(group_sums(kept), group_sums(backwards))
    one, other = (intervals(groups, 2)["dice_mean_per_image"] for groups in (rows, rows[::-1]))
    assert other == pytest.approx(one, abs=0.2 * (one[1] - one[0]))


def test_one_group_has_no_interval() -> None:
    assert intervals(some_groups(1), 2) == {}


def test_what_is_undefined_in_every_draw_has_no_interval() -> None:
    """Nothing but ignored pixels: no pixel accuracy, while the images' Dice is 1 by the rule."""
    row = sums_of(labels([[0, 0]]), labels([[255, 255]]), 2, 255)
    found = intervals(np.array([row, row]), 2)
    assert "pixel_accuracy" not in found
    assert found["dice_mean_per_image"] == (1.0, 1.0)


def test_every_draw_has_as_many_groups_as_there_are() -> None:
    draws = resampled(7)
    assert draws.shape == (1000, 7)
    assert (draws.sum(axis=1) == 7).all()
    assert draws.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)


def test_groups_keep_all_that_the_metrics_need() -> None:
    rows = some_groups(4, classes=3)
    kept = group_values({str(number): row for number, row in enumerate(rows)}, 3)
    np.testing.assert_allclose(group_sums(json.loads(json.dumps(kept))), rows)
