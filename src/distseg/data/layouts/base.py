"""What every layout yields: RawSamples, and a Corpus that holds them with what they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]


class MaskSource(Protocol):
    """Where a raw sample's label map comes from."""

    def read(self) -> Labels:
        """Label map (H, W) uint8 of class indices; DataError (one line, naming the file) when it cannot be had."""
        ...


@dataclass(frozen=True)
class RawSample:
    """One image with its labels, still in the user's own files."""

    key: str
    """Unique in the corpus, without dots or slashes (a WebDataset key)."""
    group: str
    """What must not be split: the car, the sequence."""
    image: Path
    mask: MaskSource
    given_split: str | None = None
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
