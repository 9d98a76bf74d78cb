"""What every layout yields: RawSamples, and a Corpus that holds them with what they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from distseg.data.manifest import Split

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Instance:
    """One object in an image."""

    label: int
    """Index into the corpus's classes."""
    counts: str
    """COCO's compressed run lengths of its mask, column-major, at the size of the image."""
    crowd: bool
    """COCO's ``iscrowd``: the mask covers several objects that are not told apart."""


class MaskSource(Protocol):
    """Where a raw sample's label map comes from."""

    def read(self) -> Labels:
        """Label map (H, W) uint8 of class indices; DataError (one line, naming the file) when it cannot be had."""
        ...


class InstanceSource(Protocol):
    """Where a raw sample's objects come from."""

    def read(self) -> tuple[Instance, ...]:
        """Its objects, none or more; DataError (one line, naming the file) when they cannot be had."""
        ...


@dataclass(frozen=True)
class LayoutOptions:
    """What a person may say of a raw folder beyond its layout; a layout refuses what does not apply to it."""

    group_regex: str | None = None
    """Its first group (or whole match), searched in the image's stem, names the sample's group."""
    classes: Path | None = None
    """File of class names and colours."""
    ignore_label: int | None = None


@dataclass(frozen=True)
class RawSample:
    """One image with its labels, still in the user's own files. Exactly one of ``mask`` and ``instances`` is given."""

    key: str
    """Unique in the corpus, without dots or slashes (a WebDataset key)."""
    group: str
    """What must not be split: the car, the sequence."""
    image: Path
    mask: MaskSource | None = None
    """The label map (tasks binary and multiclass)."""
    instances: InstanceSource | None = None
    """The objects (task instance)."""
    given_split: Split | None = None
    """``train``, ``val`` or ``test`` where the folder itself says so."""


@dataclass(frozen=True)
class Corpus:
    """A raw data set as its layout reads it."""

    layout: str
    task: str
    classes: tuple[str, ...]
    """Names by class index."""
    ignore_label: int | None
    samples: Sequence[RawSample]
