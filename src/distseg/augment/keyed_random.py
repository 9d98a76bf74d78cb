"""Random numbers that belong to a sample, not to a process.

Loader processes that draw from a generator of their own repeat one another's augmentations, or change them with the
number of processes. Here the seed is a function of what is augmented, so the pixels are too.
"""

import hashlib


def key_seed(seed: int, epoch: int, key: str) -> int:
    """A 32-bit seed from (run seed, epoch, sample key)."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
