"""Kaggle's Carvana folders: photographs ``train/CAR_NN.jpg`` and, for each, a mask of the car.

Masks are ``train_masks/CAR_NN_mask.gif`` (or ``.png``) or, where that folder has none, the rows of ``train_masks.csv``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distseg.data import rle
from distseg.data.findings import Finding, FindingError, error, note, unreadable_image
from distseg.data.layouts.base import Corpus, Labels, LayoutOptions, RawSample
from distseg.data.layouts.mask_picture import ONE_CHANNEL, load_mask
from distseg.data.layouts.scan import NO_OPTIONS, PAIR_REMEDY, Scan, grouping, refuse_class_options, visible_files
from distseg.data.raw_image import shown_size
from distseg.errors import BadSampleError, DataError

_WANTED = "the carvana layout wants train/CAR_NN.jpg with train_masks/CAR_NN_mask.gif or train_masks.csv"
_NAME = re.compile(r"(?P<car>[^.\s]+)_\d+")
_CSV_HEADER = b"img,rle_mask"


@dataclass(frozen=True)
class MaskFile:
    """A mask stored as a picture of two levels: 0 is background, the other (1 or 255) the car."""

    path: Path

    def read(self) -> Labels:
        """Label map (H, W) uint8 of 0 and 1; DataError when the file is no picture of two levels."""
        levels = self._levels()
        car = levels > 0
        if (levels[car] != levels.max(initial=0)).any():
            message = f"mask has levels {np.unique(levels).tolist()[:5]}, want 0 and one other"
            remedy = "save it anew from its source, without smoothing"
            raise FindingError(error("mask-levels", self.path, message, remedy))
        return car.astype(np.uint8)

    def remarks(self) -> Iterator[Finding]:
        """A note on a PNG whose car is 255: here it is read as 1, elsewhere it may be taken for label 255."""
        if self.path.suffix.lower() == ".png" and self._levels().max(initial=0) == 255:
            yield note("mask-0-255", self.path, "mask of 0 and 255", "nothing to do: this layout reads 255 as 1")

    def _levels(self) -> Labels:
        image = load_mask(self.path)
        if image.mode not in ONE_CHANNEL:
            message = f"mask of mode {image.mode}, want one channel"
            raise FindingError(error("mask-rgb", self.path, message, "save it as a picture of grey levels 0 and 255"))
        return np.asarray(image.convert("L"))  # a palette becomes the grey that one sees


@dataclass(frozen=True)
class RunLengthRow:
    """A mask stored as a row of ``train_masks.csv``, read from the file when it is asked for."""

    path: Path
    offset: int
    """Bytes from the start of the file to the row's first run."""
    length: int
    """Bytes."""
    image: Path

    def read(self) -> Labels:
        """Label map (H, W) uint8 of 0 and 1, of the image's own size; DataError when the runs do not fit it."""
        try:
            width, height = shown_size(self.image)
        except BadSampleError as problem:
            raise FindingError(unreadable_image(self.image, problem.reason)) from problem
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                runs = file.read(self.length).decode(errors="replace")
        except OSError as problem:
            message, remedy = f"cannot be read ({problem.strerror})", "put it where every node sees it, or restore it"
            raise FindingError(error("unreadable-mask", self.path, message, remedy)) from problem
        try:
            return rle.decode(runs, height, width)
        except DataError as problem:
            message, remedy = f"row of {self.image.name}: {problem}", "write the row anew from its mask"
            raise FindingError(error("run-lengths", self.path, message, remedy)) from problem


def scan(source: Path, options: LayoutOptions) -> Scan:
    """The images of ``source/train`` with their masks; the group of CAR_NN is CAR.

    DataError when the folder is not laid out so, and on options that name classes: this layout has its own two.
    """
    refuse_class_options("carvana", options, "its masks hold background and car")
    images = _images(source)
    masks, where, findings = _masks(source, images)
    for key in sorted(images.keys() - masks.keys()):
        findings.append(error("orphan-image", images[key], f"image '{key}' has no mask in {where.name}", PAIR_REMEDY))
    for key in sorted(masks.keys() - images.keys()):
        message = f"mask '{key}' in {where.name} has no image in train"
        findings.append(error("orphan-mask", masks[key].path, message, PAIR_REMEDY))
    group_of = grouping(options.group_regex, _car)
    samples = []
    for key in images.keys() & masks.keys():
        try:
            samples.append(RawSample(key, group_of(images[key]), images[key], masks[key]))
        except FindingError as problem:
            findings.append(problem.finding)
    samples.sort(key=lambda sample: sample.key)
    return Scan(Corpus("carvana", "binary", ("background", "car"), None, samples), tuple(findings))


def read(source: Path, options: LayoutOptions = NO_OPTIONS) -> Corpus:
    """What ``scan`` finds; DataError unless it is complete."""
    return scan(source, options).complete()


def _images(source: Path) -> dict[str, Path]:
    folder = source / "train"
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; {_WANTED}")
    if not folder.is_dir():
        raise DataError(f"{source}: no folder 'train'; {_WANTED}")
    images = {path.stem: path for path in visible_files(folder, ".jpg")}
    if not images:
        raise DataError(f"{folder}: no .jpg file; {_WANTED}")
    return images


def _car(image: Path) -> str:
    match = _NAME.fullmatch(image.stem)
    if match is None:
        remedy = "rename it CAR_NN (CAR without dots or blanks, NN digits)"
        raise FindingError(error("bad-name", image, f"name does not tell the car; {_WANTED}", remedy))
    return match["car"]


def _masks(
    source: Path, images: Mapping[str, Path]
) -> tuple[Mapping[str, MaskFile | RunLengthRow], Path, list[Finding]]:
    """Masks by key, the folder or the table that holds them, and what is wrong there."""
    folder, table = source / "train_masks", source / "train_masks.csv"
    files = visible_files(folder, ".gif", ".png") if folder.is_dir() else []
    if not files and not table.is_file():
        raise DataError(f"{source}: no mask in folder 'train_masks' and no train_masks.csv; {_WANTED}")
    if not files:
        return *_rows(table, images), []
    masks: dict[str, MaskFile | RunLengthRow] = {}
    findings = []
    for path in files:
        if masks.setdefault(path.stem.removesuffix("_mask"), MaskFile(path)).path != path:
            message = "a second mask of the same image"
            findings.append(error("duplicate-mask", path, message, "keep one of the two files"))
    return masks, folder, findings


def _rows(table: Path, images: Mapping[str, Path]) -> tuple[dict[str, MaskFile | RunLengthRow], Path]:
    rows: dict[str, MaskFile | RunLengthRow] = {}
    with open(table, "rb") as file:
        header = file.readline().strip()
        if header != _CSV_HEADER:
            raise DataError(f"{table}: first line is {header[:40]!r}, want {_CSV_HEADER.decode()!r}")
        offset = file.tell()
        for line in file:
            name, comma, runs = line.partition(b",")
            key = name.decode(errors="replace").removesuffix(".jpg")
            if key in rows:
                raise DataError(f"{table}: two rows for '{key}'; keep one of them")
            if comma:
                rows[key] = RunLengthRow(table, offset + len(name) + 1, len(runs), images.get(key, Path(key)))
            offset += len(line)
    return rows, table
