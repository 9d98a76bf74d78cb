"""Augmentation: sizes and labels stay, image and mask move together, and the seed alone decides."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from distseg.augment.keyed_random import key_seed
from distseg.augment.policies import POLICIES, Augmenter, Pixels
from distseg.config import AugmentConfig
from distseg.errors import ConfigError

SIZE = WIDTH, HEIGHT = 72, 48
MOVING = sorted(POLICIES.keys() - {"none"})
COLOURS = ("jitter",)
"""Policies that leave the mask as it is."""
LEVEL = 0.9


def augment_one(policy: str, size: tuple[int, int] = SIZE) -> Callable[[Pixels, Pixels, int], tuple[Pixels, Pixels]]:
    """A policy as a function of one image, one mask and a seed."""
    augmenter = Augmenter(AugmentConfig(policy=policy), size)

    def augment(image: Pixels, mask: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        new_image, (new_mask,) = augmenter(image, (mask,), seed, LEVEL)
        return new_image, new_mask

    return augment


def pair(labels: tuple[int, ...] = (0, 1)) -> tuple[Pixels, Pixels]:
    """Noise, and a mask of upright bands, one a label."""
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    bands = np.array(labels, np.uint8)[np.arange(WIDTH) * len(labels) // WIDTH]
    return image, np.tile(bands, (HEIGHT, 1))


def painted() -> tuple[Pixels, Pixels]:
    """A disc off the centre, and the picture that shows it: the image is the mask, 200 on 40."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = (np.hypot(x - 30, y - 20) < 14).astype(np.uint8)
    return np.repeat(np.where(mask, 200, 40).astype(np.uint8)[:, :, None], 3, axis=2), mask


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("labels", [(0, 1), (0,), tuple(range(12)), (0, 3, 255)], ids=str)
def test_shapes_dtypes_and_labels_stay(policy: str, labels: tuple[int, ...]) -> None:
    augment = augment_one(policy)
    image, mask = pair(labels)
    for seed in range(15):
        new_image, new_mask = augment(image.copy(), mask.copy(), seed)
        assert (new_image.shape, new_image.dtype) == (image.shape, np.uint8)
        assert (new_mask.shape, new_mask.dtype) == (mask.shape, np.uint8)
        assert set(np.unique(new_mask).tolist()) <= set(labels)  # a crop may lose a band, nothing may blend two


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_seed_alone_decides(policy: str) -> None:
    image, mask = pair(tuple(range(12)))
    one = Augmenter(AugmentConfig(policy=policy), SIZE)
    other = pickle.loads(pickle.dumps(one))
    seeds = [0, 1, 7, 2**32 - 1]
    first = [one(image.copy(), (mask.copy(),), seed, LEVEL) for seed in seeds]
    np.random.seed(3)  # what others draw changes nothing
    again = [other(image.copy(), (mask.copy(),), seed, LEVEL) for seed in reversed(seeds)][::-1]
    for (image_1, (mask_1,)), (image_2, (mask_2,)) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image_1, image_2)
        np.testing.assert_array_equal(mask_1, mask_2)


@pytest.mark.parametrize("policy", MOVING)
def test_other_seeds_give_other_pixels(policy: str) -> None:
    augment = augment_one(policy)
    image, mask = pair()
    seen = {augment(image.copy(), mask.copy(), seed)[0].tobytes() for seed in range(40)}
    # a single flip has two outcomes; three of four by chance: flips x turns have many
    assert len(seen) == 2 if policy == "flip" else len(seen) >= 15


def test_none_changes_nothing() -> None:
    image, mask = pair()
    new_image, new_mask = augment_one("none")(image, mask, 5)
    np.testing.assert_array_equal(new_image, pair()[0])
    np.testing.assert_array_equal(new_mask, pair()[1])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_what_is_given_is_not_written_to(policy: str) -> None:
    image, mask = pair()
    for array in (image, mask):
        array.setflags(write=False)
    augment = augment_one(policy)
    for seed in range(10):
        augment(image, mask, seed)
    np.testing.assert_array_equal(image, pair()[0])


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_image_and_mask_move_together(policy: str) -> None:
    augment = augment_one(policy)
    image, mask = painted()
    moved = 0
    overlaps = []
    for seed in range(30):
        new_image, new_mask = augment(image, mask, seed)
        grey = new_image.mean(axis=2)
        seen = grey > (grey.max() + grey.min()) / 2  # whatever the jitter did to both levels
        overlaps.append((seen & (new_mask > 0)).sum() / (seen | (new_mask > 0)).sum())
        moved += not np.array_equal(mask, new_mask)
    assert min(overlaps) > 0.9  # a disc of 14 pixels: a border of half a pixel is 7 % of its area
    assert np.mean(overlaps) > 0.95
    assert moved == 0 if policy in ("none", "jitter") else moved >= 10


@pytest.mark.parametrize("policy", [name for name in MOVING if name != "jitter"])
def test_the_mask_stays_on_the_centre_of_the_image(policy: str) -> None:
    """The centroid of what the image shows against that of the mask: a shift by half a pixel is seen."""
    augment = augment_one(policy, (WIDTH * 4, HEIGHT * 4))
    y, x = np.mgrid[: HEIGHT * 4, : WIDTH * 4]
    mask = (np.hypot(x - 144, y - 96) < 40).astype(np.uint8)
    image = np.repeat(255 * mask[:, :, None], 3, axis=2)
    shifts = []
    for seed in range(30):
        new_image, new_mask = augment(image, mask, seed)
        seen, true = np.argwhere(new_image[:, :, 0] > 127).mean(axis=0), np.argwhere(new_mask).mean(axis=0)
        shifts.append(seen - true)
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.1  # pixels


def test_the_fill_is_the_mirrored_border_and_no_wedge() -> None:
    image, mask = np.full((HEIGHT, WIDTH, 3), 255, np.uint8), np.ones((HEIGHT, WIDTH), np.uint8)
    for policy in ("perspective", "flips_rotate", "crop"):
        augment = augment_one(policy)
        for seed in range(20):
            new_image, new_mask = augment(image, mask, seed)
            assert new_image.min() == 255, policy
            assert new_mask.min() == 1, policy


def test_an_unknown_policy_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"augment\.policy: got 'flop', want one of none, flip, crop") as caught:
        Augmenter(AugmentConfig(policy="flop"), SIZE)
    assert all(name in str(caught.value) for name in POLICIES)
    assert "\n" not in str(caught.value)


def test_key_seed_is_pinned() -> None:
    # Literals: another function would break resumed runs.
    assert [key_seed(0, 0, "a"), key_seed(0, 1, "a"), key_seed(1, 0, "a"), key_seed(0, 0, "b")] == [
        3418887292,
        742599927,
        1369720082,
        2759977970,
    ]


def test_key_seed_tells_its_parts_apart() -> None:
    seeds = {key_seed(seed, epoch, key) for seed in range(12) for epoch in range(12) for key in ("1", "11", "1/1", "")}
    assert len(seeds) == 12 * 12 * 4
    assert all(0 <= seed < 2**32 for seed in seeds)
