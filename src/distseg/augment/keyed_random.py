"""Random numbers that belong to a sample, not to a process.

Loader processes that draw from a generator of their own repeat one another's augmentations, or change them with the
number of processes. Here the seed is a function of what is augmented, so the pixels are too.
"""

import hashlib
import random
import struct
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


class HashedRandom(random.Random):
    """Python's random numbers, drawn from hashes of (seed, block).

    The Mersenne Twister that stands behind ``random.Random`` fills 624 words when it is seeded, which takes a fifth of
    the time of a flip.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self._seed, self._block = 0, 0
        self._next_word: Callable[[], int] = iter(()).__next__

    def start(self, seed: int) -> int:
        """As if nothing had been drawn before; returns 128 random bits for another generator."""
        self._seed, self._block = seed, 0
        self.gauss_next = None  # the second number of a pair that ``gauss`` keeps
        first, second, *words = _words(seed, 0)
        self._next_word = iter(words).__next__
        return first << 64 | second

    def random(self) -> float:
        """Evenly from [0, 1), 53 bits; all other draws come from it."""
        try:
            word = self._next_word()
        except StopIteration:
            self._block += 1
            self._next_word = iter(_words(self._seed, self._block)).__next__
            word = self._next_word()
        return (word >> 11) * 2**-53

    def __reduce__(self) -> tuple[type["HashedRandom"], tuple[()]]:
        return HashedRandom, ()  # what was drawn belongs to a sample, and the next one starts anew


class SeededRandom:
    """Python's and numpy's generators, started anew at each sample in 3 microseconds, not built anew in 40."""

    def __init__(self) -> None:
        self.python = HashedRandom()
        self.numpy = np.random.Generator(np.random.PCG64(0))
        self._state = self.numpy.bit_generator.state

    def start(self, seed: int) -> None:
        """Both generators, as if they had drawn nothing before; ``seed`` of at most 64 bits."""
        self._state["state"]["state"] = self.python.start(seed)
        self.numpy.bit_generator.state = self._state


def _words(seed: int, block: int) -> tuple[int, ...]:
    """Eight words of 64 bits."""
    return struct.unpack("<8Q", hashlib.blake2b(struct.pack("<QQ", seed, block)).digest())


class KeyedAugment:
    """An augmenter seeded for each sample from (run seed, epoch, sample key)."""

    def __init__(self, augmenter: Augmenter, seed: int) -> None:
        self._augmenter = augmenter
        self._seed = seed

    def __call__(
        self, image: Pixels, masks: tuple[Pixels, ...], epoch: int, key: str, level: float
    ) -> tuple[Pixels, tuple[Pixels, ...]]:
        return self._augmenter(image, masks, key_seed(self._seed, epoch, key), level)
