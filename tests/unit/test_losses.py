"""Losses by hand, their gradients where masks are empty or full, and their independence of how a batch is cut."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.config import LossConfig
from distseg.losses import bce, build_loss, dice
from distseg.tasks.binary import BinaryTask

LN3 = math.log(3)  # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4
LOGITS = torch.tensor([[[[LN3, -LN3], [LN3, -LN3]]]])  # probabilities 3/4 1/4 / 3/4 1/4
TARGETS = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])


def test_bce_by_hand() -> None:
    # right pixels cost -ln(3/4), wrong ones -ln(1/4); two of each of four
    assert bce(LOGITS, TARGETS).tolist() == pytest.approx([(-math.log(3 / 4) - math.log(1 / 4)) / 2])


def test_dice_by_hand() -> None:
    # intersection 3/4 + 1/4 = 1; total 2 + 2 = 4; 1 - (2 * 1 + 1) / (4 + 1) = 0.4
    assert dice(LOGITS, TARGETS).tolist() == pytest.approx([0.4])


def test_bce_dice_weighs_the_two() -> None:
    loss = build_loss(LossConfig(name="bce_dice", dice_weight=0.25))(LOGITS, TARGETS)
    torch.testing.assert_close(loss, 0.75 * bce(LOGITS, TARGETS) + 0.25 * dice(LOGITS, TARGETS))


@pytest.mark.parametrize(("name", "loss"), [("bce", bce), ("dice", dice)])
def test_a_config_names_its_loss(name: str, loss: object) -> None:
    assert build_loss(LossConfig.model_validate({"name": name})) is loss


@pytest.mark.parametrize("name", ["bce", "dice", "bce_dice"])
@pytest.mark.parametrize("filling", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_empty_and_full_masks_have_finite_losses_and_gradients(name: str, filling: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(3, 1, 8, 8, generator=generator)).requires_grad_()
    losses = build_loss(LossConfig.model_validate({"name": name}))(logits, torch.full((3, 8, 8), filling))
    assert losses.shape == (3,)
    assert (losses >= 0).all()
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("filling", [0.0, 1.0])
def test_dice_pulls_towards_empty_and_full_masks(filling: float) -> None:
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    dice(logits, torch.full((1, 4, 4), filling)).sum().backward()
    assert logits.grad is not None
    towards = logits.grad > 0 if filling == 0 else logits.grad < 0  # a step goes against the gradient
    assert towards.all()


def test_perfect_predictions_cost_nothing() -> None:
    targets = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    logits = (200 * targets - 100).unsqueeze(1)
    for name in ("bce", "dice", "bce_dice"):
        loss = build_loss(LossConfig.model_validate({"name": name}))(logits, targets)
        torch.testing.assert_close(loss, torch.zeros(3))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6), st.sampled_from(["bce", "dice", "bce_dice"]))
def test_an_images_loss_does_not_depend_on_its_micro_batch(seed: int, images: int, micro: int, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, 1, 5, 7, generator=generator)
    targets = torch.randint(0, 2, (images, 5, 7), generator=generator).float()
    loss = build_loss(LossConfig.model_validate({"name": name}))
    cut = [loss(logits[first : first + micro], targets[first : first + micro]) for first in range(0, images, micro)]
    torch.testing.assert_close(torch.cat(cut), loss(logits, targets), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_task_computes_in_float32(dtype: torch.dtype) -> None:
    task = BinaryTask(LossConfig())
    logits = torch.full((1, 1, 256, 256), 4.0, dtype=dtype)  # 65536 pixels: their sum is beyond float16
    masks = torch.ones(1, 256, 256, dtype=torch.uint8)
    losses = task.loss(logits, masks)
    assert losses.dtype == torch.float32
    # p = sigmoid(4) = 0.98201; bce 0.018150; dice 1 - (2p + 1/N) / (1 + p + 1/N) = (1 - p) / (1 + p) = 0.0090747
    assert losses.tolist() == pytest.approx([(0.0181499 + 0.0090747) / 2], rel=1e-4)
