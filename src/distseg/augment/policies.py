"""The named augmentation policies, each one visible definition over image and masks together.

Albumentations applies them (masks with nearest neighbour, so labels stay labels). Warps come last, composed into one
resampling (``augment/warps.py``). Beyond the border stands the picture mirrored unless the config says otherwise: a
black wedge would teach the network where pictures were turned.

A policy is either a fixed list of transforms, each with its probability, or a rule that draws single operations at
strengths:

- ``trivial``: TrivialAugment (Mueller and Hutter 2021), one operation at a random strength;
- ``randaugment``: RandAugment (Cubuk et al. 2020), ``n`` operations at strength ``m``;
- ``adaptive``: at a level in [0, 1] that follows the training error (``augment/adaptive.py``): more often, more of
  them, and stronger. At level 1 with ``stack_max=1`` it is ``trivial``.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence

import albumentations as A
import cv2
import numpy as np

from distseg.augment.canvas import Canvas
from distseg.augment.keyed_random import Pixels, SeededRandom
from distseg.augment.operations import OPERATIONS, crop
from distseg.augment.warps import Elastic, Grid, Optical, Stage, draw_stage, is_warp, warp
from distseg.config import AugmentConfig
from distseg.errors import ConfigError

Drawn = Sequence[tuple[str, float]]
"""Operations and their strengths in [0, 1], in the order of application."""
Rule = Callable[[AugmentConfig, random.Random, float], Drawn]
"""(numbers, random numbers, level) -> what is done to one sample."""
Transforms = Sequence[A.BasicTransform]
Fixed = Callable[[AugmentConfig, Canvas], Transforms]

_BINS = 20  # strengths are rounded to so many parts: transforms are built once, 0.15 ms each


class _HalfTurn(A.RandomRotate90):  # type: ignore[misc]
    """The quarter turns of a picture that is not square: by 180 degrees, so that its size stays."""

    def get_params(self) -> dict[str, int]:
        return {"factor": 2}


def _flip(p: float) -> A.BasicTransform:
    return A.HorizontalFlip(p=p)


def _crop(cfg: AugmentConfig, canvas: Canvas, p: float) -> A.BasicTransform:
    return crop(canvas, cfg.crop.area_min, 1.0, 1.25, p)


def _perspective(cfg: AugmentConfig, canvas: Canvas, p: float) -> A.BasicTransform:
    reach = cfg.perspective.reach
    return A.Perspective(scale=(reach / 4, reach), p=p, **canvas.border)


def _jitter(cfg: AugmentConfig, p: float) -> A.BasicTransform:
    jitter = cfg.jitter
    factors = {name: (1 - x, 1 + x) for name, x in jitter if name in ("brightness", "contrast", "saturation")}
    return A.ColorJitter(**factors, hue=(-jitter.hue, jitter.hue), p=p)


def _all(cfg: AugmentConfig, canvas: Canvas) -> Transforms:
    return [
        _flip(cfg.all.flip_p),
        _crop(cfg, canvas, cfg.all.crop_p),
        _perspective(cfg, canvas, cfg.all.perspective_p),
        _jitter(cfg, cfg.all.jitter_p),
    ]


def _flips_rotate(cfg: AugmentConfig, canvas: Canvas) -> Transforms:
    part = cfg.flips_rotate
    return [
        A.HorizontalFlip(p=part.horizontal_p),
        A.VerticalFlip(p=part.vertical_p),
        A.Affine(rotate=(-part.degrees, part.degrees), p=part.rotate_p, **canvas.border),
    ]


def _nine(cfg: AugmentConfig, canvas: Canvas) -> Transforms:
    part, border = cfg.nine, canvas.border
    turn = A.RandomRotate90 if canvas.width == canvas.height else _HalfTurn
    return [
        A.HorizontalFlip(p=part.horizontal_p),
        A.VerticalFlip(p=part.vertical_p),
        turn(p=part.rotate90_p),
        A.GaussianBlur(sigma_limit=(min(0.1, part.blur_sigma), part.blur_sigma), blur_limit=0, p=part.blur_p),
        A.GaussNoise(std_range=(0, part.noise_std), p=part.noise_p),
        A.Affine(  # ShiftScaleRotate is deprecated in its favour
            translate_percent={"x": (-part.shift, part.shift), "y": (-part.shift, part.shift)},
            scale=(1 - part.scale, 1 + part.scale),
            rotate=(-part.degrees, part.degrees),
            balanced_scale=True,
            p=part.shift_scale_rotate_p,
            **border,
        ),
        Elastic(
            shift=part.elastic_shift * canvas.side,
            smoothness=max(1.0, part.elastic_smoothness * canvas.side),
            p=part.elastic_p,
            **border,
        ),
        Optical(low=-part.optical_limit, high=part.optical_limit, p=part.optical_p, **border),
        Grid(limit=part.grid_limit, p=part.grid_p, **border),
    ]


def _quality(cfg: AugmentConfig, canvas: Canvas) -> Transforms:
    part = cfg.quality
    ways = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}
    return [
        A.ImageCompression(quality_range=(part.jpeg_quality_min, 100), p=part.compression_p),
        A.HorizontalFlip(p=part.horizontal_p),
        A.VerticalFlip(p=part.vertical_p),
        A.OneOf(
            [
                A.Downscale(scale_range=(part.downscale_min, 0.99), interpolation_pair=ways, p=1),
                A.GaussianBlur(sigma_limit=(min(0.1, part.blur_sigma), part.blur_sigma), blur_limit=0, p=1),
            ],
            p=part.soften_p,
        ),
    ]


def draw_trivial(cfg: AugmentConfig, chance: random.Random, level: float) -> Drawn:
    """One operation at a strength drawn evenly."""
    return [(chance.choice(cfg.operations), chance.random() * cfg.trivial.strength_max)]


def draw_randaugment(cfg: AugmentConfig, chance: random.Random, level: float) -> Drawn:
    """``n`` operations, each at strength ``m``."""
    return [(name, cfg.randaugment.m / 10) for name in chance.choices(cfg.operations, k=cfg.randaugment.n)]


def draw_adaptive(cfg: AugmentConfig, chance: random.Random, level: float) -> Drawn:
    """With L the level in [0, 1] and k = ``stack_max``:

    - a sample is augmented with probability L * ``probability_max``;
    - if so, by 1 + floor(u * (1 + L * (k - 1))) different operations, u drawn evenly from [0, 1);
    - each at a strength drawn evenly from [0, L * ``strength_max``];
    - drawn from the first ceil(L * n) of the n operations in their order or, with ``weights``, from all by weight.
    """
    part = cfg.adaptive
    if chance.random() >= level * part.probability_max:
        return []
    count = 1 + int(chance.random() * (1 + level * (part.stack_max - 1)))
    if part.weights is None:
        names = chance.sample(cfg.operations, len(cfg.operations))
        open_ones = set(cfg.operations[: max(1, math.ceil(level * len(cfg.operations)))])
        names = [name for name in names if name in open_ones]
    else:  # without replacement (Efraimidis and Spirakis 2006): the largest of u ** (1 / weight)
        rank = {
            name: chance.random() ** (1 / weight)
            for name, weight in zip(cfg.operations, part.weights, strict=True)
            if weight
        }
        names = sorted(rank, key=lambda name: -rank[name])
    return [(name, chance.random() * level * part.strength_max) for name in names[:count]]


FIXED: Mapping[str, Fixed] = {
    "none": lambda cfg, canvas: [],
    "flip": lambda cfg, canvas: [_flip(cfg.flip.p)],
    "crop": lambda cfg, canvas: [_crop(cfg, canvas, cfg.crop.p)],
    "perspective": lambda cfg, canvas: [_perspective(cfg, canvas, cfg.perspective.p)],
    "jitter": lambda cfg, canvas: [_jitter(cfg, cfg.jitter.p)],
    "all": _all,
    "flips_rotate": _flips_rotate,
    "nine": _nine,
    "quality": _quality,
}
RULES: Mapping[str, Rule] = {
    "trivial": draw_trivial,
    "randaugment": draw_randaugment,
    "adaptive": draw_adaptive,
}
POLICIES: Mapping[str, Fixed | Rule] = {**FIXED, **RULES}
"""All policies, by name."""


class Augmenter:
    """One policy at one image size.

    The result is a function of (image, masks, seed, level) alone: random numbers start anew at each sample. Warps come
    last, and from random numbers of their own, so that they can also be drawn by themselves, to be applied elsewhere.
    """

    def __init__(self, cfg: AugmentConfig, size: tuple[int, int], blank_label: int | None = None) -> None:
        """``size``: (width, height) in pixels; ``blank_label``: of masks beyond the border, where ``fill`` is blank.

        ConfigError on an unknown policy or operation, and on a blank fill without a label for it.
        """
        if cfg.policy not in POLICIES:
            raise ConfigError(f"augment.policy: got '{cfg.policy}', want one of {', '.join(POLICIES)}")
        for name in cfg.operations:
            if name not in OPERATIONS:
                raise ConfigError(f"augment.operations: got '{name}', want some of {', '.join(OPERATIONS)}")
        if cfg.fill == "blank" and blank_label is None:
            raise ConfigError("augment.fill: got 'blank', but the data have no ignore label; set augment.fill=mirror")
        self._cfg = cfg
        self.canvas = Canvas(*size, blank_label if cfg.fill == "blank" else None)
        self._chance, self._warp_chance = SeededRandom(), SeededRandom()
        fixed = FIXED.get(cfg.policy)
        self._fixed = None if fixed is None else _parted(self._built(fixed(cfg, self.canvas)))
        self._at_strength: dict[tuple[str, int], A.BasicTransform] = {}

    def __call__(
        self, image: Pixels, masks: tuple[Pixels, ...], seed: int, level: float = 0.0
    ) -> tuple[Pixels, tuple[Pixels, ...]]:
        """Image (H, W, 3) uint8 RGB and any number of masks (H, W) uint8, all augmented alike; sizes stay.

        ``seed``: 32 bits. ``level``: in [0, 1], for policy ``adaptive``; the others do not look at it.
        """
        pixelwise, warps = self._started(seed, level)
        image, masks = _applied(pixelwise, image, masks)
        return warp(image, masks, self._drawn_stages(warps, seed), self.canvas)

    def before_warps(
        self, image: Pixels, masks: tuple[Pixels, ...], seed: int, level: float = 0.0
    ) -> tuple[Pixels, tuple[Pixels, ...]]:
        """As the whole, but for the warps: with ``stages`` and ``warp`` it is the whole."""
        return _applied(self._started(seed, level)[0], image, masks)

    def stages(self, seed: int, level: float = 0.0) -> list[Stage]:
        """The warps of a sample, in the order of application."""
        return self._drawn_stages(self._started(seed, level)[1], seed)

    def _drawn_stages(self, warps: Transforms, seed: int) -> list[Stage]:
        if not warps:
            return []
        self._warp_chance.start(seed + 2**32)
        return [draw_stage(transform, self.canvas.size) for transform in warps if transform.should_apply()]

    def _started(self, seed: int, level: float) -> tuple[Transforms, Transforms]:
        """The transforms of a sample, warps apart, the others' random numbers at the beginning."""
        self._chance.start(seed)
        if self._fixed is not None:
            return self._fixed
        chance = self._chance.python
        drawn = RULES[self._cfg.policy](self._cfg, chance, level)
        return _parted([self._operation(name, round(_BINS * s) * chance.choice((-1, 1))) for name, s in drawn])

    def _operation(self, name: str, strength_bin: int) -> A.BasicTransform:
        built = self._at_strength.get((name, strength_bin))
        if built is None:
            (built,) = self._built([OPERATIONS[name](strength_bin / _BINS, self.canvas)])
            self._at_strength[name, strength_bin] = built
        return built

    def _built(self, transforms: Transforms) -> Transforms:
        """The transforms, their arguments checked, drawing from this augmenter's random numbers.

        They are called one by one: composing checks sizes at each sample, which costs as much as seeding. And they
        share one stream: the library's own seeding starts each transform at the same numbers, so that flips with
        p = 0.5 each came always together or not at all.
        """
        for transform in A.Compose(list(transforms), strict=True).transforms:
            chance = self._warp_chance if is_warp(transform) else self._chance
            transform.set_random_state(chance.numpy, chance.python)
        return list(transforms)


def _parted(transforms: Transforms) -> tuple[Transforms, Transforms]:
    """Those that are no warps, and the warps."""
    return [each for each in transforms if not is_warp(each)], [each for each in transforms if is_warp(each)]


def _applied(transforms: Transforms, image: Pixels, masks: tuple[Pixels, ...]) -> tuple[Pixels, tuple[Pixels, ...]]:
    if len(masks) == 1:  # the library's way with stacks costs more than a flip
        done = {"image": image, "mask": masks[0]}
        for transform in transforms:
            done = transform(**done)
        return done["image"], (done["mask"],)
    done = {"image": image, "masks": np.stack(masks)} if masks else {"image": image}
    for transform in transforms:
        done = transform(**done)
    return done["image"], tuple(done["masks"]) if masks else ()
