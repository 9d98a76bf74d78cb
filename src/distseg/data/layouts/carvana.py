"""Kaggle's Carvana folders: photographs ``train/CAR_NN.jpg`` and, for each, a mask of the car.

Masks are ``train_masks/CAR_NN_mask.gif`` (or ``.png``) or, where that folder has none, the rows of ``train_masks.csv``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distseg.data import rle
from distseg.data.layouts.base import Corpus, Labels, MaskSource, RawSample
from distseg.data.raw_image import HEADER_ERRORS, shown_size
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
        try:
            with Image.open(self.path) as image:
                mode, levels = image.mode, np.asarray(image.convert("L"))  # a palette becomes the grey that one sees
        except HEADER_ERRORS as error:
            raise DataError(f"{self.path}: mask cannot be decoded ({error})") from error
        if mode not in ("1", "L", "P"):
            raise DataError(f"{self.path}: mask of mode {mode}, want one channel")
        car = levels > 0
        if (levels[car] != levels.max(initial=0)).any():
            raise DataError(f"{self.path}: mask has levels {np.unique(levels).tolist()[:5]}, want 0 and one other")
        return car.astype(np.uint8)


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
        except BadSampleError as error:
            raise DataError(f"{self.image}: {error.reason}") from error
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            runs = file.read(self.length).decode(errors="replace")
        try:
            return rle.decode(runs, height, width)
        except DataError as error:
            raise DataError(f"{self.path}: row of {self.image.name}: {error}") from error


def read(source: Path) -> Corpus:
    """The images of ``source/train`` with their masks; the group of CAR_NN is CAR. DataError says what is missing."""
    images = _images(source)
    masks, where = _masks(source, images)
    _refuse_unpaired(images.keys() - masks.keys(), f"{source}: image '{{}}' has no mask in {where}")
    _refuse_unpaired(masks.keys() - images.keys(), f"{source}: mask '{{}}' in {where} has no image in train")
    samples = [RawSample(key, _car(path), path, masks[key]) for key, path in images.items()]
    return Corpus("carvana", "binary", ("background", "car"), None, samples)


def _images(source: Path) -> dict[str, Path]:
    folder = source / "train"
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; {_WANTED}")
    if not folder.is_dir():
        raise DataError(f"{source}: no folder 'train'; {_WANTED}")
    images = {path.stem: path for path in _visible(folder, ".jpg")}
    if not images:
        raise DataError(f"{folder}: no .jpg file; {_WANTED}")
    return images


def _car(image: Path) -> str:
    match = _NAME.fullmatch(image.stem)
    if match is None:
        raise DataError(f"{image}: name does not tell the car; {_WANTED} (CAR without dots or blanks, NN digits)")
    return match["car"]


def _masks(source: Path, images: Mapping[str, Path]) -> tuple[Mapping[str, MaskSource], str]:
    """Masks by key, and where they come from."""
    folder, table = source / "train_masks", source / "train_masks.csv"
    files = _visible(folder, ".gif", ".png") if folder.is_dir() else []
    if files:
        masks = {path.stem.removesuffix("_mask"): MaskFile(path) for path in files}
        if len(masks) < len(files):
            twice = next(path for path in files if masks[path.stem.removesuffix("_mask")].path != path)
            raise DataError(f"{twice}: a second mask of the same image; keep one of the two files")
        return masks, folder.name
    if table.is_file():
        return _rows(table, images), table.name
    raise DataError(f"{source}: no mask in folder 'train_masks' and no train_masks.csv; {_WANTED}")


def _rows(table: Path, images: Mapping[str, Path]) -> dict[str, RunLengthRow]:
    rows: dict[str, RunLengthRow] = {}
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
    return rows


def _visible(folder: Path, *endings: str) -> list[Path]:
    """Files with these endings, sorted; hidden ones (macOS leaves ``._name`` beside each file) are left out."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and not path.name.startswith("."))


def _refuse_unpaired(keys: Iterable[str], message: str) -> None:
    unpaired = sorted(keys)
    if unpaired:
        others = f" (and {len(unpaired) - 1} more)" if len(unpaired) > 1 else ""
        raise DataError(f"{message.format(unpaired[0])}{others}; complete the pairs or remove what has no partner")
