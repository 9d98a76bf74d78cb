"""The named augmentation policies, each one visible list of transforms over image and mask together.

Albumentations applies them (masks with nearest neighbour, so labels stay labels). Geometric fills repeat the mirrored
border: a black wedge would teach the network where pictures were turned.
"""

from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt

from distseg.errors import ConfigError

Pixels = npt.NDArray[np.uint8]
_MIRROR: dict[str, Any] = {"border_mode": cv2.BORDER_REFLECT_101}


def _flip() -> A.BasicTransform:
    return A.HorizontalFlip(p=0.5)


def _perspective(p: float) -> A.BasicTransform:
    return A.Perspective(scale=(0.02, 0.08), p=p, **_MIRROR)


def _jitter(p: float) -> A.BasicTransform:
    return A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.03, 0.03), p=p)


def _crop(size: tuple[int, int], p: float) -> A.BasicTransform:
    width, height = size
    # the default, INTER_NEAREST, takes the label at a pixel's top left corner: half a pixel beside the image's
    exact = {"mask_interpolation": cv2.INTER_NEAREST_EXACT}
    return A.RandomResizedCrop(size=(height, width), scale=(0.6, 1.0), ratio=(0.8, 1.25), p=p, **exact)


POLICIES: dict[str, Callable[[tuple[int, int]], Sequence[A.BasicTransform]]] = {
    "none": lambda size: [],
    "flip": lambda size: [_flip()],
    "crop": lambda size: [_crop(size, 1.0)],
    "perspective": lambda size: [_perspective(1.0)],
    "jitter": lambda size: [_jitter(1.0)],
    "all": lambda size: [_flip(), _crop(size, 0.5), _perspective(0.5), _jitter(0.5)],
    "flips_rotate": lambda size: [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.Rotate(limit=35, p=0.5, **_MIRROR),
    ],
}
"""Policy name -> transforms for images of (width, height) pixels."""


class Augmenter:
    """One policy at one image size.

    The result is a function of (image, mask, seed) alone: the library's generator is set anew before each sample.
    """

    def __init__(self, policy: str, size: tuple[int, int]) -> None:
        """``size``: (width, height) in pixels. ConfigError on an unknown policy."""
        if policy not in POLICIES:
            raise ConfigError(f"augment.policy: got '{policy}', want one of {', '.join(POLICIES)}")
        transforms = POLICIES[policy](size)
        self._compose = A.Compose(list(transforms), strict=True) if transforms else None

    def __call__(self, image: Pixels, mask: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Image (H, W, 3) uint8 RGB and label map (H, W) uint8, both augmented alike; sizes stay."""
        if self._compose is None:
            return image, mask
        self._compose.set_random_seed(seed)
        done = self._compose(image=image, mask=mask)
        return done["image"], done["mask"]
