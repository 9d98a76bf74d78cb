"""Shards to batches: one ``pread`` a sample, whole uint8 batches assembled in the loader process.

A training batch is a pure function of (manifest, plan, augmentation, step); loader processes only compute it ahead.
So resuming is starting at another step, and no state travels between processes.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from distseg.data.codec import decode_image, decode_mask, resize_pair
from distseg.data.manifest import BadSample, SampleEntry, Shard, ShardFolder
from distseg.data.order import EpochPlan, rank_slice
from distseg.errors import BadSampleError, DataError, DistsegError

Pixels = npt.NDArray[np.uint8]
Augment = Callable[[Pixels, Pixels, int, str], tuple[Pixels, Pixels]]
"""(image (H, W, 3), mask (H, W), epoch, key) -> the same, augmented."""

_OPEN_FILES_MAX = 64  # a shuffle window is smaller; a process may open some 1000
_REPLACEMENTS_MAX = 100  # a run of this many unusable samples is no accident: the shard is gone


@dataclass(frozen=True)
class Sample:
    """One decoded sample."""

    entry: SampleEntry
    image: Pixels
    """(H, W, 3) uint8 RGB."""
    mask: Pixels
    """(H, W) uint8 class indices."""


@dataclass(frozen=True)
class Batch:
    """A rank's share of a global batch."""

    images: torch.Tensor
    """(B, 3, H, W) uint8 RGB, laid out channels-last."""
    masks: torch.Tensor
    """(B, H, W) uint8 class indices."""
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    step: int
    """Global step (training) or number of the batch (validation)."""
    bad: tuple[BadSample, ...] = ()
    """Samples that could not be used here; training batches hold others in their place."""

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader's pinning thread."""
        return replace(self, images=self.images.pin_memory(), masks=self.masks.pin_memory())


class ShardReader:
    """Random access to the samples of some shards, in a fixed order. Files are opened on first use, per process."""

    def __init__(self, folder: ShardFolder, shards: Sequence[Shard], keep: Callable[[SampleEntry], bool]) -> None:
        self._folder = folder
        self._encoding = folder.manifest.mask_encoding
        self._classes = len(folder.manifest.classes)
        self._ignore_label = folder.manifest.ignore_label
        self._samples: list[tuple[Shard, SampleEntry]] = []
        sizes = []
        for shard in shards:
            kept = [entry for entry in folder.entries(shard) if keep(entry)]
            self._samples += [(shard, entry) for entry in kept]
            sizes.append(len(kept))
        self.shard_sizes = tuple(size for size in sizes if size)
        self._files: dict[str, int] = {}  # most recently used last

    def __len__(self) -> int:
        return len(self._samples)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # file descriptors stay in the process that opened them

    def place(self, position: int) -> tuple[Shard, SampleEntry]:
        return self._samples[position]

    def read(self, position: int) -> Sample:
        """Decodes one sample; BadSampleError when its bytes or pixels are not what the manifest says."""
        shard, entry = self._samples[position]
        image = decode_image(self._member(shard, entry, "jpg"))
        mask = decode_mask(self._member(shard, entry, self._encoding), self._encoding, self._classes)
        width, height = entry.size
        if image.shape != (height, width, 3):
            raise BadSampleError(f"image is {image.shape[1]}x{image.shape[0]}, index says {width}x{height}")
        if mask.shape != (height, width):
            raise BadSampleError(f"mask is {mask.shape[1]}x{mask.shape[0]}, image is {width}x{height}")
        labels = mask if self._ignore_label is None else mask[mask != self._ignore_label]
        if labels.size and int(labels.max()) >= self._classes:
            raise BadSampleError(f"label {labels.max()} out of range 0..{self._classes - 1}")
        return Sample(entry, image, mask)

    def _member(self, shard: Shard, entry: SampleEntry, ending: str) -> bytes:
        member = entry.members.get(ending)
        if member is None:
            raise BadSampleError(f"no .{ending} member")
        if member.offset + member.length > shard.bytes:  # before memory is taken for it
            raise BadSampleError(f".{ending}: index places it beyond the end of the shard ({shard.bytes} bytes)")
        data = os.pread(self._file(shard), member.length, member.offset)
        if len(data) != member.length:
            raise BadSampleError(f".{ending}: shard ends after {len(data)} of {member.length} bytes")
        if zlib.crc32(data) != member.crc32:
            raise BadSampleError(f".{ending}: bytes differ from those packed (CRC)")
        return data

    def _file(self, shard: Shard) -> int:
        file = self._files.pop(shard.name, None)
        if file is None:
            path = self._folder.shard_path(shard)
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DataError(f"{path}: cannot be opened ({error.strerror}); pack the data again") from error
            if len(self._files) == _OPEN_FILES_MAX:
                os.close(self._files.pop(next(iter(self._files))))
        self._files[shard.name] = file
        return file


def open_split(folder: ShardFolder, *, training: bool, fold: int | None) -> ShardReader:
    """The training or validation samples: by the manifest's split, or by ``fold`` when one is chosen.

    A fold spans train and val: validation is the fold, training all the other folds.
    """
    manifest = folder.manifest
    if fold is not None:
        if manifest.folds is None or fold >= manifest.folds:
            got = "no folds" if manifest.folds is None else f"folds 0..{manifest.folds - 1}"
            raise DataError(f"data.fold={fold}: {folder.root} has {got}; pack with '--folds K' and K > {fold}")
        shards = [shard for shard in manifest.shards if shard.split in ("train", "val")]
        return _checked_reader(folder, shards, lambda entry: (entry.fold == fold) != training)
    return open_named_split(folder, "train" if training else "val")


def open_named_split(folder: ShardFolder, split: str) -> ShardReader:
    """All samples of ``train``, ``val`` or ``test``; DataError when there are none."""
    shards = [shard for shard in folder.manifest.shards if shard.split == split]
    if not shards:
        raise DataError(f"{folder.root}: no sample in split '{split}'; pack again with a fraction for it")
    return _checked_reader(folder, shards, lambda entry: True)


def _checked_reader(folder: ShardFolder, shards: Sequence[Shard], keep: Callable[[SampleEntry], bool]) -> ShardReader:
    for shard in shards:
        folder.check_index(shard)
    return ShardReader(folder, shards, keep)


class TrainBatches(Dataset[Batch]):
    """Item ``step`` is this rank's share of global batch ``step``, counted over all epochs."""

    def __init__(
        self,
        reader: ShardReader,
        plan: EpochPlan,
        *,
        size: tuple[int, int],
        augment: Augment,
        rank: int,
        world_size: int,
    ) -> None:
        self._reader = reader
        self._plan = plan
        self._size = size
        self._augment = augment
        self._mine = rank_slice(plan.batch_global, rank, world_size)

    def __getitem__(self, step: int) -> Batch:
        epoch, positions = self._plan.positions(step)
        order = self._plan.order(epoch)
        samples, bad = [], []
        for position in positions[self._mine]:
            sample, skipped = self._usable(order, int(position))
            image, mask = resize_pair(sample.image, sample.mask, self._size)
            image, mask = self._augment(image, mask, epoch, sample.entry.key)
            samples.append(replace(sample, image=image, mask=mask))
            bad += skipped
        return collate(samples, step, bad)

    def _usable(self, order: npt.NDArray[np.int64], position: int) -> tuple[Sample, list[BadSample]]:
        """The sample at a position of the epoch's list or, when it is bad, the next good one after it.

        Replacing keeps all ranks at the same number of batches, and the next position is a pure function of the first.
        """
        bad: list[BadSample] = []
        for offset in range(_REPLACEMENTS_MAX):
            index = int(order[(position + offset) % len(order)])
            try:
                return self._reader.read(index), bad
            except BadSampleError as error:
                shard, entry = self._reader.place(index)
                bad.append(BadSample(shard=shard.name, key=entry.key, reason=error.reason))
        last = bad[-1]
        raise DataError(
            f"{_REPLACEMENTS_MAX} samples in a row cannot be used; last: shard {last.shard}, sample {last.key}: "
            f"{last.reason}; check the shards with 'distseg data verify'"
        )


class EvalBatches(Dataset[Batch]):
    """A rank's samples of a split, each once and none twice, in batches of equal stored size.

    Rank r takes samples r, r + world_size, ...; ranks may have different numbers of batches. A bad sample is left out
    and reported: a score counts only what was measured.
    """

    def __init__(self, reader: ShardReader, *, batch: int, rank: int, world_size: int) -> None:
        self._reader = reader
        by_size: dict[tuple[int, int], list[int]] = {}
        for position in range(rank, len(reader), world_size):
            by_size.setdefault(reader.place(position)[1].size, []).append(position)
        self._batches = [
            positions[first : first + batch]
            for positions in by_size.values()
            for first in range(0, len(positions), batch)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        samples, bad = [], []
        for position in self._batches[number]:
            try:
                samples.append(self._reader.read(position))
            except BadSampleError as error:
                shard, entry = self._reader.place(position)
                bad.append(BadSample(shard=shard.name, key=entry.key, reason=error.reason))
        return collate(samples, number, bad)


def collate(samples: Sequence[Sample], step: int, bad: Sequence[BadSample]) -> Batch:
    """Samples of one size to a batch, copied once into preallocated tensors."""
    height, width = samples[0].mask.shape if samples else (0, 0)
    images = torch.empty((len(samples), height, width, 3), dtype=torch.uint8)
    masks = torch.empty((len(samples), height, width), dtype=torch.uint8)
    for number, sample in enumerate(samples):
        images[number].numpy()[:] = sample.image
        masks[number].numpy()[:] = sample.mask
    return Batch(
        images=images.permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W): channels-last without a copy
        masks=masks,
        keys=tuple(sample.entry.key for sample in samples),
        groups=tuple(sample.entry.group for sample in samples),
        step=step,
        bad=tuple(bad),
    )


def batch_loader(
    batches: Dataset[Batch], items: Sequence[int], *, workers: int, prefetch: int, pin: bool
) -> Iterable[Batch]:
    """The batches with these numbers, in this order, each time it is iterated.

    ``workers`` processes compute ahead and live as long as the loader; 0 computes in this process.
    """
    return _RaisingLoader(
        DataLoader(
            _ErrorsAsItems(batches),
            batch_size=None,
            sampler=items,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin,
            # fork would copy the threads of torch and ray in whatever state they are
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_start_loader_process,
        )
    )


class _ErrorsAsItems(Dataset[Batch | DistsegError]):
    """Our own errors travel as values: torch puts a loader process's whole traceback in the message of one raised."""

    def __init__(self, batches: Dataset[Batch]) -> None:
        self._batches = batches

    def __getitem__(self, item: int) -> Batch | DistsegError:
        try:
            return self._batches[item]
        except DistsegError as error:
            return error


class _RaisingLoader:
    """Raises the errors that arrive as items."""

    def __init__(self, items: Iterable[Batch | DistsegError]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Batch]:
        for item in self._items:
            if isinstance(item, DistsegError):
                raise item
            yield item


def _start_loader_process(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
