"""Shards to batches: one ``pread`` a sample, whole uint8 batches assembled in the loader process.

A training batch is a pure function of (manifest, plan, augmentation, step); loader processes only compute it ahead.
So resuming is starting at another step, and no state travels between processes. What is held does not grow with the
data set: a shard's index is read when one of its samples is.
"""

import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import util
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from distseg.data.codec import Pixels, check_labels, decode_image, decode_mask, resize_image, resize_pair
from distseg.data.instances import decode_instances
from distseg.data.layouts.base import Instance
from distseg.data.manifest import BadSample, Member, SampleEntry, Shard, ShardFolder
from distseg.data.order import EpochPlan, rank_slice
from distseg.data.processes import start_helper
from distseg.data.sizes import fitted
from distseg.data.targets import Targets, single_masks, targets_of
from distseg.errors import BadSampleError, DataError, DistsegError

Augment = Callable[[Pixels, tuple[Pixels, ...], int, str, float], tuple[Pixels, tuple[Pixels, ...]]]
"""(image (H, W, 3), masks (H, W) each, epoch, key, level) -> the same, augmented."""

_INDEXES_MAX = 65  # the widest shuffle window that a config may ask for, and the shard after it
_REPLACEMENTS_MAX = 100  # a run of this many unusable samples is no accident: the shard is gone
_GAP_BYTES_MAX = 1 << 16  # between two members; packing leaves a header and some padding


@dataclass(frozen=True)
class Sample:
    """One decoded sample, with a mask or, of task instance, with objects."""

    entry: SampleEntry
    image: Pixels
    """(H, W, 3) uint8 RGB."""
    mask: Pixels | None
    """(H, W) uint8 class indices, maybe read-only."""
    instances: tuple[Instance, ...] | None


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

    def copy(self) -> "Batch":
        """The same in memory of its own."""
        # by numpy: torch's clone is three times slower here
        images = torch.from_numpy(self.images.permute(0, 2, 3, 1).numpy().copy())
        return replace(self, images=images.permute(0, 3, 1, 2), masks=torch.from_numpy(self.masks.numpy().copy()))


@dataclass(frozen=True)
class InstanceTrainBatch:
    """A rank's share of a global batch of task instance, ready to learn from; its images differ in size."""

    images: tuple[torch.Tensor, ...]
    """Of each sample, (3, H, W) uint8 RGB, laid out channels-last."""
    targets: tuple[Targets, ...]
    """Of each sample, its objects."""
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    step: int
    """Global step."""
    bad: tuple[BadSample, ...] = ()
    """Samples that could not be used here, and in whose place others stand."""

    def pin_memory(self) -> "InstanceTrainBatch":
        """Called by the DataLoader's pinning thread."""
        images = tuple(image.pin_memory() for image in self.images)
        return replace(self, images=images, targets=tuple(one.pin_memory() for one in self.targets))


@dataclass(frozen=True)
class InstanceBatch:
    """A rank's samples of task instance as stored, to measure; its images differ in size."""

    images: tuple[torch.Tensor, ...]
    """Of each sample, (3, H, W) uint8 RGB, laid out channels-last."""
    instances: tuple[tuple[Instance, ...], ...]
    """Of each sample, its objects, as run lengths of its image."""
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    step: int
    """Number of the batch."""
    bad: tuple[BadSample, ...] = ()
    """Samples that could not be used here."""

    def pin_memory(self) -> "InstanceBatch":
        """Called by the DataLoader's pinning thread."""
        return replace(self, images=tuple(image.pin_memory() for image in self.images))


class ShardReader:
    """Random access to the samples of some shards, in a fixed order.

    Files are opened and indexes read on first use, per process; the most recently used stay.
    """

    def __init__(
        self, folder: ShardFolder, shards: Sequence[Shard], folds: frozenset[int] | None = None, window: int = 1
    ) -> None:
        """``folds``: only the samples of these folds take part.

        ``window``: how many shards are read in turns. One more stays open, as a batch may reach into the next window;
        not all, since a remote shard that is open cannot leave the node's cache.
        """
        self._open_max = window + 1
        self._renewed: set[str] = set()  # shards whose copies were looked at
        self._files: dict[str, int] = {}  # most recently used last
        self._folder = folder
        self._encoding = folder.manifest.mask_encoding
        self._classes = len(folder.manifest.classes)
        self._levels = folder.manifest.levels
        self._ignore_label = folder.manifest.ignore_label
        self._folds = folds
        sizes = {shard.name: _taking_part(shard, folds) for shard in shards}
        self._shards = [shard for shard in shards if sizes[shard.name]]
        self.shard_sizes = tuple(sizes[shard.name] for shard in self._shards)
        self._ends = np.cumsum(self.shard_sizes)
        self._indexes: dict[str, list[SampleEntry]] = {}  # most recently used last

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file)

    def __len__(self) -> int:
        return sum(self.shard_sizes)

    def __getstate__(self) -> dict[str, Any]:
        # file descriptors stay in the process that opened them
        return {**self.__dict__, "_files": {}, "_indexes": {}}

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) of every sample in pixels; None when they differ."""
        return self._folder.manifest.size

    def place(self, position: int) -> tuple[Shard, SampleEntry]:
        """Where a sample stands; DataError when its shard's index is not what the manifest says."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        shard = self._shards[number]
        return shard, self._index(shard)[position - int(self._ends[number])]  # counted from the end: below 0

    def read(self, position: int) -> Sample:
        """Decodes one sample; BadSampleError when its bytes or pixels are not what the manifest says."""
        shard, entry = self.place(position)
        if "." in entry.key:
            raise BadSampleError("its key holds a dot; WebDataset takes what follows for the member's ending")
        jpg, labels = self._members(shard, entry)
        image = decode_image(jpg, entry.size)
        if self._encoding == "json":
            return Sample(entry, image, None, decode_instances(labels, entry.size, self._classes))
        mask = decode_mask(labels, self._encoding, self._levels, entry.size)
        check_labels(mask, self._classes, self._ignore_label)
        return Sample(entry, image, mask, None)

    def _index(self, shard: Shard) -> list[SampleEntry]:
        """Those entries of a shard that take part."""
        entries = self._indexes.pop(shard.name, None)
        if entries is None:
            entries = [e for e in self._folder.entries(shard) if self._folds is None or e.fold in self._folds]
            wanted = _taking_part(shard, self._folds)
            if len(entries) != wanted:
                raise DataError(
                    f"{shard.name}: index has {len(entries)} samples of these folds, manifest says {wanted}; "
                    "pack the data again"
                )
            if len(self._indexes) == _INDEXES_MAX:
                self._indexes.pop(next(iter(self._indexes)))
        self._indexes[shard.name] = entries
        return entries

    def _members(self, shard: Shard, entry: SampleEntry) -> tuple[bytes, bytes]:
        """The bytes of image and labels; where a node's copy is damaged, once a shard, those of a new copy."""
        try:
            return self._stored_members(shard, entry)
        except BadSampleError:
            if shard.name in self._renewed or not self._folder.renew_copy(shard):
                raise
        self._renewed.add(shard.name)
        file = self._files.pop(shard.name, None)
        if file is not None:
            os.close(file)
        return self._stored_members(shard, entry)

    def _stored_members(self, shard: Shard, entry: SampleEntry) -> tuple[bytes, bytes]:
        """The bytes of image and labels, in one read where they are neighbours, as packing leaves them."""
        image, labels = (_member(shard, entry, ending) for ending in ("jpg", self._encoding))
        start = min(image.offset, labels.offset)
        end = max(image.offset + image.length, labels.offset + labels.length)
        if end > shard.bytes:  # before memory is taken for it
            raise BadSampleError(f"index places it beyond the end of the shard ({shard.bytes} bytes)")
        if end - start <= image.length + labels.length + _GAP_BYTES_MAX:
            data = _read_at(self._file(shard), end - start, start)
            parts = [data[member.offset - start :][: member.length] for member in (image, labels)]
        else:
            parts = [_read_at(self._file(shard), member.length, member.offset) for member in (image, labels)]
        for part, member, ending in zip(parts, (image, labels), ("jpg", self._encoding), strict=True):
            if len(part) != member.length:
                raise BadSampleError(f".{ending}: shard ends after {len(part)} of {member.length} bytes")
            if zlib.crc32(part) != member.crc32:
                raise BadSampleError(f".{ending}: bytes differ from those packed (CRC)")
        return parts[0], parts[1]

    def _file(self, shard: Shard) -> int:
        file = self._files.pop(shard.name, None)
        if file is None:
            if len(self._files) == self._open_max:
                os.close(self._files.pop(next(iter(self._files))))
            file = self._folder.open_shard(shard)
        self._files[shard.name] = file
        return file


def _taking_part(shard: Shard, folds: frozenset[int] | None) -> int:
    """Samples of a shard that are in these folds."""
    if folds is None:
        return shard.samples
    return sum(number for fold, number in enumerate(shard.fold_samples or ()) if fold in folds)


def _read_at(file: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(file, length, offset)
    except OSError as error:  # a bad block of the disk, a file server that lost the file
        raise BadSampleError(f"cannot be read ({error.strerror})") from error


def _member(shard: Shard, entry: SampleEntry, ending: str) -> Member:
    member = entry.members.get(ending)
    if member is None:
        raise BadSampleError(f"no .{ending} member")
    if member.offset + member.length > shard.bytes:  # before memory is taken for it
        raise BadSampleError(f".{ending}: index places it beyond the end of the shard ({shard.bytes} bytes)")
    return member


def open_split(folder: ShardFolder, *, training: bool, fold: int | None, window: int = 1) -> ShardReader:
    """The training or validation samples: by the manifest's split, or by ``fold`` when one is chosen.

    A fold spans train and val: validation is the fold, training all the other folds. ``window``: how many shards are
    read in turns, as the plan's.
    """
    manifest = folder.manifest
    if fold is not None:
        if manifest.folds is None or fold >= manifest.folds:
            got = "no folds" if manifest.folds is None else f"folds 0..{manifest.folds - 1}"
            raise DataError(f"data.fold={fold}: {folder.root} has {got}; pack with '--folds K' and K > {fold}")
        shards = [shard for shard in manifest.shards if shard.split in ("train", "val")]
        others = frozenset(range(manifest.folds)) - {fold}
        return ShardReader(folder, shards, others if training else frozenset({fold}), window)
    return open_named_split(folder, "train" if training else "val", window)


def open_named_split(folder: ShardFolder, split: str, window: int = 1) -> ShardReader:
    """All samples of ``train``, ``val`` or ``test``; DataError when there are none."""
    shards = [shard for shard in folder.manifest.shards if shard.split == split]
    if not shards:
        raise DataError(f"{folder.root}: no sample in split '{split}'; pack again with a fraction for it")
    return ShardReader(folder, shards, window=window)


class PlannedBatches(Dataset[Batch]):
    """Batches whose size is known beforehand, so that they can be written into memory that is there already."""

    batch_bytes: int
    """Of the largest batch."""

    def into(self, memory: torch.Tensor, item: Any) -> Batch:
        """The batch with this number, its tensors parts of ``memory`` (at least batch_bytes of uint8)."""
        raise NotImplementedError

    def __getitem__(self, item: Any) -> Batch:
        return self.into(torch.empty(self.batch_bytes, dtype=torch.uint8), item)


class TrainBatches(PlannedBatches):
    """Item ``step`` is this rank's share of global batch ``step``, counted over all epochs.

    An item may also be (step, augmentation level): loader processes then learn the level of each batch with its number,
    however they were started and however far they read ahead.
    """

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
        self._samples = self._mine.stop - self._mine.start
        self.batch_bytes = _batch_bytes(self._samples, size)

    def into(self, memory: torch.Tensor, item: int | tuple[int, float]) -> Batch:
        step, level = item if isinstance(item, tuple) else (item, 0.0)
        buffer = _BatchBuffer(memory, self._samples, self._size)
        bad: list[BadSample] = []
        epoch, _ = self._plan.positions(step)
        for sample in _training_samples(self._reader, self._plan, step, self._mine, bad):
            assert sample.mask is not None
            image, mask = resize_pair(sample.image, sample.mask, self._size)
            image, (mask,) = self._augment(image, (mask,), epoch, sample.entry.key, level)
            buffer.add(sample.entry, image, mask)
        return buffer.batch(step, bad)


class InstanceTrainBatches(Dataset[InstanceTrainBatch]):
    """Item ``step`` is this rank's share of global batch ``step``, counted over all epochs.

    Each image is scaled to fit into ``size`` = (width, height) before it is augmented, its objects with it.
    """

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

    def __getitem__(self, item: int | tuple[int, float]) -> InstanceTrainBatch:
        step, level = item if isinstance(item, tuple) else (item, 0.0)
        bad: list[BadSample] = []
        epoch, _ = self._plan.positions(step)
        entries, images, targets = [], [], []
        for sample in _training_samples(self._reader, self._plan, step, self._mine, bad):
            assert sample.instances is not None
            size = fitted(*sample.entry.size, *self._size)
            image, (masks, labels) = (
                resize_image(sample.image, size),
                single_masks(sample.instances, sample.entry.size, size),
            )
            image, masks = self._augment(image, masks, epoch, sample.entry.key, level)
            entries.append(sample.entry)
            images.append(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
            targets.append(targets_of(masks, labels, size))
        return InstanceTrainBatch(
            images=tuple(images),
            targets=tuple(targets),
            keys=tuple(entry.key for entry in entries),
            groups=tuple(entry.group for entry in entries),
            step=step,
            bad=tuple(bad),
        )


class EvalBatches(PlannedBatches):
    """A rank's samples of a split, each once and none twice, in batches of equal stored size.

    Rank r takes samples r, r + world_size, ...; ranks may have different numbers of batches. A bad sample is left out
    and reported: a score counts only what was measured.
    """

    def __init__(self, reader: ShardReader, *, batch: int, rank: int, world_size: int) -> None:
        self._reader = reader
        by_size: dict[tuple[int, int], list[int]] = {}
        for position in range(rank, len(reader), world_size):
            by_size.setdefault(reader.size or reader.place(position)[1].size, []).append(position)
        self._batches = [(size, part) for size, whole in by_size.items() for part in _parts(whole, batch)]
        self.batch_bytes = max((_batch_bytes(len(part), size) for size, part in self._batches), default=0)

    def __len__(self) -> int:
        return len(self._batches)

    def sample(self, number: int, key: str) -> Sample:
        """One sample of a batch again; BadSampleError when it cannot be read (now)."""
        _, positions = self._batches[number]
        return self._reader.read(next(p for p in positions if self._reader.place(p)[1].key == key))

    def into(self, memory: torch.Tensor, number: int) -> Batch:
        size, positions = self._batches[number]
        buffer = _BatchBuffer(memory, len(positions), size)
        bad: list[BadSample] = []
        for sample in _good_samples(self._reader, positions, bad):
            assert sample.mask is not None
            buffer.add(sample.entry, sample.image, sample.mask)
        return buffer.batch(number, bad)


class InstanceEvalBatches(Dataset[InstanceBatch]):
    """As EvalBatches, of task instance, with images of different sizes in one batch."""

    def __init__(self, reader: ShardReader, *, batch: int, rank: int, world_size: int) -> None:
        self._reader = reader
        self._batches = _parts(range(rank, len(reader), world_size), batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> InstanceBatch:
        bad: list[BadSample] = []
        samples = list(_good_samples(self._reader, self._batches[number], bad))
        return _instance_batch(samples, number, bad)


def _training_samples(
    reader: ShardReader, plan: EpochPlan, step: int, mine: slice, bad: list[BadSample]
) -> Iterator[Sample]:
    """A rank's samples of a global batch, decoded one at a time; those that cannot be used are added to ``bad``.

    In their place stands the next good one of the epoch's list: that keeps all ranks at the same number of batches,
    and the next position is a pure function of the first.
    """
    epoch, positions = plan.positions(step)
    order = plan.order(epoch)
    tries = min(_REPLACEMENTS_MAX, len(order))
    for position in positions[mine].tolist():
        for offset in range(tries):
            sample = _read_or_report(reader, int(order[(position + offset) % len(order)]), bad)
            if sample is not None:
                yield sample
                break
        else:
            last = bad[-1]
            raise DataError(
                f"{tries} samples in a row cannot be used; last: shard {last.shard}, sample {last.key}: "
                f"{last.reason}; check the shards with 'distseg data verify'"
            )


def _good_samples(reader: ShardReader, positions: Sequence[int], bad: list[BadSample]) -> Iterator[Sample]:
    """Those that can be used; the others are added to ``bad``."""
    for position in positions:
        sample = _read_or_report(reader, position, bad)
        if sample is not None:
            yield sample


def _read_or_report(reader: ShardReader, position: int, bad: list[BadSample]) -> Sample | None:
    try:
        return reader.read(position)
    except BadSampleError as error:
        shard, entry = reader.place(position)
        bad.append(BadSample(shard=shard.name, key=entry.key, reason=error.reason))
        return None


def _parts(positions: Sequence[int], batch: int) -> list[Sequence[int]]:
    return [positions[first : first + batch] for first in range(0, len(positions), batch)]


def _batch_bytes(samples: int, size: tuple[int, int]) -> int:
    return samples * size[0] * size[1] * 4  # three colours and a label


class _BatchBuffer:
    """A batch in the making: each sample is copied into its place while it is still in the processor's cache."""

    def __init__(self, memory: torch.Tensor, samples: int, size: tuple[int, int]) -> None:
        width, height = size
        pixels = samples * height * width
        self._images = memory[: 3 * pixels].view(samples, height, width, 3)
        self._masks = memory[3 * pixels : 4 * pixels].view(samples, height, width)
        self._pixels, self._labels = self._images.numpy(), self._masks.numpy()
        self._entries: list[SampleEntry] = []

    def add(self, entry: SampleEntry, image: Pixels, mask: Pixels) -> None:
        self._pixels[len(self._entries)] = image
        self._labels[len(self._entries)] = mask
        self._entries.append(entry)

    def batch(self, step: int, bad: Sequence[BadSample]) -> Batch:
        samples = len(self._entries)
        return Batch(
            images=self._images[:samples].permute(0, 3, 1, 2),  # (B, H, W, 3) -> (B, 3, H, W): channels-last, no copy
            masks=self._masks[:samples],
            keys=tuple(entry.key for entry in self._entries),
            groups=tuple(entry.group for entry in self._entries),
            step=step,
            bad=tuple(bad),
        )


def _instance_batch(samples: Sequence[Sample], step: int, bad: Sequence[BadSample]) -> InstanceBatch:
    return InstanceBatch(
        images=tuple(torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples),
        instances=tuple(sample.instances or () for sample in samples),
        keys=tuple(sample.entry.key for sample in samples),
        groups=tuple(sample.entry.group for sample in samples),
        step=step,
        bad=tuple(bad),
    )


AnyBatch = TypeVar("AnyBatch", Batch, InstanceTrainBatch, InstanceBatch)


class Items(Protocol):
    """Numbers of batches, in order, and maybe more that is known of each when the loader asks for it."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def batch_loader(
    batches: Dataset[AnyBatch],
    items: Items,
    *,
    workers: int,
    prefetch: int,
    pin: bool,
    ahead_max: int | None = None,
) -> Iterable[AnyBatch]:
    """The batches with these numbers, in this order, each time it is iterated.

    ``workers`` processes compute ahead and live as long as the loader; 0 computes in this process. When a batch is
    handed out, the item that is taken next is ``workers * prefetch`` after it; with ``ahead_max`` both are lowered so
    that it is no more than that.
    """
    if ahead_max is not None and workers:
        workers = min(workers, ahead_max)
        prefetch = min(prefetch, ahead_max // workers)
    context = None
    slots: tuple[torch.Tensor, ...] = ()
    if workers:
        # fork would copy the threads of torch and ray in whatever state they are
        context = multiprocessing.get_context("forkserver")
        # imported once, not by each process
        context.set_forkserver_preload(["distseg.data.stream", "distseg.augment.policies"])
        util.get_temp_dir()  # for the sockets of all: made here, helpers know it and remove it should we be killed
        if isinstance(batches, PlannedBatches):
            slots = _shared_slots(min(workers * prefetch, len(items)) + 1, batches.batch_bytes)
    loader = DataLoader(
        _Slotted(batches, slots),
        batch_size=None,
        sampler=_SlottedItems(items, max(1, len(slots))),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin,
        multiprocessing_context=context,
        worker_init_fn=_start_loader_process,
    )
    return _Arriving(loader, copy=bool(slots) and not pin)


def _shared_slots(number: int, slot_bytes: int) -> tuple[torch.Tensor, ...]:
    """Memory that loader processes write batches into, again and again.

    New shared memory for each batch, as torch takes it, costs as much as decoding: its pages are zeroed one by one,
    and mapped in two processes. A slot more than there are batches under way is enough: torch asks for batch
    k + workers * prefetch when k is handed out, and k has been copied out before the one after that is asked for.
    """
    slots = [torch.empty(max(1, slot_bytes), dtype=torch.uint8) for _ in range(number)]
    return tuple(slot.share_memory_() for slot in slots)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _SlottedItems:
    """The items in turn, each with the number of the slot that its batch is written into."""

    items: Items
    slots: int

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for number, item in enumerate(self.items):
            yield number % self.slots, item


class _Slotted(Dataset[Any]):
    """Computes batches, into slots where there are any.

    Our own errors travel as values: raised in a loader process, torch puts its whole traceback in the message.
    """

    def __init__(self, batches: Dataset[Any], slots: tuple[torch.Tensor, ...]) -> None:
        self._batches = batches
        self._slots = slots

    def __getitem__(self, slot_and_item: tuple[int, Any]) -> Any:
        slot, item = slot_and_item
        try:
            if self._slots:
                assert isinstance(self._batches, PlannedBatches)
                return self._batches.into(self._slots[slot], item)
            return self._batches[item]
        except DistsegError as error:
            return error


@dataclass(frozen=True)
class _Arriving(Generic[AnyBatch]):
    """Raises the errors that arrive as values, and copies batches out of slots that will be written again."""

    loader: Iterable[Any]
    copy: bool

    def __iter__(self) -> Iterator[AnyBatch]:
        for arrived in self.loader:
            if isinstance(arrived, DistsegError):
                raise arrived
            yield arrived.copy() if self.copy else arrived


def _start_loader_process(_: int) -> None:
    start_helper()
    torch.set_num_threads(1)
