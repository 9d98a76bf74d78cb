"""Losses by hand and against SMP and torch, what ignored pixels do, and their independence of how a batch is cut."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch import losses as smp

from distseg.config import LossConfig, RunConfig, with_overrides
from distseg.data.manifest import Manifest
from distseg.errors import ConfigError
from distseg.losses import Loss, build_loss, median_frequency_weights, near_boundary
from distseg.tasks.check import check_task
from distseg.tasks.dense import DenseTask

LN2, LN3 = math.log(2), math.log(3)  # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4
LOGITS = torch.tensor([[[[LN3, -LN3], [LN3, -LN3]]]])  # probabilities 3/4 1/4 / 3/4 1/4
MASKS = torch.tensor([[[1, 0], [0, 1]]], dtype=torch.uint8)
# hits 3/4 + 1/4 = 1, false alarms 1/4 + 3/4 = 1, missed 2 - 1 = 1

# two pixels, three classes: probabilities 1/2 1/4 1/4 and 1/4 1/2 1/4
LOGITS_3 = torch.tensor([[LN2, 0.0, 0.0], [0.0, LN2, 0.0]]).T.reshape(1, 3, 1, 2)
MASKS_3 = torch.tensor([[[0, 2]]], dtype=torch.uint8)

BINARY = ("bce", "focal", "dice", "jaccard", "tversky", "lovasz", "bce_dice")
MULTICLASS = ("cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz", "cross_entropy_dice")
BOTH = [*((name, 1) for name in BINARY), *((name, 3) for name in MULTICLASS)]


def loss_of(name: str, ignore_label: int | None = None, weights: torch.Tensor | None = None, **fields: Any) -> Loss:
    return build_loss(LossConfig.model_validate({"name": name, **fields}), ignore_label, weights)


def noise(
    images: int, channels: int, height: int = 8, width: int = 9, seed: int = 0, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C, H, W) and masks (B, H, W) uint8 of as many classes as such logits tell apart."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, channels, height, width, generator=generator)
    masks = torch.randint(0, max(2, channels), (images, height, width), generator=generator, dtype=torch.uint8)
    return logits, masks


# By hand


@pytest.mark.parametrize(
    ("name", "fields", "wanted"),
    [
        # right pixels cost -ln(3/4), wrong ones -ln(1/4); two of each of four
        ("bce", {}, (-math.log(3 / 4) - math.log(1 / 4)) / 2),
        # the same, times (1/4)^2 and (3/4)^2; and with gamma 1/2
        ("focal", {}, (-math.log(3 / 4) / 16 - math.log(1 / 4) * 9 / 16) / 2),
        ("focal", {"focal_gamma": 0.5}, (-math.log(3 / 4) / 2 - math.log(1 / 4) * math.sqrt(3) / 2) / 2),
        ("dice", {}, 1 - (1 + 0.5) / (1 + 0.5 * 1 + 0.5 * 1 + 0.5)),  # 0.4
        ("jaccard", {}, 1 - (1 + 0.5) / (1 + 1 + 1 + 0.5)),
        ("tversky", {}, 0.4),  # as much missed as false: any weights that add up to 1 are Dice's
        # signs times logits: ln 3, ln 3, -ln 3, -ln 3 (at 1, 0 | 0, 1 right, right, wrong, wrong); the errors in order:
        # 1 + ln 3 (twice), 1 - ln 3 < 0 (twice). Jaccard's steps for truth 1 and 0 first, in either order, end at
        # 1 - 1/3 after two pixels: one of two hits missed, one false alarm
        ("lovasz", {}, (1 + LN3) * 2 / 3),
        ("bce_dice", {"dice_weight": 0.25}, 0.75 * (-math.log(3 / 4) - math.log(1 / 4)) / 2 + 0.25 * 0.4),
    ],
)
def test_binary_losses_by_hand(name: str, fields: dict[str, Any], wanted: float) -> None:
    assert loss_of(name, **fields)(LOGITS, MASKS).tolist() == pytest.approx([wanted])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("cross_entropy", (-math.log(1 / 2) - math.log(1 / 4)) / 2),
        ("focal", (-math.log(1 / 2) / 4 - math.log(1 / 4) * 9 / 16) / 2),
        # class 0: hits 1/2, false 1/4, missed 1/2; class 2: hits 1/4, false 1/4, missed 3/4; class 1 is in no truth
        ("dice", ((1 - 1 / (1 / 2 + 1 / 8 + 1 / 4 + 1 / 2)) + (1 - 0.75 / (1 / 4 + 1 / 8 + 3 / 8 + 1 / 2))) / 2),
        ("jaccard", ((1 - 1 / (1 / 2 + 1 / 4 + 1 / 2 + 1 / 2)) + (1 - 0.75 / (1 / 4 + 1 / 4 + 3 / 4 + 1 / 2))) / 2),
        # false alarms 0.3, missed pixels 0.7
        ("tversky", ((1 - 1 / (0.5 + 0.075 + 0.35 + 0.5)) + (1 - 0.75 / (0.25 + 0.075 + 0.525 + 0.5))) / 2),
        # class 0, errors 1/2 (truth) and 1/4: Jaccard's steps 1 and 0: 1/2; class 2: errors 3/4 (truth) and 1/4: 3/4
        ("lovasz", (1 / 2 + 3 / 4) / 2),
    ],
)
def test_multiclass_losses_by_hand(name: str, wanted: float) -> None:
    assert loss_of(name)(LOGITS_3, MASKS_3).tolist() == pytest.approx([wanted])


def test_tversky_weighs_missed_pixels() -> None:
    """Only the second pixel of two is told from the background: one missed, none false."""
    logits = torch.tensor([[[[-50.0, 50.0]]]])
    masks = torch.ones(1, 1, 2, dtype=torch.uint8)
    # hits 1, missed 1: 1 - 1.5 / (1 + r + 0.5)
    for recall in (0.0, 0.3, 1.0):
        wanted = 1 - 1.5 / (1.5 + recall)
        assert loss_of("tversky", tversky_recall=recall)(logits, masks).tolist() == pytest.approx([wanted], abs=1e-6)


def test_tversky_of_a_half_is_dice() -> None:
    for channels in (1, 4):
        logits, masks = noise(3, channels)
        dice = loss_of("dice")(logits, masks)
        torch.testing.assert_close(loss_of("tversky", tversky_recall=0.5)(logits, masks), dice)


# Against SMP and torch, which take the mean over the batch: on one image at a time


def smp_dice(mode: str, **options: Any) -> smp.TverskyLoss:
    """SMP's Dice with ours' smoothing; ``smooth`` of its DiceLoss has meant half of this and this in its versions."""
    return smp.TverskyLoss(mode, alpha=0.5, beta=0.5, smooth=0.5, **options)


def test_dice_agrees_with_smps_dice_on_one_image_up_to_the_smoothing() -> None:
    """Ours adds one pixel to 2 I and to T in 1 - 2 I / T; SMP adds none unless asked."""
    logits, masks = noise(1, 1, 24, 32)
    theirs = smp.DiceLoss("binary")(logits, masks.long())
    total = logits.sigmoid().sum() + masks.sum()
    torch.testing.assert_close(loss_of("dice")(logits, masks)[0], 1 - ((1 - theirs) * total + 1) / (total + 1))


@pytest.mark.parametrize("seed", range(3))
def test_binary_losses_agree_with_smp_on_one_image(seed: int) -> None:
    """With the smoothing that ours has: one pixel above and below, which is 0.5 where SMP counts hits once.

    On an empty truth they differ: SMP's Dice, Jaccard and Tversky are 0 there, without a gradient, ours pull the
    prediction towards nothing (test_dice_pulls_towards_empty_and_full_masks).
    """
    logits, masks = noise(1, 1, seed=seed)
    theirs: dict[str, Any] = {
        "dice": smp_dice("binary"),
        "jaccard": smp.JaccardLoss("binary", smooth=0.5),
        "tversky": smp.TverskyLoss("binary", alpha=0.3, beta=0.7, smooth=0.5),
        "focal": smp.FocalLoss("binary", gamma=2.0),
        "lovasz": smp.LovaszLoss("binary", per_image=True),
        "bce": smp.SoftBCEWithLogitsLoss(),
    }
    for name, loss in theirs.items():
        truth = masks.unsqueeze(1).float() if name == "bce" else masks.long()
        torch.testing.assert_close(loss_of(name)(logits, masks)[0], loss(logits, truth), msg=name)


def test_multiclass_losses_agree_with_smp_on_one_image() -> None:
    """All classes occur here. SMP divides by all classes where ours divide by those of the image's truth (the next
    test). Its multi-class focal loss is another one, a binary focal loss of every logit on its own; ours is that of the
    softmax, and has no counterpart there.
    """
    logits, masks = noise(1, 4)
    assert masks.unique().tolist() == [0, 1, 2, 3]
    theirs: dict[str, Any] = {
        "dice": smp_dice("multiclass"),
        "jaccard": smp.JaccardLoss("multiclass", smooth=0.5),
        "tversky": smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7, smooth=0.5),
        "lovasz": smp.LovaszLoss("multiclass", per_image=True),
        "cross_entropy": torch.nn.CrossEntropyLoss(),
    }
    for name, loss in theirs.items():
        torch.testing.assert_close(loss_of(name)(logits, masks)[0], loss(logits, masks.long()), msg=name)


def test_classes_that_an_image_lacks_do_not_dilute_its_loss() -> None:
    logits, masks = noise(1, 5)
    masks %= 2  # two classes of five
    theirs = smp_dice("multiclass")(logits, masks.long())
    torch.testing.assert_close(loss_of("dice")(logits, masks)[0], theirs * 5 / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_multiclass_focal_is_weighted_cross_entropy(gamma: float) -> None:
    logits, masks = noise(1, 4)
    probability = logits.softmax(1).gather(1, masks[:, None].long())[:, 0]
    wanted = (-((1 - probability) ** gamma) * probability.log()).mean()
    torch.testing.assert_close(loss_of("focal", focal_gamma=gamma)(logits, masks)[0], wanted)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_focal_has_a_gradient_where_a_pixel_is_certain(gamma: float, channels: int) -> None:
    """A power below 1 has an infinite derivative at 0, which is what 1 - p rounds to here."""
    logits, masks = noise(2, channels, scale=300.0)
    logits.requires_grad_()
    loss_of("focal", focal_gamma=gamma)(logits, masks).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_weights_and_ignored_pixels_agree_with_torch() -> None:
    logits, masks = noise(1, 3)
    masks[0, :3] = 255
    weights = torch.tensor([0.5, 0.0, 2.5])
    ours = loss_of("cross_entropy", 255, weights)(logits, masks)
    theirs = F.cross_entropy(logits, masks.long(), weight=weights, ignore_index=255)
    torch.testing.assert_close(ours[0], theirs)


@pytest.mark.parametrize("name", ["dice", "tversky", "lovasz"])
@pytest.mark.parametrize("channels", [1, 3])
def test_ignored_pixels_agree_with_smp(name: str, channels: int) -> None:
    logits, masks = noise(1, channels)
    masks[0, 2:4] = 255
    mode = "binary" if channels == 1 else "multiclass"
    theirs: dict[str, Any] = {
        "dice": lambda: smp_dice(mode, ignore_index=255),
        "tversky": lambda: smp.TverskyLoss(mode, alpha=0.3, beta=0.7, smooth=0.5, ignore_index=255),
        "lovasz": lambda: smp.LovaszLoss(mode, per_image=True, ignore_index=255),
    }
    torch.testing.assert_close(loss_of(name, 255)(logits, masks)[0], theirs[name]()(logits, masks.long()))


# Ignored pixels


@pytest.mark.parametrize(("name", "channels"), BOTH)
def test_ignored_pixels_have_no_gradient_and_no_say(name: str, channels: int) -> None:
    logits, masks = noise(2, channels)
    masks[:, :4] = 255
    other = logits.clone()
    other[:, :, :4] = 7.0
    loss = loss_of(name, 255)
    torch.testing.assert_close(loss(logits, masks), loss(other, masks))
    logits.requires_grad_()
    loss(logits, masks).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, :4] == 0).all()
    assert (logits.grad[:, :, 4:] != 0).any()


@pytest.mark.parametrize(("name", "channels"), BOTH)
def test_an_image_that_is_all_ignored_costs_nothing(name: str, channels: int) -> None:
    logits, masks = noise(2, channels)
    masks[0] = 255
    logits.requires_grad_()
    losses = loss_of(name, 255)(logits, masks)
    assert losses.shape == (2,)
    assert losses[0].item() == pytest.approx(0, abs=1e-6)
    assert losses[1] > 0
    losses.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[0] == 0).all()


# Weights of pixels


def test_median_frequency_weights_by_hand() -> None:
    # median of 100, 50, 10 is 50: 50/100, 50/50, 50/10, and their mean is 6.5 / 3; the fourth class has no pixel
    weights = median_frequency_weights(torch.tensor([100, 50, 10, 0]))
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([0.5 * 3 / 6.5, 3 / 6.5, 5 * 3 / 6.5, 0])


def test_class_weights_weigh_pixels() -> None:
    # as LOGITS_3: -ln(1/2) for a pixel of class 0, -ln(1/4) for one of class 2
    loss = loss_of("cross_entropy", weights=torch.tensor([1.0, 9.0, 3.0]))(LOGITS_3, MASKS_3)
    assert loss.tolist() == pytest.approx([(1 * math.log(2) + 3 * math.log(4)) / 4])


def test_near_a_boundary_by_hand() -> None:
    masks = torch.tensor([[[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]]], dtype=torch.uint8)
    assert near_boundary(masks, 1).tolist() == [[[0, 0, 0, 1, 1, 0, 0]] * 2]
    assert near_boundary(masks, 2).tolist() == [[[0, 0, 1, 1, 1, 1, 0]] * 2]


def test_the_images_edge_is_no_boundary() -> None:
    assert near_boundary(torch.ones(1, 5, 5, dtype=torch.uint8), 2).sum() == 0


def test_boundary_weight_by_hand() -> None:
    logits = torch.tensor([[[[-LN3, -LN3, -LN3, LN3, LN3]]]])
    masks = torch.tensor([[[0, 0, 1, 1, 1]]], dtype=torch.uint8)
    # costs c c w c c with c = -ln(3/4), w = -ln(1/4); weights 1 4 4 1 1 at reach 1
    c, w = -math.log(3 / 4), -math.log(1 / 4)
    loss = loss_of("bce", boundary_weight=3.0, boundary_reach=1)(logits, masks)
    assert loss.tolist() == pytest.approx([(c + 4 * c + 4 * w + c + c) / 11])


# Empty and full masks, batches, precision


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("filling", [0, 1])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_empty_and_full_masks_have_finite_losses_and_gradients(name: str, filling: int, scale: float) -> None:
    logits, _ = noise(3, 1, scale=scale)
    logits.requires_grad_()
    losses = loss_of(name)(logits, torch.full((3, 8, 9), filling, dtype=torch.uint8))
    assert losses.shape == (3,)
    assert (losses >= 0).all()
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", MULTICLASS)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_one_class_everywhere_has_finite_losses_and_gradients(name: str, scale: float) -> None:
    logits, _ = noise(3, 4, scale=scale)
    logits.requires_grad_()
    losses = loss_of(name)(logits, torch.full((3, 8, 9), 2, dtype=torch.uint8))
    assert (losses >= 0).all()
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky"])
@pytest.mark.parametrize("filling", [0, 1])
def test_regions_pull_towards_empty_and_full_masks(name: str, filling: int) -> None:
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss_of(name)(logits, torch.full((1, 4, 4), filling, dtype=torch.uint8)).sum().backward()
    assert logits.grad is not None
    towards = logits.grad > 0 if filling == 0 else logits.grad < 0  # a step goes against the gradient
    assert towards.all()


@pytest.mark.parametrize("name", BINARY)
def test_perfect_binary_predictions_cost_nothing(name: str) -> None:
    masks = torch.tensor([[[1, 0]], [[0, 0]], [[1, 1]]], dtype=torch.uint8)
    logits = (200.0 * masks - 100).unsqueeze(1)
    torch.testing.assert_close(loss_of(name)(logits, masks), torch.zeros(3))


@pytest.mark.parametrize("name", MULTICLASS)
def test_perfect_multiclass_predictions_cost_nothing(name: str) -> None:
    _, masks = noise(3, 4)
    logits = 100.0 * F.one_hot(masks.long(), 4).movedim(-1, 1)
    torch.testing.assert_close(loss_of(name)(logits, masks), torch.zeros(3))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6), st.sampled_from(BOTH))
def test_an_images_loss_does_not_depend_on_its_micro_batch(
    seed: int, images: int, micro: int, kind: tuple[str, int]
) -> None:
    name, channels = kind
    logits, masks = noise(images, channels, 5, 7, seed)
    loss = loss_of(name, boundary_weight=2.0)
    cut = [loss(logits[first : first + micro], masks[first : first + micro]) for first in range(0, images, micro)]
    torch.testing.assert_close(torch.cat(cut), loss(logits, masks), rtol=1e-5, atol=1e-6)


def manifest(task: str, *classes: str) -> Manifest:
    """Of no shards at all, with 100, 50, 10, ... pixels a class."""
    return Manifest(
        task=task,
        layout="",
        classes=classes,
        ignore_label=None,
        size=(8, 8),
        mask_encoding="png",
        shards=(),
        class_pixels=dict(zip(classes, (100, 50, 10, 5), strict=False)),
        groups={},
        folds=None,
        seed=0,
        data_digest="",
        split_digest="",
    )


CARS = manifest("binary", "background", "car")
STREETS = manifest("multiclass", "sky", "road", "tree")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_task_computes_in_float32(dtype: torch.dtype) -> None:
    task = DenseTask(RunConfig(), CARS)
    logits = torch.full((1, 1, 256, 256), 4.0, dtype=dtype)  # 65536 pixels: their sum is beyond float16
    masks = torch.ones(1, 256, 256, dtype=torch.uint8)
    losses = task.loss(logits, masks)
    assert losses.dtype == torch.float32
    # p = sigmoid(4) = 0.98201; bce 0.018150; dice 1 - (2p + 1/N) / (1 + p + 1/N) = (1 - p) / (1 + p) = 0.0090747
    assert losses.tolist() == pytest.approx([(0.0181499 + 0.0090747) / 2], rel=1e-4)


def test_a_task_takes_its_class_weights_from_the_manifest() -> None:
    changes = {"task": "multiclass", "loss.name": "cross_entropy", "loss.class_weights": "median_frequency"}
    task = DenseTask(with_overrides(RunConfig(), changes), STREETS)
    assert task.channels_out == 3
    weights = median_frequency_weights(torch.tensor([100, 50, 10]))
    wanted = loss_of("cross_entropy", weights=weights)(LOGITS_3, MASKS_3)
    torch.testing.assert_close(task.loss(LOGITS_3, MASKS_3), wanted)


@pytest.mark.parametrize(("task", "data"), [("binary", STREETS), ("multiclass", CARS)])
def test_a_task_for_other_data_is_refused(task: str, data: Manifest) -> None:
    with pytest.raises(
        ConfigError, match=rf"task: got '{task}', but .* '{data.task}' with \d .* config of task '{data.task}'"
    ):
        check_task(task, data)


@pytest.mark.parametrize(
    ("task", "name", "wanted"),
    [
        ("multiclass", "bce", "cross_entropy"),
        ("multiclass", "bce_dice", "cross_entropy_dice"),
        ("binary", "cross_entropy", "bce"),
        ("binary", "cross_entropy_dice", "bce_dice"),
    ],
)
def test_a_loss_of_the_other_task_is_refused(task: str, name: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"loss.name: got '{name}' for task '{task}', want '{wanted}'"):
        with_overrides(RunConfig(), {"task": task, "loss.name": name})
