"""The single operations that ``trivial``, ``randaugment`` and ``adaptive`` draw from, each at a given strength.

A strength in [-1, 1] says all: an operation at strength s does one fixed thing, so that chance stays in the drawing.
Those that know no direction take its absolute value.
"""

from collections.abc import Callable, Mapping

import albumentations as A
import cv2

from distseg.augment.canvas import Canvas
from distseg.augment.warps import Elastic, Grid, Optical

Operation = Callable[[float, Canvas], A.BasicTransform]
"""(strength in [-1, 1], canvas) -> a transform that is always applied."""


def _affine(canvas: Canvas, **change: object) -> A.BasicTransform:
    return A.Affine(p=1, **canvas.border, **change)


def _jitter(**change: float) -> A.BasicTransform:
    still = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    return A.ColorJitter(p=1, **still | {name: (value, value) for name, value in change.items()})


def crop(canvas: Canvas, area_min: float, area_max: float, stretch: float, p: float) -> A.BasicTransform:
    """A part of the picture's area, its sides' ratio changed by up to a factor of ``stretch``, at the whole size."""
    ratio = canvas.width / canvas.height
    return A.RandomResizedCrop(
        size=canvas.size,
        scale=(area_min, area_max),
        ratio=(ratio / stretch, ratio * stretch),
        # the default, INTER_NEAREST, takes the label at a pixel's top left corner: half a pixel beside the image's
        mask_interpolation=cv2.INTER_NEAREST_EXACT,
        p=p,
    )


def _shift(s: float, canvas: Canvas) -> A.BasicTransform:
    """Along either axis by up to |s| / 5 of the side."""
    reach = 0.2 * abs(s)
    return _affine(canvas, translate_percent={"x": (-reach, reach), "y": (-reach, reach)})


def _crop(s: float, canvas: Canvas) -> A.BasicTransform:
    return crop(canvas, 1 - 0.7 * abs(s), 1 - 0.7 * abs(s), 1 + 0.25 * abs(s), p=1)


def _perspective(s: float, canvas: Canvas) -> A.BasicTransform:
    return A.Perspective(scale=(0.12 * abs(s), 0.12 * abs(s)), p=1, **canvas.border)


def _elastic(s: float, canvas: Canvas) -> A.BasicTransform:
    return Elastic(shift=0.03 * abs(s) * canvas.side, smoothness=max(1.0, 0.08 * canvas.side), p=1, **canvas.border)


def _grid(s: float, canvas: Canvas) -> A.BasicTransform:
    return Grid(limit=0.6 * abs(s), p=1, **canvas.border)


def _compression(s: float, canvas: Canvas) -> A.BasicTransform:
    quality = round(95 - 80 * abs(s))
    return A.ImageCompression(quality_range=(quality, quality), p=1)


def _downscale(s: float, canvas: Canvas) -> A.BasicTransform:
    scale = 1 - 0.75 * abs(s)
    ways = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}
    return A.Downscale(scale_range=(scale, scale), interpolation_pair=ways, p=1)


OPERATIONS: Mapping[str, Operation] = {
    "flip": lambda s, canvas: A.HorizontalFlip(p=1),
    "vertical_flip": lambda s, canvas: A.VerticalFlip(p=1),
    "brightness": lambda s, canvas: _jitter(brightness=1 + 0.5 * s),
    "contrast": lambda s, canvas: _jitter(contrast=1 + 0.5 * s),
    "saturation": lambda s, canvas: _jitter(saturation=1 + 0.8 * s),
    "hue": lambda s, canvas: _jitter(hue=0.1 * s),
    "gamma": lambda s, canvas: A.RandomGamma(gamma_limit=(100 * 2**s, 100 * 2**s), p=1),
    "shift": _shift,
    "scale": lambda s, canvas: _affine(canvas, scale=2 ** (0.6 * s)),
    "rotate": lambda s, canvas: _affine(canvas, rotate=30 * s),
    "shear": lambda s, canvas: _affine(canvas, shear={"x": 20 * s, "y": 0}),
    "crop": _crop,
    "perspective": _perspective,
    "elastic": _elastic,
    "grid": _grid,
    "optical": lambda s, canvas: Optical(low=0.5 * s, high=0.5 * s, p=1, **canvas.border),
    "blur": lambda s, canvas: A.GaussianBlur(sigma_limit=(0.1 + 2.4 * abs(s),) * 2, blur_limit=0, p=1),
    "noise": lambda s, canvas: A.GaussNoise(std_range=(0.15 * abs(s),) * 2, p=1),
    "compression": _compression,
    "downscale": _downscale,
}
"""Name -> what it does at a strength. Lengths that are no part of the picture's side are pixels."""
