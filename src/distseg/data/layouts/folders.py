"""Images beside label maps, in the SegNet way or plain.

SegNet's: folders ``train``, ``val``, ``test`` of images and, for each, ``trainannot`` (or ``train_labels``) of masks.
Plain: ``images`` and ``masks``. The mask of ``a.jpg`` is ``a.png``, ``a_L.png`` or ``a_mask.png``.

A mask is a picture of one channel whose numbers are class numbers (in a PNG with a palette, the indices), or a picture
in colours. A class file (``class_dict.csv`` in the folder, or one that the user names) lists the classes in the order
of their numbers; when it has columns r, g, b, masks that are no grey pictures are read by colour. The class named Void
is no class: its pixels are ignored. So CamVid's ``class_dict.csv`` of 32 rows gives 31 classes and ignored pixels.

Without a class file SegNet's folders hold CamVid's 11 classes, and 11 is ignored; plain ones hold classes ``class_0``
to the highest label of any mask, for which every mask is decoded once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from distseg.data.findings import Finding, FindingError, error, note, warning
from distseg.data.layouts.base import Corpus, Labels, LayoutOptions, RawSample
from distseg.data.layouts.class_table import ClassTable, Row, read_rows
from distseg.data.layouts.mask_picture import MASK_ENDINGS, ONE_CHANNEL, has_palette, load_mask
from distseg.data.layouts.scan import (
    IMAGE_ENDINGS,
    NO_OPTIONS,
    PAIR_REMEDY,
    Scan,
    grouping,
    key_of,
    visible_files,
    with_unique_keys,
)
from distseg.data.manifest import SPLITS, Split
from distseg.errors import DataError

CLASS_FILE = "class_dict.csv"
CAMVID_11 = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
"""SegNet's classes of CamVid, by label."""
CAMVID_11_IGNORE = 11

_WANTED = "the folders layout wants train + trainannot (val, test likewise) or images + masks"
_MASK_FOLDERS = ("annot", "_labels")  # after the split's name
_MASK_NAMES = ("_L", "_mask")  # after the image's stem
_USUAL_VOID = 255


@dataclass(frozen=True)
class LabelFile:
    """A mask stored as a picture of class numbers or of colours."""

    path: Path
    table: ClassTable

    def read(self) -> Labels:
        """Label map (H, W) uint8 of class indices and the ignore label; FindingError when the file is none."""
        image = load_mask(self.path)
        if self.table.colours is not None and image.mode not in ("1", "L"):
            return self._of_colours(image)
        numbers = _numbers(self.path, image)
        label_of = np.zeros(256, np.uint8)
        known = np.zeros(256, np.bool_)
        for number, label in self.table.labels:
            label_of[number], known[number] = label, True
        if not known[numbers].all():
            raise FindingError(self._out_of_range(np.unique(numbers), known))
        return label_of[numbers]

    def remarks(self) -> Iterator[Finding]:
        """A warning on a mask with a palette, unless it is read by its colours."""
        if self.table.colours is None and has_palette(self.path):
            message = "mask has a palette, whose indices are taken for class numbers"
            yield warning("mask-palette", self.path, message, "if its colours are meant, give a class file name,r,g,b")

    def _of_colours(self, image: Image.Image) -> Labels:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.uint32), -1, 0)
        codes = red << 16 | green << 8 | blue
        table = sorted((r << 16 | g << 8 | b, label) for (r, g, b), label in self.table.colours or ())
        listed = np.array([code for code, _ in table], np.uint32)
        labels = np.array([label for _, label in table], np.uint8)
        place = np.searchsorted(listed, codes).clip(max=len(listed) - 1)
        unlisted = codes[listed[place] != codes]
        if unlisted.size:
            colour = ",".join(str(int(unlisted[0]) >> shift & 255) for shift in (16, 8, 0))
            message = f"{unlisted.size} pixels have a colour that is no class, such as {colour}"
            remedy = "add the colour to the class file, or save the mask without smoothing"
            raise FindingError(error("mask-colour", self.path, message, remedy))
        return np.asarray(labels[place])

    def _out_of_range(self, numbers: Labels, known: npt.NDArray[np.bool_]) -> Finding:
        unknown = numbers[~known[numbers]].tolist()
        if set(numbers.tolist()) <= {0, 255}:
            remedy = "divide the masks by 255, or name 255 as the ignore label if it means void"
            return error("mask-0-255", self.path, "mask of 0 and 255, want class numbers such as 0 and 1", remedy)
        message = f"label {unknown[-1]} is no class, want 0..{len(self.table.names) - 1}"
        if self.table.ignore_label is not None:
            message += f" or the ignore label {self.table.ignore_label}"
        return error("label-range", self.path, message, "mend the mask, list the class, or name the ignore label")


@dataclass(frozen=True)
class _Part:
    """A folder of images, that of their masks, and the split they stand for."""

    images: Path
    masks: Path
    split: Split | None


def scan(source: Path, options: LayoutOptions) -> Scan:
    """Images with their label maps; the group of SEQUENCE_FRAME is SEQUENCE, of a name without ``_`` the whole name.

    The task is binary when there are two classes. DataError when the folder is not laid out so, and on a class file
    that cannot be read.
    """
    if options.ignore_label is not None and not 0 <= options.ignore_label <= 255:
        raise DataError(f"ignore label {options.ignore_label}: want a label of a mask, 0 to 255")
    findings: list[Finding] = []
    pairs: list[tuple[Path, Path, Split | None]] = []
    parts = _parts(source)
    for part in parts:
        for image, mask in _pairs(part, findings):
            pairs.append((image, mask, part.split))
    table = _table(source, options, [mask for _, mask, _ in pairs], parts[0], findings)
    group_of = grouping(options.group_regex, _sequence)
    samples = []
    for image, mask, split in pairs:
        try:
            group = group_of(image)
        except FindingError as problem:
            findings.append(problem.finding)
        else:
            samples.append(RawSample(key_of(image.stem), group, image, LabelFile(mask, table), given_split=split))
    samples, twice = with_unique_keys(samples)
    task = "binary" if len(table.names) == 2 else "multiclass"
    return Scan(Corpus("folders", task, table.names, table.ignore_label, samples), (*findings, *twice))


def read(source: Path, options: LayoutOptions = NO_OPTIONS) -> Corpus:
    """What ``scan`` finds; DataError unless it is complete."""
    return scan(source, options).complete()


def _sequence(image: Path) -> str:
    return image.stem.rpartition("_")[0] or image.stem


def _parts(source: Path) -> list[_Part]:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; {_WANTED}")
    parts = [
        _Part(source / split, masks, split)
        for split in SPLITS
        if (source / split).is_dir()
        for masks in [_mask_folder(source, split)]
    ]
    if not parts and (source / "images").is_dir() and (source / "masks").is_dir():
        parts = [_Part(source / "images", source / "masks", None)]
    if not parts:
        raise DataError(f"{source}: none of the folders it should have; {_WANTED}")
    if not any(visible_files(part.images, *IMAGE_ENDINGS) for part in parts):
        raise DataError(f"{parts[0].images}: no image ({', '.join(IMAGE_ENDINGS)}); {_WANTED}")
    return parts


def _mask_folder(source: Path, split: Split) -> Path:
    for ending in _MASK_FOLDERS:
        if (source / f"{split}{ending}").is_dir():
            return source / f"{split}{ending}"
    raise DataError(f"{source}: folder '{split}' has no '{split}annot' beside it; add its masks or move it elsewhere")


def _pairs(part: _Part, findings: list[Finding]) -> Iterator[tuple[Path, Path]]:
    """(image, mask) of all that have each other; what has no partner, or two, becomes a finding."""
    images: dict[str, Path] = {}
    for path in visible_files(part.images, *IMAGE_ENDINGS):
        if images.setdefault(path.stem, path) is not path:
            message = f"a second image named '{path.stem}'"
            findings.append(error("duplicate-name", path, message, "rename one of the two, or remove it"))
    masks: dict[str, Path] = {}
    for path in visible_files(part.masks, *MASK_ENDINGS):
        stem = next((name for name in _image_stems(path) if name in images), None)
        if stem is None:
            message = f"mask has no image in {part.images.name}"
            findings.append(error("orphan-mask", path, message, PAIR_REMEDY))
        elif masks.setdefault(stem, path) is not path:
            message = f"a second mask of {images[stem].name}"
            findings.append(error("duplicate-mask", path, message, "keep one of the two files"))
    for stem, path in images.items():
        if stem in masks:
            yield path, masks[stem]
        else:
            findings.append(error("orphan-image", path, f"image has no mask in {part.masks.name}", PAIR_REMEDY))


def _image_stems(mask: Path) -> Iterator[str]:
    """Names that a mask's image may have."""
    yield mask.stem
    for ending in _MASK_NAMES:
        if mask.stem.endswith(ending):
            yield mask.stem.removesuffix(ending)


def _table(
    source: Path, options: LayoutOptions, masks: list[Path], first: _Part, findings: list[Finding]
) -> ClassTable:
    listed = options.classes or source / CLASS_FILE
    if options.classes is not None or listed.is_file():
        table = ClassTable.of(read_rows(listed), options.ignore_label)
        if len(table.names) < 2:
            raise DataError(f"{listed}: {len(table.names)} class(es) beside what is ignored, want 2 at least")
        return table
    if first.split is not None:
        ignored = CAMVID_11_IGNORE if options.ignore_label is None else options.ignore_label
        return ClassTable.of([Row(name) for name in CAMVID_11], ignored)
    return _counted_table(first.masks, masks, options.ignore_label, findings)


def _counted_table(folder: Path, masks: list[Path], ignore_label: int | None, findings: list[Finding]) -> ClassTable:
    """Classes ``class_0`` to the highest number in any mask; 255 is no class but void, or 1 times 255."""
    used = np.zeros(256, np.bool_)
    for path in masks:
        try:
            used[_numbers(path, load_mask(path))] = True
        except FindingError as problem:
            findings.append(problem.finding)
    found = set(np.flatnonzero(used).tolist())
    highest = max(found - {ignore_label, _USUAL_VOID}, default=0)
    if found == {0, _USUAL_VOID} and ignore_label != _USUAL_VOID:
        highest = 1  # each mask is answered with how to mend it when it is read
    table = ClassTable.of([Row(f"class_{number}") for number in range(highest + 1)], ignore_label)
    if found and len(table.names) < 2:
        message = f"masks hold no label but {sorted(found)}, want two classes at least"
        findings.append(error("one-class", folder, message, "check how the masks were saved, or list the classes"))
    message = f"no class file: {len(table.names)} classes counted from the masks"
    findings.append(note("classes-counted", folder, message, f"list their names in {CLASS_FILE}, or with --classes"))
    return table


def _numbers(path: Path, image: Image.Image) -> Labels:
    """Class numbers (H, W) uint8 of a picture of one channel; of one with a palette, its indices."""
    if image.mode not in ONE_CHANNEL:
        message = f"mask of mode {image.mode}, want class numbers in one channel"
        remedy = "save it so, or give the colours in a class file name,r,g,b"
        raise FindingError(error("mask-rgb", path, message, remedy))
    return np.asarray(image).astype(np.uint8)
