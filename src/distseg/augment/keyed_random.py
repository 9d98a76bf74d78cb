"""Random numbers that belong to a sample, not to a process.

Loader processes that draw from a generator of their own repeat one another's augmentations, or change them with the
number of processes. Here the seed is a function of what is augmented, so the pixels are too.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Augmenter = Callable[[Pixels, Pixels, int], tuple[Pixels, Pixels]]
"""(image (H, W, 3), mask (H, W), 32-bit seed) -> the same, augmented by the seed alone."""


def key_seed(seed: int, epoch: int, key: str) -> int:
    """A 32-bit seed from (run seed, epoch, sample key)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


class KeyedAugment:
    """An augmenter seeded for each sample from (run seed, epoch, sample key)."""

    def __init__(self, augmenter: Augmenter, seed: int) -> None:
        self._augmenter = augmenter
        self._seed = seed

    def __call__(self, image: Pixels, mask: Pixels, epoch: int, key: str) -> tuple[Pixels, Pixels]:
        return self._augmenter(image, mask, key_seed(self._seed, epoch, key))
