"""Objects drawn over their image: a tint and an outline each, with class and score beside it."""

from collections.abc import Sequence

import cv2
import numpy as np

from distseg.data.codec import Pixels

_GOLDEN = 0.618034  # steps of it around the circle of hues never come close to one another soon


def draw_instances(
    image: Pixels,
    masks: Sequence[Pixels],
    labels: Sequence[int],
    classes: Sequence[str],
    scores: Sequence[float] | None = None,
    opacity: float = 0.45,
) -> Pixels:
    """Image (H, W, 3) uint8 RGB and objects, each a mask (H, W) of 0 and 1 -> the same with the objects drawn in.

    Colours are those of the classes. ``opacity`` of the tint is in [0, 1]. Text is drawn where it fits, the first
    object's on top.
    """
    picture = image.copy()
    thick = max(1, round(max(image.shape[:2]) / 400))
    for mask, label in zip(reversed(masks), reversed(labels), strict=True):
        left, top, wide, high = cv2.boundingRect(mask)
        if not wide:
            continue
        there = (slice(top, top + high), slice(left, left + wide))
        inside = mask[there] > 0
        colour = class_colour(label)
        tinted = (1 - opacity) * picture[there][inside] + opacity * np.array(colour)
        picture[there][inside] = tinted.round().astype(np.uint8)
        outlines, _ = cv2.findContours(mask[there], cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(left, top))
        cv2.drawContours(picture, outlines, -1, colour, thick)
    for number in reversed(range(len(masks))):
        left, top, wide, _ = cv2.boundingRect(masks[number])
        if wide:
            text = classes[labels[number]] + (f" {scores[number]:.2f}" if scores is not None else "")
            _write(picture, text, left, top, class_colour(labels[number]))
    return picture


def class_colour(label: int) -> tuple[int, int, int]:
    """RGB of a class index; neighbours differ clearly."""
    hue = round(180 * ((0.08 + label * _GOLDEN) % 1))
    red, green, blue = cv2.cvtColor(np.array([[[hue, 205, 255]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _write(picture: Pixels, text: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
    """Text on the class's colour, above (left, top) where there is room, else below it."""
    height, width = picture.shape[:2]
    size = max(0.35, max(height, width) / 1600)
    thick = max(1, round(size * 1.6))
    (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, thick)
    left = max(0, min(left, width - wide - 4))
    bottom = top if top >= high + below + 2 else min(height, top + high + below + 2)
    cv2.rectangle(picture, (left, bottom - high - below - 2), (left + wide + 4, bottom), colour, cv2.FILLED)
    at = (left + 2, bottom - below)
    brightness = 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2]
    ink = (20, 20, 20) if brightness > 120 else (255, 255, 255)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, ink, thick, cv2.LINE_AA)
