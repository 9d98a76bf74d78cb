"""Pictures of what a network does: image, truth, prediction and error, side by side, a row a sample."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from distseg import atomic
from distseg.data.stream import Batch
from distseg.tasks.predictor import Predictor

Pixels = npt.NDArray[np.uint8]
_ROWS = 4
_SIDE_MAX = 320
_WRONG = np.array([230, 40, 40], np.uint8)


def panel(
    predictor: Predictor, batches: Iterable[Batch], ignore_label: int | None, device: torch.device
) -> Pixels | None:
    """(H, W, 3) uint8 RGB of the first validation samples: image, truth, prediction, and wrong pixels in red.

    None when no sample can be read.
    """
    rows: list[Pixels] = []
    for batch in batches:
        if not batch.keys:  # nothing of it could be read
            continue
        taken = batch.images[: _ROWS - len(rows)].to(device)
        with torch.inference_mode():
            predictions = predictor(taken).cpu().numpy()
        for image, truth, prediction in zip(taken.cpu(), batch.masks.numpy(), predictions, strict=False):
            rows.append(_row(image.permute(1, 2, 0).numpy(), truth, prediction, ignore_label))
        if len(rows) == _ROWS:
            break
    if not rows:
        return None
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows])


def write_png(picture: Pixels, path: Path) -> None:
    """Writes (H, W, 3) uint8 RGB atomically."""
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with atomic.replacing(path) as file:
        file.write(data.tobytes())


def palette(classes: int = 256) -> Pixels:
    """(classes, 3) uint8 colours that differ (the PASCAL VOC colour map); class 0 is black."""
    labels = np.arange(classes)
    colours = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def _row(image: Pixels, truth: Pixels, prediction: Pixels, ignore_label: int | None) -> Pixels:
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
        [np.pad(cv2.resize(cell, size, interpolation=cv2.INTER_AREA), ((0, 0), (0, 4), (0, 0))) for cell in cells],
        axis=1,
    )
