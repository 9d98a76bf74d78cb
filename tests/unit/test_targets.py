"""From stored objects to what a detector learns from: boxes follow masks, empties go, crowds are left out."""

import numpy as np
import torch
from pycocotools import mask as coco

from distseg.augment.any_size import AnySizeAugmenter
from distseg.config import AugmentConfig
from distseg.data.layouts.base import Instance
from distseg.data.sizes import fitted
from distseg.data.targets import single_masks, targets_of


def mask_of(left: int, top: int, right: int, bottom: int, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size[::-1], np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def instance(mask: np.ndarray, label: int, crowd: bool = False) -> Instance:
    return Instance(label, coco.encode(np.asfortranarray(mask))["counts"].decode(), crowd)


def test_boxes_are_those_of_the_masks() -> None:
    size = (20, 10)
    masks = (mask_of(3, 2, 8, 9, size), mask_of(0, 0, 20, 10, size), mask_of(19, 9, 20, 10, size))
    targets = targets_of(masks, (2, 0, 1), size)
    assert targets.boxes.tolist() == [[3, 2, 8, 9], [0, 0, 20, 10], [19, 9, 20, 10]]
    assert targets.labels.tolist() == [2, 0, 1]
    assert (targets.boxes.dtype, targets.labels.dtype, targets.masks.dtype) == (
        torch.float32,
        torch.int64,
        torch.uint8,
    )


def test_empty_masks_are_dropped_with_their_labels() -> None:
    size = (6, 4)
    nothing = np.zeros((4, 6), np.uint8)
    targets = targets_of((nothing, mask_of(1, 1, 3, 2, size), nothing), (0, 1, 2), size)
    assert targets.boxes.tolist() == [[1, 1, 3, 2]]
    assert targets.labels.tolist() == [1]
    none = targets_of((nothing,), (0,), size)
    assert none.boxes.shape == (0, 4)
    assert none.masks.shape == (0, 4, 6)
    assert none.labels.shape == (0,)


def test_crowds_are_left_out_and_masks_are_scaled() -> None:
    stored = (40, 20)
    instances = [instance(mask_of(4, 4, 12, 8, stored), 1), instance(mask_of(0, 0, 40, 20, stored), 0, crowd=True)]
    masks, labels = single_masks(instances, stored, (20, 10))
    assert labels == (1,)
    np.testing.assert_array_equal(masks[0], mask_of(2, 2, 6, 4, (20, 10)))


def test_images_are_fitted_into_a_box_with_their_shape_kept() -> None:
    assert fitted(800, 600, 256, 256) == (256, 192)
    assert fitted(600, 800, 256, 256) == (192, 256)
    assert fitted(100, 50, 256, 256) == (256, 128)  # small ones grow
    assert fitted(800, 600, 400, 150) == (200, 150)
    assert fitted(1000, 1, 10, 10) == (10, 1)


def test_masks_move_with_their_image_at_any_size() -> None:
    """A white object on black: wherever a flip or a turn puts it, its mask must be the white of the image."""
    augmenter = AnySizeAugmenter(AugmentConfig(policy="flips_rotate"))
    for seed, size in enumerate([(64, 48), (48, 64), (64, 48), (90, 30)]):
        masks = (mask_of(5, 6, 20, 15, size), mask_of(25, 18, 40, 28, size))
        image = np.repeat(((masks[0] | masks[1]) * 255)[..., None], 3, axis=2)
        moved, both = augmenter(image, masks, seed=seed)
        assert moved.shape == image.shape
        white = moved[..., 0] > 127
        blank = white ^ ((both[0] | both[1]) > 0)
        # beyond the border stands grey (124), masks hold nothing there: nothing is shown twice
        assert blank.mean() < 0.02
        assert all(
            coco.area(coco.encode(np.asfortranarray(m))) <= 1.1 * n.sum() for m, n in zip(both, masks, strict=True)
        )
    assert AnySizeAugmenter(AugmentConfig(policy="none"))(image, (), seed=0)[1] == ()
