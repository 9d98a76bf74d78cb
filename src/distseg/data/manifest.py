"""What a folder of shards says of itself: ``manifest.json`` and one ``NAME.index.jsonl`` a shard.

The manifest is written last, so a folder that has one is whole. An index gives every member's place in the tar, so a
sample is one read, and a CRC of every member, so that a damaged byte is seen where it is used.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from distseg.errors import DataError
from distseg.records import Value

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

MaskEncoding = Literal["png", "bits"]
"""``png``: PNG, 1 bit deep for two classes, 8 bits otherwise. ``bits``: see data/codec.py."""


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
    """By file ending: ``jpg`` (image) and ``png`` or ``bits`` (label map)."""


class Shard(Value):
    """One tar."""

    name: str
    split: Split
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


class GroupPlace(Value):
    """Where all the samples of one group stand."""

    split: Split
    fold: int | None
    samples: int


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
    """Stored pixels per class name, and under ``ignore`` those of the ignore label."""
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

    def split_digest_of(self, fold: int | None) -> str:
        """Digest of what is validated on: the manifest's split, or one of its folds."""
        return self.split_digest if fold is None else f"{self.split_digest}-fold{fold}"


class ShardFolder:
    """Shards in a local folder, opened for reading."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, root: Path | str) -> "ShardFolder":
        """Reads the manifest; DataError names what is wrong with the folder."""
        folder = Path(root).resolve()
        path = folder / MANIFEST_FILE
        try:
            tree = json.loads(path.read_text())
            version = tree.get("format_version") if isinstance(tree, dict) else None
            if version != FORMAT_VERSION:
                raise DataError(f"{path}: format version {version}, want {FORMAT_VERSION}; pack the data again")
            return cls(folder, Manifest.model_validate(tree))
        except FileNotFoundError as error:
            raise DataError(f"{folder}: no {MANIFEST_FILE}; make shards with 'distseg data pack'") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); give the folder of the shards") from error
        except (ValidationError, ValueError) as error:
            raise DataError(f"{path}: damaged manifest ({_first_line(error)}); pack the data again") from error

    def shard_path(self, shard: Shard) -> Path:
        return self.root / shard.name

    def check_index(self, shard: Shard) -> None:
        """DataError when the bytes of a shard's index are not those packed: its CRCs guard no key and no group."""
        path = index_path(self.root / shard.name)
        try:
            same = hashlib.sha256(path.read_bytes()).hexdigest() == shard.index_sha256
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); pack the data again") from error
        if not same:
            raise DataError(f"{path}: bytes differ from those packed (sha256); pack the data again")

    def entries(self, shard: Shard) -> list[SampleEntry]:
        """The index of one shard; DataError when it does not match the manifest."""
        path = index_path(self.root / shard.name)
        try:
            entries = [SampleEntry.model_validate_json(line) for line in path.read_bytes().splitlines()]
        except (OSError, ValidationError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({_first_line(error)}); pack the data again") from error
        if len(entries) != shard.samples:
            raise DataError(f"{path}: {len(entries)} samples, manifest says {shard.samples}; pack the data again")
        return entries


def index_path(tar: Path) -> Path:
    """``train-000000.tar`` -> ``train-000000.index.jsonl``."""
    return tar.with_suffix(".index.jsonl")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
