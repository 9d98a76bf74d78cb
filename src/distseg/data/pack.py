"""A raw data set to a folder of shards: checked sample by sample, resized, split by group, written all or nothing.

The same corpus and arguments give the same bytes, for any number of worker processes.
"""

import io
import multiprocessing
import os
import re
import shutil
import tarfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from distseg import atomic
from distseg.data.codec import Pixels, encode_mask, resize_pair
from distseg.data.digests import data_digest, file_digest, split_digest
from distseg.data.layouts.base import Corpus, RawSample
from distseg.data.manifest import (
    MANIFEST_FILE,
    SPLITS,
    BadSample,
    GroupPlace,
    Manifest,
    MaskEncoding,
    Member,
    SampleEntry,
    Shard,
    Split,
    index_path,
)
from distseg.data.order import permutation
from distseg.data.raw_image import read_image
from distseg.data.split import fold_groups, split_groups
from distseg.errors import BadSampleError, DataError, DistsegError

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

_KEY = re.compile(r"[^./\\\s]+")  # webdataset takes all after a key's first dot for the member's ending
_KEY_BYTES_MAX = 90  # a name in a USTAR archive has 100
_JPEG_QUALITY = 95
_ORDER = 2  # so that the shuffle of samples differs from those of groups in split.py


@dataclass(frozen=True)
class _ShardTask:
    """All that a worker process needs to write one shard."""

    path: Path
    split: Split
    samples: Sequence[RawSample]
    folds: Sequence[int | None]
    """Fold of each sample."""
    classes: int
    ignore_label: int | None
    size: tuple[int, int] | None
    mask_encoding: MaskEncoding


@dataclass(frozen=True)
class _ShardResult:
    shard: Shard
    label_pixels: Counter[int]
    bad: tuple[BadSample, ...]


@dataclass(frozen=True)
class _Encoded:
    """One sample as it goes into a tar."""

    members: dict[str, bytes]
    """By file ending."""
    size: tuple[int, int]
    original_size: tuple[int, int]
    label_pixels: Counter[int]


def pack(
    corpus: Corpus,
    out: Path,
    *,
    size: tuple[int, int] | None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    folds: int | None = None,
    seed: int = 0,
    workers: int = 1,
    samples_per_shard: int = 256,
    mask_encoding: MaskEncoding = "png",
    progress: Progress | None = None,
) -> Manifest:
    """Writes the folder ``out`` of shards, indexes and, last, the manifest, which is returned.

    ``size``: (width, height) in pixels of every stored sample; None keeps each one's own. A JPEG that has it already,
    upright and of three channels, is stored byte for byte. Samples of a split stand in an order shuffled by ``seed``,
    so that each shard is a mixture of groups. ``workers`` processes write one shard each at a time.
    DataError, and nothing left behind, when ``out`` holds anything, a split cannot be made, or a sample is bad (image
    or mask unreadable, of different sizes, a label out of range); every sample is looked at before it says so.
    """
    _check(corpus, mask_encoding)
    group_samples = Counter(sample.group for sample in corpus.samples)
    splits = split_groups(group_samples, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    folded = {group: number for group, number in group_samples.items() if splits[group] != "test"}
    fold_of = {} if folds is None else fold_groups(folded, folds, seed)
    places = {
        group: GroupPlace(split=splits[group], fold=fold_of.get(group), samples=group_samples[group])
        for group in sorted(group_samples)
    }
    with _appearing(out.resolve()) as folder:
        tasks = _tasks(corpus, folder, places, seed, size, samples_per_shard, mask_encoding)
        results = list(_run(tasks, workers, progress))
        bad = [sample for result in results for sample in result.bad]
        if bad:
            others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise DataError(
                f"sample '{bad[0].key}': {bad[0].reason}{others}; nothing was packed: mend or remove "
                f"{'them' if others else 'it'} and pack again"
            )
        shards = tuple(result.shard for result in results)
        pixels = sum((result.label_pixels for result in results), Counter())
        ignored = {} if corpus.ignore_label is None else {"ignore": pixels[corpus.ignore_label]}
        manifest = Manifest(
            task=corpus.task,
            layout=corpus.layout,
            classes=corpus.classes,
            ignore_label=corpus.ignore_label,
            size=size,
            mask_encoding=mask_encoding,
            shards=shards,
            class_pixels={name: pixels[label] for label, name in enumerate(corpus.classes)} | ignored,
            groups=places,
            folds=folds,
            seed=seed,
            data_digest=data_digest(shards),
            split_digest=split_digest(
                (sample.key, places[sample.group].split, places[sample.group].fold) for sample in corpus.samples
            ),
        )
        atomic.write_text(folder / MANIFEST_FILE, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _check(corpus: Corpus, mask_encoding: MaskEncoding) -> None:
    if not corpus.samples:
        raise DataError(f"layout {corpus.layout}: no sample to pack")
    if mask_encoding == "bits" and (len(corpus.classes) != 2 or corpus.ignore_label is not None):
        raise DataError("mask encoding 'bits' holds labels 0 and 1 only; use 'png' for more classes or an ignore label")
    for key, number in Counter(sample.key for sample in corpus.samples).items():
        if number > 1:
            raise DataError(f"sample '{key}': {number} samples have this name; rename them")
        if not _KEY.fullmatch(key) or len(key.encode()) > _KEY_BYTES_MAX:
            raise DataError(
                f"sample '{key}': want a name without dots, slashes and blanks, of {_KEY_BYTES_MAX} bytes at most; "
                "rename the file"
            )


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder to write in, beside ``out``; on a clean exit it becomes ``out``, on an exception it is removed."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; give --out a folder that does not exist yet")
    if out.is_dir() and (held := next(out.iterdir(), None)) is not None:
        raise DataError(f"{out}: not empty (holds '{held.name}'); give --out another folder or remove this one")
    if out.is_mount():
        raise DataError(f"{out}: is a mount point, which cannot appear at one stroke; give --out a folder inside it")
    aside = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        aside.mkdir()
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); give --out a folder that can") from error
    try:
        yield aside
        try:
            aside.replace(out)
        except OSError as error:
            raise DataError(f"{out}: cannot appear ({error.strerror}); did another process pack there?") from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _remove_leftovers(out: Path) -> None:
    """Removes what killed processes of this machine left while they packed to ``out``."""
    name = re.compile(re.escape(f".{out.name}.tmp-") + r"(\d{1,7})")
    for folder in out.parent.iterdir():
        match = name.fullmatch(folder.name)
        if match and not _another_lives(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _another_lives(pid: int) -> bool:
    if pid == os.getpid():  # a container's processes have the same few numbers each time it starts
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _tasks(
    corpus: Corpus,
    folder: Path,
    places: dict[str, GroupPlace],
    seed: int,
    size: tuple[int, int] | None,
    samples_per_shard: int,
    mask_encoding: MaskEncoding,
) -> list[_ShardTask]:
    by_key = sorted(corpus.samples, key=lambda sample: sample.key)
    shuffled = [by_key[position] for position in permutation(len(by_key), seed, _ORDER)]
    tasks = []
    for split in SPLITS:
        members = [sample for sample in shuffled if places[sample.group].split == split]
        for number, first in enumerate(range(0, len(members), samples_per_shard)):
            samples = members[first : first + samples_per_shard]
            tasks.append(
                _ShardTask(
                    path=folder / f"{split}-{number:06d}.tar",
                    split=split,
                    samples=samples,
                    folds=[places[sample.group].fold for sample in samples],
                    classes=len(corpus.classes),
                    ignore_label=corpus.ignore_label,
                    size=size,
                    mask_encoding=mask_encoding,
                )
            )
    return tasks


def _run(tasks: Sequence[_ShardTask], workers: int, progress: Progress | None) -> Iterator[_ShardResult]:
    """Results in the tasks' order. Progress counts samples in this process, whole shards when others write them."""
    total = sum(len(task.samples) for task in tasks)
    done = 0

    def advance(samples: int) -> None:
        nonlocal done
        done += samples
        if progress is not None:
            progress(done, total)

    if workers == 1:
        for task in tasks:
            yield _write_shard(task, lambda: advance(1))
        return
    # spawn: a fork would copy the threads of whoever calls
    spawn = multiprocessing.get_context("spawn")
    processes = min(workers, len(tasks))
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_process) as pool:
        try:
            for task, result in zip(tasks, pool.map(_write_shard, tasks), strict=True):
                advance(len(task.samples))
                yield result
        except BrokenProcessPool as error:
            raise DistsegError(
                "a packing process was killed (out of memory?) and nothing was packed; try fewer --workers"
            ) from error


def _start_process() -> None:
    cv2.setNumThreads(0)  # processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Else processes of a packing that was killed (SIGKILL) wait for work for ever: the executor does not end them."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_shard(task: _ShardTask, advance: Callable[[], None] = lambda: None) -> _ShardResult:
    """Writes one tar and its index, with one sample in memory at a time."""
    entries: list[SampleEntry] = []
    crcs: dict[str, int] = {}
    label_pixels: Counter[int] = Counter()
    bad = []
    # tarfile and not webdataset.TarWriter: the bytes are the same, but importing webdataset loads torch, which costs
    # each process 3.5 s and 600 MB.
    with tarfile.open(task.path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample, fold in zip(task.samples, task.folds, strict=True):
            try:
                encoded = _encode(sample, task)
            except (BadSampleError, DataError) as error:
                bad.append(BadSample(shard=None, key=sample.key, reason=str(error)))
            else:
                for ending, data in encoded.members.items():
                    name = f"{sample.key}.{ending}"
                    tar.addfile(_tar_header(name, len(data)), io.BytesIO(data))
                    crcs[name] = zlib.crc32(data)
                label_pixels += encoded.label_pixels
                entries.append(_entry(sample, fold, encoded))
            advance()
    places = _members(task.path, crcs)
    lines = [entry.model_copy(update={"members": places[entry.key]}).model_dump_json() + "\n" for entry in entries]
    index = index_path(task.path)
    index.write_text("".join(lines), encoding="utf-8")
    shard = Shard(
        name=task.path.name,
        split=task.split,
        samples=len(entries),
        bytes=task.path.stat().st_size,
        sha256=file_digest(task.path),
        index_sha256=file_digest(index),
    )
    return _ShardResult(shard, label_pixels, tuple(bad))


def _tar_header(name: str, length: int) -> tarfile.TarInfo:
    """A plain file's header; owner and time are fixed, so that the same samples give the same bytes."""
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = length, 0o644, 0
    header.uname = header.gname = "distseg"
    return header


def _entry(sample: RawSample, fold: int | None, encoded: _Encoded) -> SampleEntry:
    """The sample's line of the index; where its members stand is known when the tar is finished."""
    return SampleEntry(
        key=sample.key,
        group=sample.group,
        fold=fold,
        source=sample.image.name,
        size=encoded.size,
        original_size=encoded.original_size,
        members={},
    )


def _members(tar_path: Path, crcs: Mapping[str, int]) -> dict[str, dict[str, Member]]:
    """By key and file ending, where each member of a finished tar stands."""
    places: dict[str, dict[str, Member]] = {}
    with tarfile.open(tar_path, "r:") as tar:
        for info in tar:
            key, _, ending = info.name.partition(".")
            place = Member(offset=info.offset_data, length=info.size, crc32=crcs[info.name])
            places.setdefault(key, {})[ending] = place
    return places


def _encode(sample: RawSample, task: _ShardTask) -> _Encoded:
    """Reads, checks, resizes and encodes one sample; BadSampleError or DataError when it cannot be used."""
    raw = read_image(sample.image)
    mask = sample.mask.read()
    if mask.shape != raw.pixels.shape[:2]:
        raise BadSampleError(f"mask is {mask.shape[1]}x{mask.shape[0]}, image is {raw.size[0]}x{raw.size[1]}")
    labels = mask if task.ignore_label is None else mask[mask != task.ignore_label]
    if labels.size and int(labels.max()) >= task.classes:
        raise BadSampleError(f"label {labels.max()} out of range 0..{task.classes - 1}")
    size = task.size or raw.size
    pixels, stored = resize_pair(raw.pixels, mask, size)
    counts = np.bincount(stored.ravel())
    return _Encoded(
        members={
            "jpg": raw.data if raw.upright_jpeg and size == raw.size else _encode_jpeg(pixels),
            task.mask_encoding: encode_mask(stored, task.mask_encoding, task.classes),
        },
        size=size,
        original_size=raw.size,
        label_pixels=Counter({label: int(number) for label, number in enumerate(counts) if number}),
    )


def _encode_jpeg(pixels: Pixels) -> bytes:
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return data.tobytes()
