"""Kaggle's score, offline: the mean Dice of a submission's rows, at the size of the original images.

Dice is computed from run lengths alone, so the images' sizes need not be known, and it is exact: counts are integers
until the one division.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import numpy as np

from distseg.data import rle
from distseg.data.layouts.carvana import MaskFile
from distseg.data.layouts.mask_picture import ONE_CHANNEL, load_mask
from distseg.errors import DataError
from distseg.predict.images import visible_files
from distseg.predict.row_format import RowFormat, read_rows
from distseg.records import Value

_MARK = "_mask"
_MARKED_ENDINGS = (".gif", ".png")


class SubmissionScore(Value):
    """What ``score`` found."""

    dice_mean_per_image: float
    """Mean over the images that stand both in the submission and in the truth."""
    images: int
    """How many those are."""
    missing: tuple[str, ...]
    """Images of the truth without a row; they are not in the mean."""
    extra: tuple[str, ...]
    """Rows whose image is not in the truth; they are not in the mean."""


def score(submission: Path, truth: Path, format: RowFormat | None = None) -> SubmissionScore:
    """Scores a submission (Carvana's unless ``format`` says otherwise) against run lengths or a folder of masks.

    Run lengths stand in a csv file of the same format. Of a folder count the files ``*_mask.gif`` and ``*_mask.png``
    or, where it has none, all its ``.png`` files; its images go by their names without ending (``0a1_01_mask.gif`` is
    the truth of ``0a1_01.jpg``). With several rows an image, masks hold labels and each row is one "image" of the mean.

    DataError on a file that ``read_rows`` or ``rle.parse`` refuses, on a mask that has more than two levels, on runs
    outside a mask, on two rows or two masks for one image, and when submission and truth share no image.
    """
    format = (format or RowFormat()).checked()
    known: _Truth = _MaskFolder(truth, format) if truth.is_dir() else _RunLengthFile(truth, format)
    dices: dict[str, float] = {}
    extra: list[str] = []
    for row_name, text in read_rows(submission, format.columns):
        name = known.name_of(row_name)
        if name not in known.names:
            extra.append(row_name)
            continue
        if name in dices:
            raise DataError(f"{submission}: '{row_name}' is a second row for '{name}', want one row an image")
        dices[name] = known.dice(name, _parse(text, format, submission, row_name))
    if not dices:
        raise DataError(
            f"{submission}: none of its {len(extra)} images is among the {len(known.names)} of {truth};"
            " want the same file names in both"
        )
    return SubmissionScore(
        dice_mean_per_image=sum(dices.values()) / len(dices),
        images=len(dices),
        missing=tuple(name for name in known.names if name not in dices),
        extra=tuple(extra),
    )


def dice(a: rle.Edges, b: rle.Edges) -> float:
    """2 |A and B| / (|A| + |B|) of two masks given by their edges; 1 when both are empty (Carvana's rule)."""
    pixels = int(np.diff(a)[::2].sum() + np.diff(b)[::2].sum())
    if pixels == 0:
        return 1.0
    inside = _pixels_before(b, a)  # pixels of b before each edge of a
    return 2 * int(np.diff(inside)[::2].sum()) / pixels


def _pixels_before(runs: rle.Edges, positions: rle.Edges) -> rle.Edges:
    """How many pixels of the runs stand before each position: ends passed - starts passed, + position inside a run."""
    sums = np.zeros(runs.size + 1, np.int64)  # [k]: the first k edges, ends added and starts subtracted
    sums[1:] = runs
    sums[1::2] *= -1
    np.cumsum(sums, out=sums)
    passed = np.searchsorted(runs, positions)
    counts: rle.Edges = sums[passed] + positions * (passed % 2)
    return counts


def _parse(text: str, format: RowFormat, path: Path, row_name: str) -> rle.Edges:
    try:
        return rle.parse(text, first=format.first)
    except DataError as error:
        raise DataError(f"{path}: '{row_name}': {error}") from error


class _Truth(Protocol):
    @property
    def names(self) -> Collection[str]:
        """Images that have a mask, in order."""
        ...

    def name_of(self, row_name: str) -> str:
        """The name here of the image of a submission's row."""
        ...

    def dice(self, name: str, runs: rle.Edges) -> float:
        """Dice of an image's true mask and the submitted runs."""
        ...


class _RunLengthFile:
    """``train_masks.csv``."""

    def __init__(self, path: Path, format: RowFormat) -> None:
        self._path = path
        self._format = format
        self._runs = dict(read_rows(path, format.columns))

    @property
    def names(self) -> Collection[str]:
        return self._runs.keys()

    def name_of(self, row_name: str) -> str:
        return row_name

    def dice(self, name: str, runs: rle.Edges) -> float:
        return dice(runs, _parse(self._runs[name], self._format, self._path, name))


class _MaskFolder:
    """``train_masks/``."""

    def __init__(self, folder: Path, format: RowFormat) -> None:
        files = visible_files(folder, _MARKED_ENDINGS)
        marked = [path for path in files if path.stem.endswith(_MARK)]
        masks: dict[str, Path] = {}
        for path in marked or [path for path in files if path.suffix.lower() == ".png"]:
            stem = path.stem.removesuffix(_MARK)
            if stem in masks:
                raise DataError(f"{path}: '{stem}' has the mask {masks[stem].name} too, want one")
            masks[stem] = path
        if not masks:
            raise DataError(f"{folder}: no masks; want files *{_MARK}.gif, *{_MARK}.png or *.png")
        self._format = format
        self._rows = {self._key(stem, label): (path, label) for stem, path in masks.items() for label in format.labels}
        self._read: tuple[Path, rle.Labels] | None = None  # the last mask: its other rows may follow

    @property
    def names(self) -> Collection[str]:
        return self._rows.keys()

    def name_of(self, row_name: str) -> str:
        parsed = self._format.parse_id(row_name)
        return row_name if parsed is None else self._key(*parsed)

    def dice(self, name: str, runs: rle.Edges) -> float:
        path, label = self._rows[name]
        if self._read is None or self._read[0] != path:
            self._read = path, self._labels(path)
        labels = self._read[1]
        try:
            rle.check_inside(runs, *labels.shape)
        except DataError as error:
            raise DataError(f"{path}: the submitted {error}") from error
        return dice(runs, rle.edges(labels == label, order=self._format.order))

    def _key(self, stem: str, label: int) -> str:
        return self._format.id_of(stem, label)

    def _labels(self, path: Path) -> rle.Labels:
        """Label map (H, W): of 0 and 1 where there is one row an image, whatever the object's grey is."""
        if self._format.labels == (1,):
            return MaskFile(path).read()
        picture = load_mask(path)
        if picture.mode not in ONE_CHANNEL:
            raise DataError(f"{path}: mask of mode {picture.mode}, want one channel of labels")
        return np.asarray(picture, np.uint8)
