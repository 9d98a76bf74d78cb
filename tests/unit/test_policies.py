"""Augmentation: sizes and labels stay, image and mask move together, and the seed alone decides."""

import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.augment.canvas import Canvas
from distseg.augment.keyed_random import key_seed
from distseg.augment.operations import OPERATIONS
from distseg.augment.policies import POLICIES, Augmenter, Pixels
from distseg.augment.warps import Elastic, sources
from distseg.config import AugmentConfig
from distseg.errors import ConfigError

SIZE = WIDTH, HEIGHT = 72, 48
MOVING = sorted(POLICIES.keys() - {"none"})
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
def test_shapes_dtypes_and_labels_stay(policy: str) -> None:
    augmenter = Augmenter(AugmentConfig(policy=policy), SIZE)

    @settings(max_examples=40)
    @given(
        labels=st.lists(st.integers(0, 255), min_size=1, max_size=12, unique=True),
        seed=st.integers(0, 2**32 - 1),
        level=st.floats(0, 1),
        masks=st.integers(1, 3),
    )
    def check(labels: list[int], seed: int, level: float, masks: int) -> None:
        image, mask = pair(tuple(labels))
        new_image, new_masks = augmenter(image.copy(), (mask.copy(),) * masks, seed, level)
        assert (new_image.shape, new_image.dtype) == (image.shape, np.uint8)
        assert len(new_masks) == masks
        for new_mask in new_masks:
            assert (new_mask.shape, new_mask.dtype) == (mask.shape, np.uint8)
            assert set(np.unique(new_mask).tolist()) <= set(labels)  # a crop may lose a band, nothing may blend two

    check()


@pytest.mark.parametrize("policy", ["all", "nine", "adaptive"])
def test_the_masks_of_an_image_move_as_one_label_map_does(policy: str) -> None:
    """Objects of an image, each with its mask, or none: their boxes are drawn around these afterwards."""
    augmenter = Augmenter(AugmentConfig(policy=policy), SIZE)
    image, bands = pair((0, 1, 2, 3))
    for seed in range(20):
        whole_image, (whole,) = augmenter(image, (bands,), seed, LEVEL)
        many_image, many = augmenter(image, tuple((bands == label).astype(np.uint8) for label in range(4)), seed, LEVEL)
        empty_image, empty = augmenter(image, (), seed, LEVEL)
        assert empty == ()
        for other in (many_image, empty_image):
            np.testing.assert_array_equal(other, whole_image)
        for label, mask in enumerate(many):
            np.testing.assert_array_equal(mask, whole == label)


def test_probabilities_are_independent() -> None:
    """The library's own seeding starts every transform at the same numbers: both flips or none."""
    augmenter = Augmenter(
        AugmentConfig.model_validate({"policy": "flips_rotate", "flips_rotate": {"rotate_p": 0}}), SIZE
    )
    image, mask = pair()
    outcomes = {
        "none": image,
        "horizontal": image[:, ::-1],
        "vertical": image[::-1],
        "both": image[::-1, ::-1],
    }
    counted = Counter(
        name
        for seed in range(400)
        for name, wanted in outcomes.items()
        if np.array_equal(augmenter(image, (mask,), key_seed(0, 0, str(seed)))[0], wanted)
    )
    assert counted.total() == 400
    assert all(70 < counted[name] < 130 for name in outcomes)  # 100 each, give or take three standard deviations


@pytest.mark.parametrize(
    ("numbers", "moving"),
    [
        ({"policy": "flip", "flip": {"p": 1.0}}, 40),
        ({"policy": "flip", "flip": {"p": 0.0}}, 0),
        ({"policy": "jitter", "jitter": {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}}, 0),
        ({"policy": "all", "all": {"flip_p": 0, "crop_p": 0, "perspective_p": 0, "jitter_p": 0}}, 0),
        ({"policy": "randaugment", "operations": ["rotate", "brightness"], "randaugment": {"n": 1, "m": 0}}, 0),
        ({"policy": "randaugment", "operations": ["rotate", "brightness"], "randaugment": {"n": 1, "m": 1}}, 40),
        ({"policy": "trivial", "operations": ["shear"], "trivial": {"strength_max": 0}}, 0),
        ({"policy": "adaptive", "adaptive": {"probability_max": 0}}, 0),
        ({"policy": "adaptive", "operations": ["flip"]}, 36),  # at level 0.9
    ],
    ids=str,
)
def test_the_numbers_of_a_policy_count(numbers: dict[str, Any], moving: int) -> None:
    augmenter = Augmenter(AugmentConfig.model_validate(numbers), SIZE)
    image, mask = pair()
    moved = sum(not np.array_equal(augmenter(image, (mask,), seed, LEVEL)[0], image) for seed in range(40))
    assert moved == pytest.approx(moving, abs=6 if 0 < moving < 40 else 0)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_does_more_the_stronger_it_is(name: str) -> None:
    image, mask = painted()
    image = cv2.GaussianBlur(image + np.random.default_rng(1).integers(0, 40, image.shape, np.uint8), (3, 3), 0)
    changed = []
    for strength in (0.0, 0.25, 1.0):
        transform = OPERATIONS[name](strength, Canvas(*SIZE))
        transform.set_random_seed(3)
        done = [transform(image=image, mask=mask) for _ in range(12)]
        changed.append(np.mean([np.abs(each["image"].astype(int) - image).mean() for each in done]))
        assert all(set(np.unique(each["mask"]).tolist()) <= {0, 1} for each in done)
    if name in ("flip", "vertical_flip"):
        assert changed[0] == changed[1] == changed[2] > 0
    else:
        assert changed[0] < 3  # of 255: a file's compression at its best is no identity
        assert changed[0] < changed[1] < changed[2]


def test_the_elastic_field_is_that_of_noise_smoothed_at_every_pixel() -> None:
    """Displacements drawn on a coarse grid against the plain way: standard deviation, and correlation with distance."""
    shift, sigma, size = 3.0, 9.0, (120, 96)
    elastic = Elastic(shift, sigma)
    coarse, plain = [], []
    for seed in range(60):
        elastic.set_random_seed(seed)
        x, y = sources([elastic.draw(size)], size)
        coarse.append(np.stack([x - np.arange(size[1]), y - np.arange(size[0])[:, None]]))
        noise = np.random.default_rng(1000 + seed).standard_normal((2, size[0] + 80, size[1] + 80), np.float32)
        smooth = np.stack([cv2.GaussianBlur(each, (0, 0), sigma)[40:-40, 40:-40] for each in noise])
        plain.append(smooth * shift * 2 * np.sqrt(np.pi) * sigma)  # smoothing leaves 1 / (2 sqrt(pi) sigma)
    for distance in (0, 3, 9, 18):
        of = []
        for fields in (np.stack(coarse), np.stack(plain)):
            apart = fields[..., distance:] * fields[..., : fields.shape[3] - distance]
            of.append(apart.mean() / shift**2)
        # two displacements d apart correlate by exp(-d^2 / (4 sigma^2)): 1, 0.97, 0.78, 0.37
        assert of == pytest.approx([np.exp(-(distance**2) / (4 * sigma**2))] * 2, abs=0.05)
    fields = np.stack(coarse)
    assert abs((fields[:, 0] * fields[:, 1]).mean()) / shift**2 < 0.05  # x and y know nothing of each other
    assert abs(fields.mean()) < 0.2
    kurtosis = (fields**4).mean() / (fields**2).mean() ** 2
    assert kurtosis == pytest.approx(3, abs=0.3)  # of a normal distribution


def test_blank_fill_takes_the_ignore_label() -> None:
    image, mask = np.full((HEIGHT, WIDTH, 3), 255, np.uint8), np.ones((HEIGHT, WIDTH), np.uint8)
    cfg = {"policy": "trivial", "operations": ["rotate"], "fill": "blank"}
    augmenter = Augmenter(AugmentConfig.model_validate(cfg), SIZE, blank_label=11)
    blank = 0
    for seed in range(20):
        new_image, (new_mask,) = augmenter(image, (mask,), seed)
        assert set(np.unique(new_mask).tolist()) <= {1, 11}
        for label, colour in ((1, (255, 255, 255)), (11, (124, 116, 104))):  # between them colours are blended
            inside = cv2.erode((new_mask == label).astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
            assert (new_image[inside] == colour).all()
        blank += int((new_mask == 11).sum())
    assert blank > 0
    with pytest.raises(ConfigError, match=r"augment\.fill: got 'blank', but the data have no ignore label"):
        Augmenter(AugmentConfig.model_validate(cfg), SIZE)


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
    augment = augment_one(policy, (2 * WIDTH, 2 * HEIGHT))
    image, mask = (each.repeat(2, axis=0).repeat(2, axis=1) for each in painted())
    moved = 0
    overlaps = []
    for seed in range(30):
        new_image, new_mask = augment(image, mask, seed)
        grey = new_image.mean(axis=2)
        seen = grey > (grey.max() + grey.min()) / 2  # whatever the jitter did to both levels
        overlaps.append((seen & (new_mask > 0)).sum() / (seen | (new_mask > 0)).sum())
        moved += not np.array_equal(mask, new_mask)
    assert min(overlaps) > 0.9  # a disc of 28 pixels: a border of half a pixel is 4 % of its area
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
    for policy in sorted(POLICIES.keys()):
        augment = augment_one(policy)
        for seed in range(20):
            new_image, new_mask = augment(image, mask, seed)
            assert new_mask.min() == 1, policy
            if policy in ("perspective", "flips_rotate", "crop"):  # those that leave colours alone
                assert new_image.min() == 255, policy
            assert new_image.min() > 60, policy


def test_an_unknown_policy_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"augment\.policy: got 'flop', want one of none, flip, crop") as caught:
        Augmenter(AugmentConfig(policy="flop"), SIZE)
    assert all(name in str(caught.value) for name in POLICIES)
    assert "\n" not in str(caught.value)


def test_an_unknown_operation_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"augment\.operations: got 'flop', want some of flip, vertical_flip"):
        Augmenter(AugmentConfig(operations=("flip", "flop")), SIZE)


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
