"""A raw data set to a folder of shards: checked sample by sample, resized, split by group, written all or nothing.

The same corpus and arguments give the same bytes, for any number of worker processes or nodes of a cluster (unless the
fastest mask encoding is asked for, which is a measurement).
"""

import io
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from distseg import atomic
from distseg.data.appearing import appearing
from distseg.data.codec import Pixels, check_labels, encode_mask, fastest_encoding, resize_image, resize_labels
from distseg.data.crew import Elsewhere, Progress, Run, crew, nothing
from distseg.data.digests import data_digest, file_digest, split_digest
from distseg.data.instances import check_instance, encode_instances, instance_pixels, resize_instances
from distseg.data.layouts.base import Corpus, InstanceSource, MaskSource, RawSample
from distseg.data.layouts.scan import KEY_BYTES_MAX, fits_a_tar
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
from distseg.data.raw_image import RawImage, read_image
from distseg.data.split import check_folds, check_fractions, fold_groups, split_groups
from distseg.errors import BadSampleError, DataError

MaskChoice = Literal["png", "bits", "fastest"]
"""How label maps are stored; ``fastest`` measures which of the two decodes fastest."""

_JPEG_QUALITY = 95
_ORDER = 2  # so that the shuffle of samples differs from those of groups in split.py
_MASKS_TIMED = 16


@dataclass(frozen=True)
class _Target:
    """What samples become, the same for all of a corpus."""

    classes: int
    ignore_label: int | None
    size: tuple[int, int] | None
    encoding: MaskEncoding
    folds: int | None

    @property
    def levels(self) -> int:
        return self.classes + (self.ignore_label is not None)


@dataclass(frozen=True)
class _ShardTask:
    """All that a worker process needs to write one shard."""

    path: Path
    split: Split
    samples: Sequence[RawSample]
    folds: Sequence[int | None]
    """Fold of each sample."""
    target: _Target


@dataclass(frozen=True)
class _ShardResult:
    shard: Shard
    label_pixels: Counter[int]
    vanished_instances: int
    bad: tuple[BadSample, ...]


@dataclass(frozen=True)
class _CountTask:
    """Samples whose classes are to be counted."""

    samples: Sequence[RawSample]


@dataclass(frozen=True)
class _Labels:
    """A sample's labels as they are stored."""

    data: bytes
    pixels: Counter[int]
    """By label."""
    vanished_instances: int = 0


@dataclass(frozen=True)
class _Encoded:
    """One sample as it goes into a tar."""

    members: dict[str, bytes]
    """By file ending."""
    size: tuple[int, int]
    original_size: tuple[int, int]
    labels: _Labels


def pack(
    corpus: Corpus,
    out: Path,
    *,
    size: tuple[int, int] | None,
    val_fraction: float = 0.2,
    test_fraction: float = 0.0,
    given_split: bool = False,
    folds: int | None = None,
    seed: int = 0,
    workers: int = 1,
    elsewhere: Elsewhere | None = None,
    samples_per_shard: int = 256,
    mask_encoding: MaskChoice = "png",
    progress: Progress | None = None,
) -> Manifest:
    """Writes the folder ``out`` of shards, indexes and, last, the manifest, which is returned.

    ``size``: (width, height) in pixels of every stored sample; None keeps each one's own. A JPEG that has it already,
    upright and of three channels, is stored byte for byte. With more than two classes (of objects: more than one) the
    split and the folds are stratified. ``given_split`` keeps the folder's own split instead of the fractions, groups on
    both sides included. Samples of a split stand in an order shuffled by ``seed``, so that each shard is a mixture of
    groups. ``workers`` processes write one shard each at a time, or ``elsewhere`` does.
    DataError, and nothing left behind, when ``out`` holds anything, a split cannot be made, or a sample is bad (image
    or labels unreadable, of different sizes, a label out of range); every sample is looked at before it says so.
    """
    check_pack(
        corpus,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        given_split=given_split,
        folds=folds,
        mask_encoding=mask_encoding,
    )
    with appearing(out.resolve()) as folder, crew(workers, elsewhere) as helpers:
        several = len(corpus.classes) > (1 if corpus.task == "instance" else 2)  # label maps have a background class
        stratified = several and (folds is not None or not given_split)
        run = Run(helpers, len(corpus.samples) * (1 + stratified), progress)
        class_pixels = _class_pixels(corpus, run, samples_per_shard) if stratified else None
        target = _Target(
            classes=len(corpus.classes),
            ignore_label=corpus.ignore_label,
            size=size,
            encoding=_encoding(corpus, mask_encoding, size),
            folds=folds,
        )
        if given_split:
            splits = {sample.key: sample.given_split for sample in corpus.samples if sample.given_split}
        else:
            group_samples = Counter(sample.group for sample in corpus.samples)
            split_of = split_groups(
                group_samples,
                val_fraction=val_fraction,
                test_fraction=test_fraction,
                seed=seed,
                class_pixels=class_pixels,
            )
            splits = {sample.key: split_of[sample.group] for sample in corpus.samples}
        places = _places(corpus, splits, folds, seed, class_pixels)
        results = list(run(_write_shard, _tasks(corpus, folder, splits, places, seed, samples_per_shard, target)))
        bad = [sample for result in results for sample in result.bad]
        if bad:
            others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise DataError(
                f"sample '{bad[0].key}': {bad[0].reason}{others}; nothing was packed: mend or remove "
                f"{'them' if others else 'it'} and pack again"
            )
        shards = tuple(result.shard for result in results)
        pixels: Counter[int] = Counter()
        for result in results:
            pixels.update(result.label_pixels)
        ignored = {} if corpus.ignore_label is None else {"ignore": pixels[corpus.ignore_label]}
        manifest = Manifest(
            task=corpus.task,
            layout=corpus.layout,
            classes=corpus.classes,
            ignore_label=corpus.ignore_label,
            size=size,
            mask_encoding=target.encoding,
            shards=shards,
            class_pixels={name: pixels[label] for label, name in enumerate(corpus.classes)} | ignored,
            vanished_instances=sum(result.vanished_instances for result in results),
            groups=places,
            folds=folds,
            seed=seed,
            split_leaky=any(len(place.samples) > 1 for place in places.values()),
            data_digest=data_digest(shards),
            split_digest=split_digest(
                (sample.key, splits[sample.key], _fold(splits[sample.key], places[sample.group]))
                for sample in corpus.samples
            ),
        )
        atomic.write_text(folder / MANIFEST_FILE, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def check_pack(
    corpus: Corpus,
    *,
    val_fraction: float,
    test_fraction: float,
    given_split: bool,
    folds: int | None,
    mask_encoding: MaskChoice,
) -> None:
    """DataError on what `pack` can refuse before it decodes anything: the arguments, and the samples' names."""
    if not corpus.samples:
        raise DataError(f"layout {corpus.layout}: no sample to pack")
    if mask_encoding == "bits" and not _bilevel(corpus):
        raise DataError(
            "mask encoding 'bits' holds labels 0 and 1 only; use 'png' for more classes, an ignore label or objects"
        )
    if given_split and (without := [sample for sample in corpus.samples if sample.given_split is None]):
        raise DataError(
            f"--given-split: {len(without)} of {len(corpus.samples)} samples are in no split of layout "
            f"{corpus.layout}, first '{without[0].key}'; leave the option out to split by group"
        )
    for key, number in Counter(sample.key for sample in corpus.samples).items():
        if number > 1:
            raise DataError(f"sample '{key}': {number} samples have this name; rename them")
        if not fits_a_tar(key):
            raise DataError(
                f"sample '{key}': want a name without dots, slashes and blanks, of {KEY_BYTES_MAX} bytes at most; "
                "rename the file"
            )
    if given_split:
        groups = {sample.group for sample in corpus.samples if sample.given_split != "test"}
        if folds is not None:
            check_folds(len(groups), folds)
    else:
        groups = {sample.group for sample in corpus.samples}
        check_fractions(len(groups), val_fraction, test_fraction)
        if folds is not None:
            check_folds(len(groups) - (test_fraction > 0), folds)  # a group at least is set aside


def _bilevel(corpus: Corpus) -> bool:
    return corpus.task != "instance" and len(corpus.classes) == 2 and corpus.ignore_label is None


def _encoding(corpus: Corpus, choice: MaskChoice, size: tuple[int, int] | None) -> MaskEncoding:
    if corpus.task == "instance":
        return "json"
    if choice != "fastest":
        return choice
    if not _bilevel(corpus):
        return "png"
    masks = []
    for sample in corpus.samples[:: -(-len(corpus.samples) // _MASKS_TIMED)]:
        try:
            mask = _mask_source(sample).read()
            masks.append(resize_labels(mask, size) if size else mask)
        except (DataError, BadSampleError):
            continue  # reported with all others when it is packed
    return fastest_encoding(masks)


def _places(
    corpus: Corpus,
    splits: Mapping[str, Split],
    folds: int | None,
    seed: int,
    class_pixels: Mapping[str, Mapping[int, int]] | None,
) -> dict[str, GroupPlace]:
    """Where each group stands, given the split of each sample's key."""
    samples: dict[str, Counter[Split]] = {group: Counter() for group in sorted({s.group for s in corpus.samples})}
    for sample in corpus.samples:
        samples[sample.group][splits[sample.key]] += 1
    folded = {group: number["train"] + number["val"] for group, number in samples.items()}
    folded = {group: number for group, number in folded.items() if number}
    fold_of = {} if folds is None else fold_groups(folded, folds, seed, class_pixels)
    return {
        group: GroupPlace(samples={split: number[split] for split in SPLITS if number[split]}, fold=fold_of.get(group))
        for group, number in samples.items()
    }


def _fold(split: Split, place: GroupPlace) -> int | None:
    """Of a sample; those set aside for testing are in none."""
    return None if split == "test" else place.fold


def _tasks(
    corpus: Corpus,
    folder: Path,
    splits: Mapping[str, Split],
    places: Mapping[str, GroupPlace],
    seed: int,
    samples_per_shard: int,
    target: _Target,
) -> list[_ShardTask]:
    by_key = sorted(corpus.samples, key=lambda sample: sample.key)
    shuffled = [by_key[position] for position in permutation(len(by_key), seed, _ORDER)]
    tasks = []
    for split in SPLITS:
        members = [sample for sample in shuffled if splits[sample.key] == split]
        for number, first in enumerate(range(0, len(members), samples_per_shard)):
            samples = members[first : first + samples_per_shard]
            folds = [_fold(split, places[sample.group]) for sample in samples]
            tasks.append(_ShardTask(folder / f"{split}-{number:06d}.tar", split, samples, folds, target))
    return tasks


def _class_pixels(corpus: Corpus, run: Run, samples_per_task: int) -> dict[str, Counter[int]]:
    """Pixels of each label in each group, as they are in the raw files; the ignore label is left out."""
    parts = range(0, len(corpus.samples), samples_per_task)
    tasks = [_CountTask(corpus.samples[first : first + samples_per_task]) for first in parts]
    total: dict[str, Counter[int]] = {sample.group: Counter() for sample in corpus.samples}
    for counted in run(_count, tasks):
        for group, pixels in counted.items():
            total[group].update(pixels)
    for pixels in total.values():
        if corpus.ignore_label is not None:
            pixels.pop(corpus.ignore_label, None)
    return total


def _count(task: _CountTask, advance: Callable[[], None] = nothing) -> dict[str, Counter[int]]:
    """Pixels of each label in each group of some samples; none of a sample that cannot be read."""
    found: dict[str, Counter[int]] = {}
    for sample in task.samples:
        pixels = found.setdefault(sample.group, Counter())
        try:
            if sample.instances is not None:
                for instance in sample.instances.read():
                    pixels[instance.label] += instance_pixels(instance)
            else:
                pixels.update(_label_pixels(_mask_source(sample).read()))
        except (DataError, BadSampleError):
            pass  # reported with all others when it is packed
        advance()
    return found


def _write_shard(task: _ShardTask, advance: Callable[[], None] = nothing) -> _ShardResult:
    """Writes one tar and its index, with one sample in memory at a time."""
    entries: list[SampleEntry] = []
    crcs: dict[str, int] = {}
    label_pixels: Counter[int] = Counter()
    vanished = 0
    bad = []
    # tarfile and not webdataset.TarWriter: the bytes are the same, but importing webdataset loads torch, which costs
    # each process 3.5 s and 600 MB.
    with tarfile.open(task.path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample, fold in zip(task.samples, task.folds, strict=True):
            try:
                encoded = _encode(sample, task.target)
            except (BadSampleError, DataError) as error:
                bad.append(BadSample(shard=None, key=sample.key, reason=str(error)))
            else:
                for ending, data in encoded.members.items():
                    name = f"{sample.key}.{ending}"
                    tar.addfile(_tar_header(name, len(data)), io.BytesIO(data))
                    crcs[name] = zlib.crc32(data)
                label_pixels.update(encoded.labels.pixels)
                vanished += encoded.labels.vanished_instances
                entries.append(_entry(sample, fold, encoded))
            advance()
    places = _members(task.path, crcs)
    lines = [entry.model_copy(update={"members": places[entry.key]}).model_dump_json() + "\n" for entry in entries]
    index = index_path(task.path)
    index.write_text("".join(lines), encoding="utf-8")
    in_folds = Counter(task.folds)
    shard = Shard(
        name=task.path.name,
        split=task.split,
        samples=len(entries),
        fold_samples=None if task.target.folds is None else tuple(in_folds[fold] for fold in range(task.target.folds)),
        bytes=task.path.stat().st_size,
        sha256=file_digest(task.path),
        index_sha256=file_digest(index),
    )
    return _ShardResult(shard, label_pixels, vanished, tuple(bad))


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


def _encode(sample: RawSample, target: _Target) -> _Encoded:
    """Reads, checks, resizes and encodes one sample; BadSampleError or DataError when it cannot be used."""
    raw = read_image(sample.image)
    size = target.size or raw.size
    if sample.instances is not None:
        labels = _encode_objects(sample.instances, raw, size, target)
    else:
        labels = _encode_label_map(_mask_source(sample), raw, size, target)
    as_it_is = raw.upright_jpeg and size == raw.size
    return _Encoded(
        members={
            "jpg": raw.data if as_it_is else _encode_jpeg(resize_image(raw.pixels, size)),
            target.encoding: labels.data,
        },
        size=size,
        original_size=raw.size,
        labels=labels,
    )


def _encode_label_map(source: MaskSource, raw: RawImage, size: tuple[int, int], target: _Target) -> _Labels:
    mask = source.read()
    if mask.shape != raw.pixels.shape[:2]:
        raise BadSampleError(f"mask is {mask.shape[1]}x{mask.shape[0]}, image is {raw.size[0]}x{raw.size[1]}")
    check_labels(mask, target.classes, target.ignore_label)
    stored = resize_labels(mask, size)
    return _Labels(encode_mask(stored, target.encoding, target.levels), _label_pixels(stored))


def _encode_objects(source: InstanceSource, raw: RawImage, size: tuple[int, int], target: _Target) -> _Labels:
    instances = source.read()
    for number, instance in enumerate(instances):
        try:
            check_instance(instance, raw.size, target.classes)
        except BadSampleError as error:
            raise BadSampleError(f"object {number}: {error.reason}") from error
    stored, vanished = resize_instances(instances, raw.size, size)
    pixels: Counter[int] = Counter()
    for instance in stored:
        pixels[instance.label] += instance_pixels(instance)
    return _Labels(encode_instances(stored, size), pixels, vanished)


def _mask_source(sample: RawSample) -> MaskSource:
    assert sample.mask is not None  # a raw sample has a mask or objects
    return sample.mask


def _label_pixels(labels: Pixels) -> Counter[int]:
    """Pixels of each label that occurs."""
    if labels.max(initial=0) <= 1:  # a tenth of the cost of counting all 256
        ones = int(np.count_nonzero(labels))
        return +Counter({0: labels.size - ones, 1: ones})
    counts = np.bincount(labels.ravel())
    return Counter({label: int(number) for label, number in enumerate(counts) if number})


def _encode_jpeg(pixels: Pixels) -> bytes:
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return data.tobytes()
