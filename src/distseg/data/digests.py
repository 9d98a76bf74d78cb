"""Digests that name stored data: equal digests, equal bytes or equal splits."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from distseg.data.manifest import Shard


def data_digest(shards: Iterable[Shard]) -> str:
    """sha256 over a line ``name sha256`` for each shard, in the manifest's order."""
    return _of_lines(f"{shard.name} {shard.sha256}" for shard in shards)


def split_digest(places: Iterable[tuple[str, str, int | None]]) -> str:
    """sha256 over the sorted lines ``key split fold`` of all samples; no fold is written ``-``."""
    return _of_lines(sorted(f"{key} {split} {'-' if fold is None else fold}" for key, split, fold in places))


def file_digest(path: Path) -> str:
    """sha256 of a whole file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
