"""A few samples to look at, of raw data or of shards, at the size that a network would see."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from distseg.augment.preview import Example
from distseg.data.cache import ShardCache
from distseg.data.codec import Pixels, resize_image, resize_labels
from distseg.data.instances import instance_mask
from distseg.data.layouts import guess_layout, read_corpus
from distseg.data.layouts.base import Instance, RawSample
from distseg.data.manifest import MANIFEST_FILE, ShardFolder, is_url
from distseg.data.raw_image import read_image
from distseg.data.stream import open_named_split
from distseg.errors import BadSampleError, DataError

Size = tuple[int, int]
Item = TypeVar("Item")
_RAW_SIDE = 256  # longer side of raw photographs where no size is given, pixels


def examples_of(source: str, layout: str | None, number: int, size: Size | None, cache: ShardCache) -> list[Example]:
    """Up to ``number`` samples, spread evenly over the data, so of different groups where there are as many.

    ``source``: shards (a folder with a manifest, or a URL), whose training samples are taken, or raw data of
    ``layout`` (None: as it looks). ``size``: (width, height); None: the stored size, and of raw data 256 pixels on the
    longer side of the first. DataError on data that cannot be read so.
    """
    if is_url(source) or (Path(source) / MANIFEST_FILE).is_file():
        if layout is not None:
            raise DataError(f"--layout {layout}: {source} holds shards, which need none; leave it out")
        return _of_shards(ShardFolder.open(source, cache), number, size)
    folder = Path(source)
    return _of_raw(folder, layout or guess_layout(folder), number, size)


def _of_shards(folder: ShardFolder, number: int, size: Size | None) -> list[Example]:
    reader = open_named_split(folder, "train")
    manifest = folder.manifest
    unmarked = _unmarked(manifest.task, manifest.ignore_label)
    found: list[Example] = []
    by_group = sorted(range(len(reader)), key=lambda position: reader.place(position)[1].key)
    for position in _spread(by_group, number):
        try:
            sample = reader.read(position)
        except BadSampleError as problem:
            key = reader.place(position)[1].key
            raise DataError(f"{folder.root}: sample '{key}': {problem.reason}; pack the data again") from problem
        labels = _labels(sample.mask, sample.instances, sample.entry.size)
        size = size or sample.entry.size
        found.append(_example(sample.entry.key, sample.image, labels, unmarked, size))
    return found


def _of_raw(source: Path, layout: str, number: int, size: Size | None) -> list[Example]:
    corpus = read_corpus(layout, source)
    unmarked = _unmarked(corpus.task, corpus.ignore_label)
    found: list[Example] = []
    for raw in _spread(sorted(corpus.samples, key=lambda sample: sample.key), number):
        image = _read(raw)
        shown = image.shape[1], image.shape[0]
        mask = None if raw.mask is None else raw.mask.read()
        labels = _labels(mask, None if raw.instances is None else raw.instances.read(), shown)
        size = size or _scaled(shown)
        found.append(_example(raw.key, image, labels, unmarked, size))
    return found


def _read(raw: RawSample) -> Pixels:
    try:
        return np.ascontiguousarray(read_image(raw.image).pixels[..., ::-1])  # BGR -> RGB
    except BadSampleError as problem:
        raise DataError(f"{raw.image}: {problem.reason}; mend or remove it") from problem


def _labels(mask: Pixels | None, instances: Sequence[Instance] | None, size: Size) -> tuple[Pixels, ...]:
    return (mask,) if mask is not None else tuple(instance_mask(one, size) for one in instances or ())


def _example(key: str, image: Pixels, labels: tuple[Pixels, ...], unmarked: frozenset[int], size: Size) -> Example:
    small = tuple(resize_labels(mask, size) for mask in labels)
    return Example(key, resize_image(image, size), small, unmarked)


def _unmarked(task: str, ignore_label: int | None) -> frozenset[int]:
    """Background, of two classes or of an object's mask, and void; of several classes, class 0 is one of them."""
    background = set() if task == "multiclass" else {0}
    return frozenset(background if ignore_label is None else background | {ignore_label})


def _scaled(size: Size) -> Size:
    width, height = size
    scale = min(1.0, _RAW_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _spread(items: Sequence[Item], number: int) -> list[Item]:
    number = min(number, len(items))
    return [items[(2 * place + 1) * len(items) // (2 * number)] for place in range(number)]
