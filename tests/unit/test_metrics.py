"""Counts by hand, empty masks, the ignore label, and agreement with torchmetrics and segmentation_models_pytorch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.metrics import Sums, confusion, group_values, image_sums, metrics_of

BINARY = ("background", "car")
THREE = ("sky", "road", "tree")


def labels(*rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def sums_of(predictions: torch.Tensor, targets: torch.Tensor, classes: int, ignore: int | None = None) -> Sums:
    return image_sums(confusion(predictions, targets, classes, ignore)).sum(axis=0)


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
    metrics = metrics_of(sums_of(predicted, truth, 2), BINARY)
    assert metrics["dice_mean_per_image"] == pytest.approx((6 / 8 + 2 / 3) / 2)
    assert metrics["iou_mean_per_image"] == pytest.approx((3 / 5 + 1 / 2) / 2)
    assert metrics["dice_dataset"] == pytest.approx(8 / 11)
    assert metrics["iou_dataset"] == pytest.approx(4 / 7)
    assert metrics["pixel_accuracy"] == pytest.approx(9 / 12)
    assert metrics["per_class"] == [
        {"class": "background", "dice": pytest.approx(10 / 13), "iou": pytest.approx(5 / 8)},
        {"class": "car", "dice": pytest.approx(8 / 11), "iou": pytest.approx(4 / 7)},
    ]
    assert "miou" not in metrics


def test_three_classes_by_hand() -> None:
    truth, predicted = labels([[0, 0, 0, 1]]), labels([[0, 0, 1, 1]])
    # sky: TP 2, FN 1: IoU 2/3, Dice 4/5; road: TP 1, FP 1: IoU 1/2, Dice 2/3; tree occurs nowhere
    metrics = metrics_of(sums_of(predicted, truth, 3), THREE)
    assert metrics["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["iou_mean_per_image"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["dice_mean_per_image"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert metrics["per_class"][2] == {"class": "tree", "dice": None, "iou": None}
    assert "iou_dataset" not in metrics


def test_a_class_predicted_where_there_is_none_counts_as_zero() -> None:
    metrics = metrics_of(sums_of(labels([[0, 2]]), labels([[0, 0]]), 3), THREE)
    assert metrics["miou"] == pytest.approx((1 / 2 + 0) / 2)  # sky 1/2, tree 0, road undefined
    assert metrics["per_class"][2] == {"class": "tree", "dice": 0.0, "iou": 0.0}


@pytest.mark.parametrize(
    ("truth", "predicted", "score"),
    [([[0, 0]], [[0, 0]], 1.0), ([[0, 0]], [[0, 1]], 0.0), ([[1, 0]], [[0, 0]], 0.0), ([[1, 1]], [[1, 1]], 1.0)],
)
def test_empty_and_full_masks(truth: list[list[int]], predicted: list[list[int]], score: float) -> None:
    metrics = metrics_of(sums_of(labels(predicted), labels(truth), 2), BINARY)
    names = ("dice_mean_per_image", "iou_mean_per_image", "dice_dataset", "iou_dataset")
    assert [metrics[name] for name in names] == [score] * 4


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
    metrics = metrics_of(np.zeros(len(classes) ** 2 + 3), classes)
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
    metrics = metrics_of(image_sums(ours).sum(axis=0), [str(label) for label in range(classes)])
    assert [row["iou"] for row in metrics["per_class"]] == pytest.approx(iou.tolist(), rel=1e-6)


def test_binary_metrics_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

    predicted, truth = random_masks(2)
    metrics = metrics_of(sums_of(predicted, truth, 2), BINARY)
    assert metrics["dice_dataset"] == pytest.approx(binary_f1_score(predicted, truth).item(), rel=1e-6)
    assert metrics["iou_dataset"] == pytest.approx(binary_jaccard_index(predicted, truth).item(), rel=1e-6)
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


def test_dice_loss_agrees_with_smp_on_one_image() -> None:
    """SMP adds up the whole batch before it divides, so the two are one only for a single image, and up to the
    smoothing: ours adds one pixel to 2 I and to T in 1 - 2 I / T; SMP adds none unless asked.
    """
    from segmentation_models_pytorch.losses import DiceLoss

    from distseg.losses import dice

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 24, 32, generator=generator)
    targets = torch.randint(0, 2, (4, 24, 32), generator=generator).float()
    ours = dice(logits, targets)
    for image in range(4):
        one, truth = logits[image : image + 1], targets[image : image + 1].unsqueeze(1)
        theirs = DiceLoss("binary")(one, truth)
        total = one.sigmoid().sum() + truth.sum()
        torch.testing.assert_close(ours[image], 1 - ((1 - theirs) * total + 1) / (total + 1))
