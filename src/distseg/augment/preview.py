"""What a policy does to pictures, for eyes: a batch and its masks as stored, then the same augmented.

Policy ``adaptive`` is shown at one level after the other, from high error to low; the others, which know no level, in
several draws.
"""

import colorsys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from distseg.augment.keyed_random import Pixels, SeededRandom, key_seed
from distseg.augment.policies import RULES, Augmenter, Drawn
from distseg.config import AugmentConfig

DRAWS = 3
"""Of a policy without levels."""
_CELL = 224  # pixels of a cell's longer side
_GAP = 6
_CAPTION, _NOTE = 20, 13  # pixels of text
_INK, _PAPER = "#222222", "#ffffff"
_TINT = 0.45


@dataclass(frozen=True)
class Example:
    """One sample to show."""

    key: str
    image: Pixels
    """(H, W, 3) uint8 RGB; all examples have one size."""
    masks: tuple[Pixels, ...]
    """One label map, or a mask (0 and 1) for each object; each (H, W) uint8."""
    unmarked: frozenset[int] = frozenset({0})
    """Labels that are not painted: background, void."""


def preview(examples: Sequence[Example], cfg: AugmentConfig, levels: Sequence[float], seed: int = 0) -> Image.Image:
    """One RGB picture: a section as stored, then one for each level (``adaptive``) or draw (all others).

    A section has a row of images and, below, the same with labels in colours and their contours; under it stands what
    was done, where the policy draws single operations. ``levels``: in [0, 1]. The pixels are those that training with
    ``cfg`` and ``seed`` gets in its first epochs, one a section (of ``adaptive``, were these its levels).
    """
    height, width = examples[0].image.shape[:2]
    augmenter = Augmenter(cfg, (width, height))
    sections = [_section("as stored", examples, [""] * len(examples))]
    adaptive = cfg.policy == "adaptive"
    for place, level in enumerate(levels if adaptive else [0.0] * DRAWS):
        seeds = [key_seed(seed, place, example.key) for example in examples]
        shown = []
        for example, one_seed in zip(examples, seeds, strict=True):
            image, masks = augmenter(example.image, example.masks, one_seed, level)
            shown.append(Example(example.key, image, masks, example.unmarked))
        drawn = [operations_drawn(cfg, one_seed, level) for one_seed in seeds]
        caption = f"{cfg.policy}, draw {place + 1}"
        if adaptive:
            caption = f"level {level:.2f}: error {_error(place, len(levels))}"
        if cfg.policy in RULES:
            caption += f", {sum(map(len, drawn)) / len(drawn):.1f} transforms a sample"
        sections.append(_section(caption, shown, [_words(each, cfg.policy) for each in drawn]))
    return _stacked(sections)


def operations_drawn(cfg: AugmentConfig, seed: int, level: float) -> Drawn:
    """The operations and strengths that ``Augmenter`` draws for a sample of this seed; none of a fixed policy."""
    if cfg.policy not in RULES:
        return []
    chance = SeededRandom()
    chance.start(seed)
    return RULES[cfg.policy](cfg, chance.python, level)


def overlay(image: Pixels, masks: Sequence[Pixels], unmarked: frozenset[int]) -> Pixels:
    """Image (H, W, 3) with label maps (H, W) tinted and outlined, a colour for each label; objects, one for each."""
    picture = image.copy()
    for number, mask in enumerate(masks):
        for label in np.unique(mask).tolist():
            if label in unmarked:
                continue
            inside = (mask == label).astype(np.uint8)
            colour = np.array(_colour(number if len(masks) > 1 else label), np.float32)
            here = inside > 0
            picture[here] = np.round((1 - _TINT) * picture[here] + _TINT * colour)
            outlines, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, colour.tolist(), 1)
    return picture


def _error(place: int, levels: int) -> str:
    return "high" if place == 0 else "low" if place == levels - 1 else "middle"


def _words(drawn: Drawn, policy: str) -> str:
    """``rotate 0.6, blur 0.2``; strengths are parts of the operation's fullest."""
    if not drawn:
        return "unchanged" if policy in RULES else ""
    return ", ".join(f"{name} {strength:.2f}" for name, strength in drawn)


def _colour(number: int) -> tuple[int, int, int]:
    """Hues a golden ratio apart: neighbouring labels differ most."""
    red, green, blue = colorsys.hsv_to_rgb(0.618034 * number % 1.0, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _section(caption: str, examples: Sequence[Example], notes: Sequence[str]) -> Image.Image:
    cells = [(_cell(e.image), _cell(overlay(e.image, e.masks, e.unmarked))) for e in examples]
    width, height = cells[0][0].size
    lines = [textwrap.wrap(note, max(8, width // 7)) for note in notes]
    notes_height = max(map(len, lines)) * (_NOTE + 3)
    top = _CAPTION + 12
    size = (len(cells) * (width + _GAP) + _GAP, top + 2 * (height + _GAP) + notes_height + 14)
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, 4), caption, _INK, ImageFont.load_default(_CAPTION))
    for place, (pair, words) in enumerate(zip(cells, lines, strict=True)):
        x = _GAP + place * (width + _GAP)
        for row, cell in enumerate(pair):
            picture.paste(cell, (x, top + row * (height + _GAP)))
        for row, line in enumerate(words):
            y = top + 2 * (height + _GAP) + row * (_NOTE + 3)
            draw.text((x, y), line, _INK, ImageFont.load_default(_NOTE))
    return picture


def _cell(pixels: Pixels) -> Image.Image:
    height, width = pixels.shape[:2]
    scale = _CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ways = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST  # what is small is shown pixel by pixel
    return Image.fromarray(pixels).resize(size, ways)


def _stacked(sections: Sequence[Image.Image]) -> Image.Image:
    picture = Image.new("RGB", (sections[0].width, sum(section.height for section in sections)), _PAPER)
    y = 0
    for section in sections:
        picture.paste(section, (0, y))
        y += section.height
    return picture
