"""Drawing label maps: colours, overlays, and image, truth, prediction and error side by side."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from distseg import atomic

Pixels = npt.NDArray[np.uint8]

_SIDE_MAX = 320
_WRONG = np.array([230, 40, 40], np.uint8)
_GAP = 4  # pixels between cells
_LINE_HEIGHT = 18
_TINT = 0.45  # of an overlay's colour
_OBJECT = np.array([255, 60, 60], np.uint8)


def palette(classes: int = 256) -> Pixels:
    """(classes, 3) uint8 colours that differ (the PASCAL VOC colour map); class 0 is black."""
    labels = np.arange(classes)
    colours = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def comparison(image: Pixels, truth: Pixels, prediction: Pixels, ignore_label: int | None) -> Pixels:
    """One row (h, w, 3) uint8: image (H, W, 3), label maps (H, W) of truth and prediction, and wrong pixels in red."""
    height, width = truth.shape
    scale = min(1.0, _SIDE_MAX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    wrong = truth != prediction
    if ignore_label is not None:
        wrong &= truth != ignore_label
    error = np.where(wrong[..., None], _WRONG, image // 3)
    colours = palette()
    cells = [image, colours[truth], colours[prediction], error]
    return np.concatenate(
        [np.pad(cv2.resize(cell, size, interpolation=cv2.INTER_AREA), ((0, 0), (0, _GAP), (0, 0))) for cell in cells],
        axis=1,
    )


def titled(row: Pixels, title: str) -> Pixels:
    """The row (h, w, 3) below a line of text in white on black."""
    line = np.zeros((_LINE_HEIGHT, row.shape[1], 3), np.uint8)
    cv2.putText(line, title, (3, _LINE_HEIGHT - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([line, row])


def stacked(rows: Sequence[Pixels]) -> Pixels:
    """Rows (h, w, 3) one under the other, narrower ones filled up with black."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, _GAP), (0, width - row.shape[1]), (0, 0))) for row in rows])


def label_colours(classes: int) -> Pixels:
    """(256, 3) uint8: in which colour `overlay` shows each label. Of two classes, the object is red."""
    colours = palette()
    if classes <= 2:
        colours[1] = _OBJECT
    return colours


def overlay(image: Pixels, labels: Pixels, classes: int, opacity: float = _TINT, plain: Sequence[int] = (0,)) -> Pixels:
    """Image (H, W, 3) uint8 RGB with each label of (H, W) tinted in its colour and outlined: (H, W, 3) uint8.

    ``opacity`` of the tint is in [0, 1]; labels in ``plain`` are left as they are.
    """
    colours = label_colours(classes)
    tinted = cv2.addWeighted(image, 1 - opacity, colours[labels], opacity, 0)
    found = ~np.isin(labels, plain)
    picture = np.where(found[..., None], tinted, image)
    kernel = np.ones((3, 3), np.uint8)
    edges = (cv2.dilate(labels, kernel) != labels) | (cv2.erode(labels, kernel) != labels)
    picture[edges & found] = colours[labels[edges & found]]
    return np.asarray(picture, np.uint8)


def write_png(picture: Pixels, path: Path) -> None:
    """Writes (H, W, 3) uint8 RGB atomically."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic.replacing(path) as file:
        file.write(data.tobytes())
