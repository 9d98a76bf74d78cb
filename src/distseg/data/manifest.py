"""What a folder of shards says of itself: ``manifest.json`` and one ``NAME.index.jsonl`` a shard.

The manifest is written last, so a folder that has one is whole. An index gives every member's place in the tar, so a
sample is one read, and a CRC of every member, so that a damaged byte is seen where it is used. The folder is a local
one, or stands behind a URL and is reached through the node's cache.
"""

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from distseg.data import remote
from distseg.data.cache import ShardCache
from distseg.errors import DataError
from distseg.records import Value

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

MaskEncoding = Literal["png", "bits", "json"]
"""The file ending of a sample's labels. ``png``: PNG, 1 bit deep for two classes without an ignore label, 8 bits
otherwise. ``bits``: see data/codec.py. ``json``: the objects of task instance, see data/instances.py."""


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""In hexadecimal; a plain file name, which it becomes in a cache."""


class Member(Value):
    """One file inside a tar."""

    offset: Annotated[int, Field(ge=0)]
    """Bytes from the start of the tar to the member's first byte."""
    length: Annotated[int, Field(ge=0)]
    """Bytes."""
    crc32: int


class SampleEntry(Value):
    """One line of a shard's index."""

    key: str
    group: str
    fold: int | None
    source: str
    """Path of the raw image, relative to the packed folder, or its name."""
    size: tuple[int, int]
    """(width, height) in pixels as stored."""
    original_size: tuple[int, int]
    """(width, height) in pixels of the raw image."""
    members: dict[str, Member]
    """By file ending: ``jpg`` (image) and the mask encoding's (labels)."""


class Shard(Value):
    """One tar."""

    name: Annotated[str, Field(pattern=r"^(train|val|test)-[0-9]{6,9}\.tar$")]
    """A plain name: a manifest cannot make anybody read a file outside its folder."""
    split: Split
    samples: int
    fold_samples: tuple[int, ...] | None = None
    """Samples of each fold, where there are folds."""
    bytes: int
    sha256: Sha256
    index_sha256: Sha256


class GroupPlace(Value):
    """Where the samples of one group stand."""

    samples: dict[Split, int]
    """By split: one split, unless the folder's own split was kept and divides the group."""
    fold: int | None


class BadSample(Value):
    """A raw sample that was left out, or a stored one that cannot be read."""

    shard: str | None
    key: str
    reason: str


class Manifest(Value):
    """``manifest.json``."""

    format_version: int = FORMAT_VERSION
    task: str
    layout: str
    classes: tuple[str, ...]
    ignore_label: int | None
    size: tuple[int, int] | None
    """(width, height) of every stored sample in pixels; None: each keeps its original size."""
    mask_encoding: MaskEncoding
    shards: tuple[Shard, ...]
    class_pixels: dict[str, int]
    """Stored pixels per class name, and under ``ignore`` those of the ignore label; of task instance, its objects'."""
    vanished_instances: int = 0
    """Objects that were too small to have a pixel left at the stored size."""
    groups: dict[str, GroupPlace]
    folds: int | None
    seed: int
    split_leaky: bool = False
    """A given split was kept although groups stand on both of its sides."""
    data_digest: str
    """sha256 over the shards' digests: the same bytes, the same digest."""
    split_digest: str
    """sha256 over key -> (split, fold): rows with the same digest were measured on the same samples."""
    bad: tuple[BadSample, ...] = ()

    @cached_property
    def samples(self) -> dict[str, int]:
        """Stored samples per split."""
        return {split: sum(s.samples for s in self.shards if s.split == split) for split in SPLITS}

    @property
    def levels(self) -> int:
        """How many labels a stored mask may hold."""
        return len(self.classes) + (self.ignore_label is not None)

    def split_digest_of(self, fold: int | None) -> str:
        """Digest of what is validated on: the manifest's split, or one of its folds."""
        return self.split_digest if fold is None else f"{self.split_digest}-fold{fold}"


class ShardFolder:
    """Where shards stand and how to reach them, with their manifest."""

    def __init__(self, root: Path | str, manifest: Manifest, cache: ShardCache | None = None) -> None:
        self.root = root
        """Absolute path of a local folder, or a URL."""
        self.manifest = manifest
        self._cache = cache

    @classmethod
    def open(cls, root: Path | str, cache: ShardCache | None = None) -> "ShardFolder":
        """Reads the manifest in a local folder or behind an fsspec URL; DataError names what is wrong with it.

        ``cache`` takes copies of remote shards; local ones are read where they are, and need none.
        """
        where = locate(root)
        path = f"{where}/{MANIFEST_FILE}"
        if isinstance(where, Path):
            cache = None
            try:
                data = Path(path).read_bytes()
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be read ({error.strerror}); make shards with 'distseg data pack'"
                ) from error
        elif cache is None:
            raise DataError(f"{where}: a URL, here want a local folder; copy the shards to one")
        else:
            data = remote.read(path, cache.retry)
        try:
            tree = json.loads(data)
            version = tree.get("format_version") if isinstance(tree, dict) else None
            if version != FORMAT_VERSION:
                raise DataError(f"{path}: format version {version}, want {FORMAT_VERSION}; pack the data again")
            return cls(where, Manifest.model_validate(tree), cache)
        except ValueError as error:
            raise DataError(f"{path}: damaged manifest ({_first_line(error)}); pack the data again") from error

    def shard_path(self, shard: Shard) -> Path:
        """Of a shard in a local folder."""
        return Path(self.root) / shard.name

    def open_shard(self, shard: Shard) -> int:
        """A file descriptor of the tar, for the caller to close; DataError when it cannot be had.

        A remote shard is downloaded where the node has no copy, and the copy stays until the descriptor is closed.
        """
        return self._open(shard.name, shard.sha256, shard.bytes)

    def renew_copy(self, shard: Shard) -> bool:
        """Sees to it that the next open_shard gives a remote shard's own bytes; False for a local folder."""
        if self._cache is None:
            return False
        self._cache.drop_if_damaged(shard.sha256)
        return True

    def open_index(self, shard: Shard) -> int:
        """The same of the shard's index."""
        return self._open(index_path(Path(shard.name)).name, shard.index_sha256)

    def entries(self, shard: Shard) -> list[SampleEntry]:
        """The index of one shard; DataError when it does not match the manifest."""
        path = f"{self.root}/{index_path(Path(shard.name))}"
        try:
            data = self._index_bytes(shard)
            if self._cache is not None and hashlib.sha256(data).hexdigest() != shard.index_sha256:
                self._cache.drop_if_damaged(shard.index_sha256)
                data = self._index_bytes(shard)
            if hashlib.sha256(data).hexdigest() != shard.index_sha256:
                raise DataError(f"{path}: its sha256 is not the manifest's; pack the data again")
            entries = [SampleEntry.model_validate_json(line) for line in data.splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({_first_line(error)}); pack the data again") from error
        if len(entries) != shard.samples:
            raise DataError(f"{path}: {len(entries)} samples, manifest says {shard.samples}; pack the data again")
        return entries

    def _index_bytes(self, shard: Shard) -> bytes:
        with open(self.open_index(shard), "rb") as file:
            return file.read()

    def _open(self, name: str, sha256: str, size: int = 0) -> int:
        if self._cache is not None:
            return self._cache.open(f"{self.root}/{name}", sha256, size)
        path = Path(self.root) / name
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); pack the data again") from error


def is_url(place: Path | str) -> bool:
    """``s3://bucket/shards``, and whatever else fsspec takes for a URL."""
    return isinstance(place, str) and "://" in place


def locate(root: Path | str) -> Path | str:
    """The absolute path of a local folder; a URL as it is, less slashes at its end."""
    return str(root).rstrip("/") if is_url(root) else Path(root).resolve()


def index_path(tar: Path) -> Path:
    """``train-000000.tar`` -> ``train-000000.index.jsonl``."""
    return tar.with_suffix(".index.jsonl")


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r:.80}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
