"""What a model says of one image, kept so that another threshold is applied to it without asking the model again.

Of a dense model two bytes a pixel are kept: the likeliest class, and its probability in percents, rounded up; so a
probability is above a threshold of whole percents exactly when its percents are. Of a detector, each object's run
lengths.
"""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from distseg.data import rle
from distseg.data.codec import Pixels, resize_labels
from distseg.export.torchscript import load, manifest_in
from distseg.predict.pictures import mask_png
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.records import ExportManifest
from distseg.tasks.drawing import label_colours, overlay
from distseg.tasks.instance_drawing import class_colour, draw_instances

UNSURE = 255
"""In label maps: no class is as probable as the threshold asks."""
TILE = 1024
"""Pixels. What sees images at their own size sees larger ones in blended tiles: whole ones could fill the memory."""
_OBJECTS_MAX = 254  # that a mask of eight bits tells apart


@dataclass(frozen=True)
class Region:
    """A class that is seen somewhere in an image, or one object."""

    label: int
    name: str
    colour: tuple[int, int, int] | None
    """RGB in which it is drawn; None: left as it is."""
    share: float
    """Of the image's pixels, in [0, 1]."""
    score: float | None
    """Of an object."""


class Answer(Protocol):
    """At any threshold in [0, 1], whole percents."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""

    @property
    def nbytes(self) -> int:
        """Of memory, about."""

    def regions(self, threshold: float) -> list[Region]:
        """Of a dense model, all classes; of a detector, the objects by falling score."""

    def drawn(self, image: Pixels, threshold: float, opacity: float) -> Pixels:
        """Drawn into the image (H, W, 3) uint8 RGB of this size; ``opacity`` of the tint is in [0, 1]."""

    def mask(self, threshold: float) -> bytes:
        """A PNG file of labels; of a detector, of the objects' places in ``regions`` from 1, the surest on top."""

    def run_lengths(self, name: str, threshold: float) -> str:
        """A csv file as Carvana has it (row-major, first pixel 1), a row for each class or object seen in ``name``."""

    def reduced(self, size: tuple[int, int]) -> "Answer":
        """The same at another ``size`` = (width, height)."""


@dataclass(frozen=True)
class DenseAnswer:
    """Of task binary or multiclass."""

    classes: tuple[str, ...]
    likeliest: Pixels | None
    """(H, W) uint8: class; None: two classes, and ``percents`` is about the second one."""
    percents: Pixels
    """(H, W) uint8, 0 to 100."""

    @classmethod
    def of(cls, probabilities: torch.Tensor, classes: tuple[str, ...]) -> "DenseAnswer":
        """From float32 (C, H, W): of the object alone for C = 1, else of each class."""
        if probabilities.shape[0] == 1:
            return cls(classes, None, _percents(probabilities[0]))
        best, likeliest = probabilities.max(dim=0)
        return cls(classes, likeliest.to(torch.uint8).cpu().numpy(), _percents(best))

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.percents.shape
        return width, height

    @property
    def nbytes(self) -> int:
        return self.percents.nbytes * (1 if self.likeliest is None else 2)

    def labels(self, threshold: float) -> Pixels:
        """(H, W) uint8: the class, where its probability is above the threshold; else 0 of two classes, or UNSURE."""
        sure = self.percents > round(100 * threshold)
        if self.likeliest is None:
            return sure.astype(np.uint8)
        return np.where(sure, self.likeliest, np.uint8(UNSURE))

    def regions(self, threshold: float) -> list[Region]:
        counts = np.bincount(self.labels(threshold).reshape(-1), minlength=256)
        colours = label_colours(len(self.classes)).tolist()
        return [
            Region(label, name, tuple(colours[label]) if label else None, int(counts[label]) / self.percents.size, None)
            for label, name in enumerate(self.classes)
        ]

    def drawn(self, image: Pixels, threshold: float, opacity: float) -> Pixels:
        return overlay(image, self.labels(threshold), len(self.classes), opacity, plain=(0, UNSURE))

    def mask(self, threshold: float) -> bytes:
        return mask_png(self.labels(threshold), len(self.classes))

    def run_lengths(self, name: str, threshold: float) -> str:
        labels = self.labels(threshold)
        if self.likeliest is None:
            return _csv(("img", "rle_mask"), [(name, rle.encode(labels))])
        seen = [label for label in range(len(self.classes)) if (labels == label).any()]
        rows = [(name, self.classes[label], rle.encode(labels == label)) for label in seen]
        return _csv(("img", "class", "rle_mask"), rows)

    def reduced(self, size: tuple[int, int]) -> "DenseAnswer":
        likeliest = None if self.likeliest is None else resize_labels(self.likeliest, size)
        return DenseAnswer(self.classes, likeliest, resize_labels(self.percents, size))


@dataclass(frozen=True)
class ObjectsAnswer:
    """Of task instance."""

    classes: tuple[str, ...]
    size: tuple[int, int]
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    """Falling."""
    runs: tuple[str, ...]
    """Each object's run lengths, row-major from 1."""

    @classmethod
    def of(cls, found: dict[str, torch.Tensor], classes: tuple[str, ...]) -> "ObjectsAnswer":
        """From what an exported file finds in one image."""
        height, width = found["masks"].shape[1:]
        runs = tuple(rle.encode(mask.cpu().numpy()) for mask in found["masks"])
        return cls(classes, (width, height), tuple(found["labels"].tolist()), tuple(found["scores"].tolist()), runs)

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.runs))

    def regions(self, threshold: float) -> list[Region]:
        width, height = self.size
        return [
            Region(
                label,
                self.classes[label],
                class_colour(label),
                float(np.diff(rle.parse(runs))[::2].sum()) / (width * height),
                score,
            )
            for label, score, runs in self._sure(threshold)
        ]

    def drawn(self, image: Pixels, threshold: float, opacity: float) -> Pixels:
        sure = self._sure(threshold)
        masks = [self._mask(runs) for _, _, runs in sure]
        labels, scores = [label for label, _, _ in sure], [score for _, score, _ in sure]
        return draw_instances(image, masks, labels, self.classes, scores, opacity)

    def mask(self, threshold: float) -> bytes:
        numbers = np.zeros(self.size[::-1], np.uint8)
        sure = self._sure(threshold)[:_OBJECTS_MAX]
        for number, (_, _, runs) in reversed(list(enumerate(sure, 1))):
            numbers[self._mask(runs) > 0] = number
        return mask_png(numbers, 256)

    def run_lengths(self, name: str, threshold: float) -> str:
        rows = [(name, self.classes[label], f"{score:.4f}", runs) for label, score, runs in self._sure(threshold)]
        return _csv(("img", "class", "score", "rle_mask"), rows)

    def reduced(self, size: tuple[int, int]) -> "ObjectsAnswer":
        if size == self.size:
            return self
        runs = tuple(rle.encode(resize_labels(self._mask(each), size)) for each in self.runs)
        return ObjectsAnswer(self.classes, size, self.labels, self.scores, runs)

    def _sure(self, threshold: float) -> list[tuple[int, float, str]]:
        found = zip(self.labels, self.scores, self.runs, strict=True)
        return [(label, score, runs) for label, score, runs in found if score >= threshold]

    def _mask(self, runs: str) -> Pixels:
        width, height = self.size
        return rle.decode(runs, height, width)


class Answerer(Protocol):
    """An exported file of any task."""

    @property
    def manifest(self) -> ExportManifest: ...

    @property
    def device(self) -> torch.device: ...

    def answer(self, image: Pixels) -> tuple[Answer, float]:
        """For an image (H, W, 3) uint8 RGB; also the milliseconds that the model itself took."""


@dataclass(frozen=True)
class DenseAnswerer:
    """Of task binary or multiclass."""

    segmenter: Segmenter

    @property
    def manifest(self) -> ExportManifest:
        return self.segmenter.manifest

    @property
    def device(self) -> torch.device:
        return self.segmenter.device

    def answer(self, image: Pixels) -> tuple[Answer, float]:
        started = time.perf_counter()
        found = self.segmenter.probabilities(_batch(image, self.device))[0]
        milliseconds = _since(started, self.device)
        return DenseAnswer.of(found, self.manifest.classes), milliseconds


@dataclass(frozen=True)
class ObjectsAnswerer:
    """Of task instance."""

    module: torch.jit.ScriptModule
    manifest: ExportManifest
    device: torch.device

    @torch.inference_mode()
    def answer(self, image: Pixels) -> tuple[Answer, float]:
        started = time.perf_counter()
        found = self.module.detect([_batch(image, self.device)[0]])[0]
        milliseconds = _since(started, self.device)
        return ObjectsAnswer.of(found, self.manifest.classes), milliseconds


def open_answerer(path: Path) -> Answerer:
    """Opens an exported file, of whatever task, on a GPU where there is one; DataError when it is no such file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    known = manifest_in(path) if path.is_file() else None
    if known is not None and known.task == "instance":
        loaded = load(path, device)
        return ObjectsAnswerer(loaded.module, loaded.manifest, torch.device(device))
    tile = TILE if known is not None and known.input_size is None else None
    return DenseAnswerer(Segmenter.open(Recipe(models=(path,), tile=tile, device=device)))


def _batch(image: Pixels, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(device)


def _since(started: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started)


def _percents(probabilities: torch.Tensor) -> Pixels:
    """Rounded up: p > k / 100 exactly when its percents are above k."""
    percents: Pixels = (100 * probabilities).ceil().clamp(0, 100).to(torch.uint8).cpu().numpy()
    return percents


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
