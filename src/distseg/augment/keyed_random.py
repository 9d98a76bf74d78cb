"""Random numbers that belong to a sample, not to a process.

Loader processes that draw from a generator of their own repeat one another's augmentations, or change them with the
number of processes. Here the seed is a function of what is augmented, so the pixels are too.
"""

import hashlib
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Augmenter = Callable[[Pixels, tuple[Pixels, ...], int, float], tuple[Pixels, tuple[Pixels, ...]]]
"""(image (H, W, 3), masks (H, W) each, 32-bit seed, level) -> the same, augmented by seed and level alone."""


def key_seed(seed: int, epoch: int, key: str) -> int:
    """A 32-bit seed from (run seed, epoch, sample key)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


class SeededRandom:
    """Python's and numpy's generators, started anew again and again in 5 microseconds, not built anew in 40."""

    def __init__(self) -> None:
        self.python = random.Random(0)
        self.numpy = np.random.Generator(np.random.PCG64(0))
        self._state = self.numpy.bit_generator.state

    def start(self, seed: int) -> None:
        """Both generators, as if they had drawn nothing before."""
        self.python.seed(seed)
        # PCG64's neighbouring states draw alike at first; those of hashed seeds are no neighbours
        digest = hashlib.blake2b(seed.to_bytes(8, "big"), digest_size=16).digest()
        self._state["state"]["state"] = int.from_bytes(digest, "big")
        self.numpy.bit_generator.state = self._state


class KeyedAugment:
    """An augmenter seeded for each sample from (run seed, epoch, sample key)."""

    def __init__(self, augmenter: Augmenter, seed: int) -> None:
        self._augmenter = augmenter
        self._seed = seed

    def __call__(
        self, image: Pixels, masks: tuple[Pixels, ...], epoch: int, key: str, level: float
    ) -> tuple[Pixels, tuple[Pixels, ...]]:
        return self._augmenter(image, masks, key_seed(self._seed, epoch, key), level)
