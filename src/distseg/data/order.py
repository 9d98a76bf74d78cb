"""Which sample is read when: pure arithmetic on sizes, seed and epoch.

One list for all: the shards are shuffled, then the samples within each window of shards. Global batch k of an epoch is
a slice of that list, and a rank takes its slice of the batch, so the order of training does not depend on how many
ranks or loader processes there are. (MosaicML Streaming partitions by ranks first; its order depends on them.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


def permutation(length: int, *key: int) -> Positions:
    """A permutation of range(length) that depends on ``key`` alone, on every platform and numpy version.

    Sorting raw words of a counter-based generator keeps that promise; ``Generator.permutation`` does not make it.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(words, kind="stable")


def epoch_order(shard_sizes: Sequence[int], seed: int, epoch: int, window: int) -> Positions:
    """All samples of one epoch, each once: positions in 0..sum(shard_sizes)-1, counted shard after shard.

    ``window``: samples are shuffled within this many (shuffled) shards, which bounds how many shards are open at once.
    """
    starts = np.concatenate([[0], np.cumsum(shard_sizes)]).astype(np.int64)
    shards = permutation(len(shard_sizes), seed, epoch)
    parts = []
    for first in range(0, len(shards), window):
        ranges = [np.arange(starts[shard], starts[shard + 1]) for shard in shards[first : first + window]]
        samples = np.concatenate(ranges)
        parts.append(samples[permutation(len(samples), seed, epoch, first + 1)])
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


@dataclass(frozen=True)
class EpochPlan:
    """How the samples of one split become global batches, the same for any number of ranks."""

    shard_sizes: tuple[int, ...]
    """Samples of each shard that take part."""
    batch_global: int
    seed: int
    window: int
    tail: Literal["wrap", "drop"]
    """When samples do not fill the last batch: ``wrap`` fills it from the epoch's start, ``drop`` omits it."""

    @property
    def samples(self) -> int:
        return sum(self.shard_sizes)

    @property
    def steps(self) -> int:
        """Global batches per epoch, the same on every rank."""
        whole, rest = divmod(self.samples, self.batch_global)
        return whole + (1 if rest and self.tail == "wrap" else 0)

    @property
    def surplus(self) -> int:
        """Samples seen twice in each epoch (positive, ``wrap``) or left out of it (negative, ``drop``)."""
        return self.steps * self.batch_global - self.samples

    def positions(self, step: int) -> tuple[int, Positions]:
        """Epoch and positions in the epoch's list of global batch ``step``, which counts over all epochs."""
        epoch, batch = divmod(step, self.steps)
        return epoch, np.arange(batch * self.batch_global, (batch + 1) * self.batch_global)

    def order(self, epoch: int) -> Positions:
        """The epoch's list."""
        return _cached_order(self.shard_sizes, self.seed, epoch, self.window)


@lru_cache(maxsize=2)
def _cached_order(shard_sizes: tuple[int, ...], seed: int, epoch: int, window: int) -> Positions:
    # A loader works on one epoch, and on the next one while it reads ahead.
    return epoch_order(shard_sizes, seed, epoch, window)


def rank_slice(batch_global: int, rank: int, world_size: int) -> slice:
    """The part of a global batch that a rank takes; parts differ by at most one sample.

    With world_size <= batch_global no part is empty.
    """
    return slice(rank * batch_global // world_size, (rank + 1) * batch_global // world_size)
