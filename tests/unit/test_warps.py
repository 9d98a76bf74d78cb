"""Warps as maps of points: each by hand, several as one, and the same on the training device."""

from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from runs import Stop, assert_same_end, final, kill_at, losses, spec_of, worker

from distseg.augment.canvas import Canvas
from distseg.augment.on_device import warp_batch
from distseg.augment.policies import Augmenter, Pixels
from distseg.augment.warps import (
    AffineStage,
    Elastic,
    ElasticStage,
    Grid,
    GridStage,
    Optical,
    OpticalStage,
    Stage,
    draw_stage,
    sources,
    warp,
)
from distseg.config import AugmentConfig
from distseg.data.manifest import ShardFolder
from distseg.train.data import open_data
from distseg.train.loop import run

WIDTH, HEIGHT = 60, 40
CANVAS = Canvas(WIDTH, HEIGHT)
SIZE = (HEIGHT, WIDTH)
WARPS = ("shift", "scale", "rotate", "shear", "elastic", "grid", "optical")


def picture(width: int = WIDTH, height: int = HEIGHT) -> tuple[Pixels, Pixels]:
    """A smooth picture, and a mask of its bright half in three labels."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    return smooth, (smooth[..., 0] // 86).astype(np.uint8)


def at(stage: Stage, x: float, y: float) -> tuple[float, float]:
    """Where one pixel is taken from."""
    all_x, all_y = sources([stage], SIZE)
    return float(all_x[int(y), int(x)]), float(all_y[int(y), int(x)])


def test_stages_by_hand() -> None:
    assert at(AffineStage(np.array([[0, 2, 3], [1, 0, -1]], float)), 5, 7) == (17, 4)  # 2 * 7 + 3, 5 - 1
    # the centre is (29.5, 19.5). 12 columns right of it are 12 / 60 = 0.2 of the width, 16 rows down 0.4 of the height:
    # r^2 = 0.04 + 0.16 = 0.2, so 1 + 0.5 (0.2 + 0.04) = 1.12; 29.5 + 12 * 1.12 = 42.94, 19.5 + 16 * 1.12 = 37.42
    x, y = sources([OpticalStage(0.5)], (41, 61))  # there the centre is a pixel, (30, 20)
    assert (x[20, 30], y[20, 30]) == (30, 20)
    square = (12 / 61) ** 2 + (16 / 41) ** 2
    factor = 1 + 0.5 * (square + square**2)
    assert (x[36, 42], y[36, 42]) == (pytest.approx(30 + 12 * factor), pytest.approx(20 + 16 * factor))
    # two columns: the left half of what is seen was 0.75 of the width before
    halves = GridStage(np.array([0, 0.75, 1], np.float32), np.array([0, 0.5, 1], np.float32))
    x, y = at(halves, 14, 10)  # the centre of pixel 14 is 14.5 / 60 from the left edge: 14.5 * 1.5 - 0.5
    assert (x, y) == (pytest.approx(21.25), pytest.approx(10))
    assert at(halves, 44, 10)[0] == pytest.approx((0.75 + (44.5 / 60 - 0.5) * 0.5) * 60 - 0.5)
    assert at(ElasticStage(np.full((4, 6, 2), (3, -2), np.float32)), 5, 7) == (pytest.approx(8), pytest.approx(5))


@pytest.mark.parametrize(
    "transform",
    [Elastic(0.0, 4.0), Grid(0.0), Optical(0.0, 0.0), A.Affine(rotate=(0, 0), p=1)],
    ids=lambda transform: type(transform).__name__,
)
def test_at_no_strength_nothing_moves(transform: Any) -> None:
    x, y = sources([draw_stage(transform, SIZE)], SIZE)
    np.testing.assert_allclose(x, np.tile(np.arange(WIDTH), (HEIGHT, 1)), atol=1e-4)
    np.testing.assert_allclose(y, np.tile(np.arange(HEIGHT)[:, None], (1, WIDTH)), atol=1e-4)


def test_the_last_stage_is_asked_first() -> None:
    """A picture shifted right by 10 and then mirrored: what is seen at 0 stood at 59 after the shift, at 49 before."""
    shifted = AffineStage(np.array([[1, 0, -10], [0, 1, 0]], float))
    mirrored = AffineStage(np.array([[-1, 0, WIDTH - 1], [0, 1, 0]], float))
    assert sources([shifted, mirrored], SIZE)[0][0, 0] == 49
    assert sources([mirrored, shifted], SIZE)[0][0, 0] == 69


def stages_of(seed: int, **changes: Any) -> list[Stage]:
    cfg = {"policy": "randaugment", "operations": WARPS, "randaugment": {"n": 3, "m": 6}, **changes}
    return Augmenter(AugmentConfig.model_validate(cfg), (WIDTH, HEIGHT)).stages(seed)


def test_several_warps_at_once_are_the_same_one_after_another() -> None:
    image, mask = picture()
    for seed in range(12):
        stages = stages_of(seed)
        assert len(stages) == 3
        one_image, (one_mask,) = warp(image, (mask,), stages, CANVAS)
        image_by_and_by, masks = image, (mask,)
        for stage in stages:
            image_by_and_by, masks = warp(image_by_and_by, masks, [stage], CANVAS)
        inner = np.s_[10:-10, 15:-15]  # mirroring what was mirrored before is not the same as mirroring far out
        apart = np.abs(one_image[inner].astype(float) - image_by_and_by[inner])
        assert np.median(apart) <= 4  # of 255: one interpolation is sharper than three
        assert (one_mask[inner] == masks[0][inner]).mean() > 0.8


@pytest.mark.parametrize("name", ["Affine", "Elastic", "Grid", "Optical"])
def test_a_warp_by_itself_is_a_transform_of_the_library(name: str) -> None:
    transform = {
        "Affine": A.Affine(rotate=(-30, 30), border_mode=cv2.BORDER_REFLECT_101, p=1),
        "Elastic": Elastic(2.0, 5.0, p=1),
        "Grid": Grid(0.4, p=1),
        "Optical": Optical(-0.5, 0.5, p=1),
    }[name]
    image, mask = picture()
    transform.set_random_seed(4)
    done = A.Compose([transform], strict=True, seed=4)(image=image, mask=mask)
    transform.set_random_seed(4)
    by_stage = warp(image, (mask,), [draw_stage(transform, SIZE)], CANVAS)
    assert np.abs(done["image"].astype(int) - by_stage[0]).max() <= 2
    assert (done["mask"] == by_stage[1][0]).mean() > 0.99


# On the training device, which a CPU can be too


def on_device(image: Pixels, mask: Pixels, stages: list[list[Stage]], canvas: Canvas) -> tuple[Pixels, Pixels]:
    """A batch of the same sample."""
    images = torch.from_numpy(np.stack([image] * len(stages))).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask] * len(stages)))
    warped_images, warped_masks = warp_batch(images, masks, stages, canvas)
    assert torch.equal(images, torch.from_numpy(np.stack([image] * len(stages))).permute(0, 3, 1, 2))
    return warped_images.permute(0, 2, 3, 1).numpy(), warped_masks.numpy()


@pytest.mark.parametrize("blank_label", [None, 9])
def test_the_device_moves_each_sample_as_the_loader_does(blank_label: int | None) -> None:
    image, mask = picture()
    canvas = Canvas(WIDTH, HEIGHT, blank_label)
    stages: list[list[Stage]] = [stages_of(seed) for seed in range(20)]
    stages[3] = stages[7] = []  # these stay as they are
    images, masks = on_device(image, mask, stages, canvas)
    for of_sample, got_image, got_mask in zip(stages, images, masks, strict=True):
        wanted_image, (wanted_mask,) = warp(image, (mask,), of_sample, canvas)
        apart = np.abs(got_image.astype(float) - wanted_image)
        assert apart.mean() < 1  # of 255: OpenCV may round places between pixels to 1 / 32
        assert np.quantile(apart, 0.99) <= 6
        assert (got_mask == wanted_mask).mean() > 0.985
        assert set(np.unique(got_mask)) <= {0, 1, 2, 9}
    np.testing.assert_array_equal(images[3], image)


def test_both_ways_have_one_distribution() -> None:
    """Statistics over other samples on either side: mean and spread of pixels, of labels' areas, of where they lie."""
    image, mask = picture()
    cfg = AugmentConfig.model_validate(
        {"policy": "adaptive", "operations": WARPS, "adaptive": {"stack_max": 3}, "device": "gpu"}
    )
    augmenter = Augmenter(cfg, (WIDTH, HEIGHT))
    many = 300
    here = [augmenter(image, (mask,), seed, 0.8) for seed in range(many)]
    ready = [augmenter.before_warps(image, (mask,), seed, 0.8) for seed in range(many, 2 * many)]
    assert all(np.array_equal(each, image) for each, _ in ready)  # nothing but warps is drawn
    images, masks = on_device(image, mask, [augmenter.stages(seed, 0.8) for seed in range(many, 2 * many)], CANVAS)

    def statistics(image: Pixels, mask: Pixels) -> list[float]:
        rows, columns = np.nonzero(mask == 2)
        fine = np.abs(np.diff(image.astype(float), axis=1)).mean()  # how sharp it is
        return [
            image.mean(),
            image.std(),
            fine,
            *((mask == label).mean() for label in range(3)),
            rows.mean(),
            columns.mean(),
        ]

    one = np.array([statistics(image, mask) for image, (mask,) in here])
    other = np.array([statistics(*pair) for pair in zip(images, masks, strict=True)])
    error = np.sqrt(one.var(axis=0) / many + other.var(axis=0) / many)
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 4 * error).all()
    assert one.std(axis=0) == pytest.approx(other.std(axis=0), rel=0.25)


ON_DEVICE = {
    "augment.policy": "randaugment",
    "augment.operations": ["rotate", "elastic", "flip"],
    "augment.device": "gpu",
}


def test_a_run_with_warps_on_its_device(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It resumes exactly, and does what it does with the warps in the loader."""
    whole, resumed, in_loader = (tmp_path / name for name in ("whole", "resumed", "loader"))
    run(spec_of(whole, shards, ON_DEVICE), worker())
    spec = spec_of(resumed, shards, ON_DEVICE)
    kill_at(5, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    run(spec, worker())
    assert_same_end(final(spec), final(spec_of(whole, shards)))
    run(spec_of(in_loader, shards, {**ON_DEVICE, "augment.device": "cpu"}), worker())
    here, there = (losses(final(spec_of(folder, shards))) for folder in (whole, in_loader))
    assert [loss for loss, _, _ in here] == pytest.approx([loss for loss, _, _ in there], abs=0.01)
    data = open_data(spec.config, ShardFolder.open(shards), worker())
    for batch in data.training(0, 3, lambda step: 0.0):
        on_its_device = data.warped(batch, 0.0, torch.device("cpu"))
        assert not torch.equal(on_its_device.images, batch.images)  # the loader left something to do
        assert on_its_device.images.is_contiguous(memory_format=torch.channels_last)
