"""Photographs of leaves, coins, nuts and bolts scattered over a table, with the visible part of each object.

Objects are laid one upon the other, each with its shadow, its relief and its texture; beside the canvas goes a map of
which object was laid last on each pixel, so what hides behind another one is in no mask. Pebbles lie about too, which
nobody labelled. Colours are shared between the kinds (copper coins and brown leaves, steel nuts and silver coins).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from distseg.data.synthetic.car import Array, Bgr
from distseg.data.synthetic.noise import sensor_noise, smooth_noise

SUPERSAMPLING = 2
KINDS = ("leaf", "coin", "nut", "bolt")
_COVERED_MAX = 0.6  # share of what is seen of an object that the next one may hide
_SHADOW_PX = 6  # room for the shadow around an object
_METALS: tuple[Bgr, ...] = ((168, 168, 164), (92, 164, 188), (88, 88, 90))
_COLOURS: dict[str, tuple[Bgr, ...]] = {
    "leaf": ((62, 128, 84), (58, 122, 168), (52, 74, 140), (70, 150, 140)),
    "coin": ((70, 108, 166), (84, 168, 200), (176, 178, 180)),
    "nut": _METALS,
    "bolt": _METALS,
    "pebble": ((120, 122, 124), (84, 98, 112), (170, 176, 180), (74, 92, 122), (82, 112, 96)),
}


@dataclass(frozen=True)
class Form:
    """One object lying flat; coordinates in its own radius, BGR 0-255."""

    outline: Array  # (N, 2)
    hole: Array | None  # (N, 2)
    lines: tuple[Array, ...]  # what is engraved on it
    bgr: Bgr
    bevel: float  # width of the rounded edge, in radii
    gloss: float  # how much of the light it mirrors, 0-1
    grain: float  # strength of its texture


@dataclass(frozen=True)
class Seen:
    """What can be seen of one labelled object, or of a heap that nobody would take apart."""

    kind: int  # index into KINDS
    crowd: bool
    fine_mask: Array  # (2H, 2W) uint8 0/1, at the canvas's resolution
    mask: Array  # (H, W) uint8 0/1


class Table:
    """One table in one light; `photograph` strews new objects each time. `size` is width and height in pixels."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self._size = size
        self._top = _table_top(rng, (size[1] * 3 // 2, size[0] * 3 // 2))
        angle = rng.uniform(0, 2 * np.pi)
        self._sun = (float(np.cos(angle)), float(np.sin(angle)))
        self._zoom = rng.uniform(0.8, 1.15)
        self._light = rng.uniform(0.7, 1.1) * rng.uniform(0.94, 1.06, 3)
        self._noise = rng.uniform(2, 5)
        self._blur_px = rng.uniform(0.45, 0.8)

    def photograph(self, rng: np.random.Generator) -> tuple[Array, list[Seen]]:
        """Picture, BGR uint8 (H, W, 3), and what it shows, bottom to top; now and then nothing but pebbles."""
        scatter = _Scatter(self._background(rng), self._sun, rng)
        side = min(self._size) * SUPERSAMPLING * self._zoom
        kinds: list[tuple[int, bool]] = []  # of each index in the map, from 1
        for _ in range(int(rng.integers(0, 5))):
            scatter.lay(_pebble(rng), side * rng.uniform(0.02, 0.06), 0)
        if rng.random() > 0.07:
            if rng.random() < 0.15:
                kind = int(rng.integers(1, len(KINDS)))  # small leaves in a heap would look like one plant
                kinds.append((kind, True))
                self._heap(scatter, rng, kind, side, len(kinds))
            for _ in range(int(rng.integers(4, 14))):
                kind = int(rng.integers(len(KINDS)))
                radius = side * rng.uniform(0.065, 0.12) * (1.35 if KINDS[kind] in ("leaf", "bolt") else 0.9)
                if scatter.lay(_form(rng, kind), radius, len(kinds) + 1):
                    kinds.append((kind, False))
        return self._exposed(scatter.canvas, rng), [
            Seen(kind, crowd, fine, fine[::SUPERSAMPLING, ::SUPERSAMPLING])
            for number, (kind, crowd) in enumerate(kinds, 1)
            for fine in [(scatter.top_most == number).astype(np.uint8)]
        ]

    def _heap(self, scatter: "_Scatter", rng: np.random.Generator, kind: int, side: float, number: int) -> None:
        middle = rng.uniform(0.2, 0.8, 2)
        for _ in range(int(rng.integers(12, 24))):
            where = middle + rng.normal(0, 0.05, 2)
            scatter.lay(_form(rng, kind), side * rng.uniform(0.025, 0.035), number, where)

    def _background(self, rng: np.random.Generator) -> Array:
        """A piece of the table top, mirrored or not, at the canvas's resolution."""
        width, height = self._size
        left, down = rng.integers(0, (self._top.shape[1] - width + 1, self._top.shape[0] - height + 1)).tolist()
        piece = self._top[down : down + height, left : left + width]
        mirrored = piece[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
        return cv2.resize(mirrored, (width * SUPERSAMPLING, height * SUPERSAMPLING), interpolation=cv2.INTER_LINEAR)

    def _exposed(self, canvas: Array, rng: np.random.Generator) -> Array:
        seen = cv2.GaussianBlur(canvas, (5, 5), SUPERSAMPLING * self._blur_px)
        # Picture and masks are taken at the same points, so neither is shifted against the other.
        picture = seen[::SUPERSAMPLING, ::SUPERSAMPLING].astype(np.float32)
        shape = picture.shape[:2]
        lamp = 1 + 0.06 * smooth_noise(rng, shape, (3, 4))
        picture *= cv2.merge([lamp * gain for gain in self._light.tolist()])
        picture += self._noise * sensor_noise(rng, shape)
        return np.clip(picture, 0, 255).astype(np.uint8)


class _Scatter:
    """A canvas, BGR uint8 (2H, 2W, 3), and the map of what lies on top, uint8 (2H, 2W): 0 = nothing labelled."""

    def __init__(self, background: Array, sun: tuple[float, float], rng: np.random.Generator) -> None:
        self.canvas, self._sun, self._rng = background, sun, rng
        self.top_most: Array = np.zeros(background.shape[:2], np.uint8)
        self._texture = smooth_noise(rng, (256, 256), (128, 128))
        self._last: Array | None = None

    def lay(self, form: Form, radius: float, number: int, where: Array | None = None) -> bool:
        """Lays a form where it hides none of the others too much, at `where` (0-1) if given; False when it cannot."""
        height, width = self.top_most.shape
        for _ in range(5):
            middle = self._place(radius / min(width, height)) if where is None else where
            turn = self._rng.uniform(0, 2 * np.pi)
            axes = radius * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            outline = form.outline @ axes + middle * (width, height)
            low = np.maximum(outline.min(axis=0).astype(int) - _SHADOW_PX, 0)
            high = np.minimum(outline.max(axis=0).astype(int) + 2 + _SHADOW_PX, (width, height))
            shift = middle * (width, height) - low
            mask: Array = np.zeros((high - low)[::-1], np.uint8)
            _fill(mask, form.outline @ axes + shift, 1)
            if form.hole is not None:
                _fill(mask, form.hole @ axes + shift, 0)
            area = (slice(low[1], high[1]), slice(low[0], high[0]))
            if self._hides_little(area, mask, number):
                self._draw(form, area, mask, axes, shift)
                np.copyto(self.top_most[area], number, where=mask > 0)
                self._last = middle
                return True
        return False

    def _place(self, reach: float) -> Array:
        """Anywhere on the table, or beside the object before."""
        if self._last is None or self._rng.random() < 0.55:
            return self._rng.uniform(0.04, 0.96, 2)
        angle, far = self._rng.uniform(0, 2 * np.pi), reach * self._rng.uniform(1.0, 2.0)
        beside: Array = self._last + far * np.array([np.cos(angle), np.sin(angle)])
        return beside if np.abs(beside - 0.5).max() < 0.46 else self._rng.uniform(0.04, 0.96, 2)

    def _hides_little(self, area: tuple[slice, slice], mask: Array, number: int) -> bool:
        under = np.bincount(self.top_most[area][mask > 0], minlength=1)
        hidden = [other for other in np.flatnonzero(under).tolist() if other not in (0, number)]
        return all(under[other] <= _COVERED_MAX * np.count_nonzero(self.top_most == other) for other in hidden)

    def _draw(self, form: Form, area: tuple[slice, slice], mask: Array, axes: Array, shift: Array) -> None:
        radius = float(np.hypot(*axes[0]))
        ground = self.canvas[area]
        falling = np.array([[1, 0, 0.5 * _SHADOW_PX * self._sun[0]], [0, 1, 0.5 * _SHADOW_PX * self._sun[1]]])
        shadow: Array = cv2.GaussianBlur(cv2.warpAffine(mask * 255, falling, mask.shape[::-1]), (9, 9), 3)
        cv2.multiply(ground, cv2.merge([255 - (shadow >> 1)] * 3), ground, 1 / 255)
        face: Array = np.full((*mask.shape, 3), form.bgr, np.uint8)
        dark = [0.55 * channel for channel in form.bgr]
        for line in form.lines:
            cv2.polylines(face, [np.rint(line @ axes + shift).astype(np.int32)], False, dark, 2, cv2.LINE_AA)
        depth = np.minimum(cv2.distanceTransform(mask, cv2.DIST_L2, 3), form.bevel * radius)
        rise = cv2.GaussianBlur(np.sqrt(depth * (2 * form.bevel * radius - depth)), (5, 5), 1.2)
        facing = -cv2.Sobel(rise, cv2.CV_32F, 1, 0, scale=0.125) * self._sun[0]
        facing -= cv2.Sobel(rise, cv2.CV_32F, 0, 1, scale=0.125) * self._sun[1]
        facing /= 1 + np.abs(facing)
        rows, columns = (np.arange(length) % 256 for length in mask.shape)
        light = 1 - 0.45 * facing + form.grain * self._texture[np.ix_(rows, columns)]
        gleam = 255 * form.gloss * np.maximum(-facing, 0) ** 3
        lit = face * light[..., None] + gleam[..., None]
        np.copyto(ground, lit.clip(0, 255).astype(np.uint8), where=mask[..., None] > 0)


def _fill(mask: Array, points: Array, value: int) -> None:
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], value)


def _form(rng: np.random.Generator, kind: int) -> Form:
    return (_leaf, _coin, _nut, _bolt)[kind](rng)


def _colour(rng: np.random.Generator, kind: str) -> Bgr:
    chosen = _COLOURS[kind][rng.integers(len(_COLOURS[kind]))]
    b, g, r = np.clip(np.array(chosen) + rng.uniform(-18, 18) + rng.uniform(-8, 8, 3), 10, 240).tolist()
    return b, g, r


def _leaf(rng: np.random.Generator) -> Form:
    """A pointed, slightly curved blade with veins and a stalk."""
    t = np.linspace(0, 1, 28)
    wide = rng.uniform(0.3, 0.5) * np.sin(np.pi * t**0.8) * (1 + 0.06 * (-1) ** np.arange(28))
    curve = rng.uniform(-0.25, 0.25) * (t - 0.5) ** 2 * 4
    x = 1.7 * t - 0.7
    stalk = np.array([(-1.0, curve[0] + 0.05), (-1.0, curve[0] - 0.03)])
    blade = np.concatenate([np.stack([x, curve + wide], -1)[::-1], stalk, np.stack([x, curve - wide], -1)])
    veins = [np.stack([x, curve], -1)]
    for k in range(4, 24, 5):
        veins += [np.array([(x[k], curve[k]), (x[k] + 0.2, curve[k] + s * 0.75 * wide[k])]) for s in (-1, 1)]
    return Form(blade, None, tuple(veins), _colour(rng, "leaf"), 0.25, 0.1, 0.07)


def _coin(rng: np.random.Generator) -> Form:
    """A disc with a rim and a star, a square or rays."""
    rays, inner = int(rng.integers(4, 9)), rng.uniform(0.2, 0.5)
    angle = np.arange(2 * rays + 1) * np.pi / rays
    figure = np.where(np.arange(2 * rays + 1) % 2, inner, 0.6)[:, None] * _around(angle)
    return Form(_ring(40), None, (0.84 * _ring(33, closed=True), figure), _colour(rng, "coin"), 0.10, 0.8, 0.04)


def _nut(rng: np.random.Generator) -> Form:
    """Six corners around a hole."""
    hole = rng.uniform(0.45, 0.58)
    lines = ((hole + 0.1) * _ring(25, closed=True), 0.84 * _ring(25, closed=True))
    return Form(_ring(6), hole * _ring(24), lines, _colour(rng, "nut"), 0.16, 0.9, 0.04)


def _bolt(rng: np.random.Generator) -> Form:
    """A bolt on its side: head and thread."""
    head, thick, long = rng.uniform(0.34, 0.44), rng.uniform(0.16, 0.22), rng.uniform(0.75, 1.0)
    x = np.linspace(-0.5, long, 22)
    thread = thick * (1 + 0.14 * (-1) ** np.arange(22))
    top, bottom = np.stack([x, thread], -1), np.stack([x, -thread], -1)[::-1]
    outline = np.concatenate([[(-1, head), (-0.55, head)], top, bottom, [(-0.55, -head), (-1, -head)]])
    lines = [np.array([(a - 0.04, -thick), (a + 0.04, thick)]) for a in x[3::2].tolist()]
    lines += [np.array([(-1.0, s * 0.4 * head), (-0.55, s * 0.4 * head)]) for s in (-1, 1)]
    return Form(outline, None, tuple(lines), _colour(rng, "bolt"), 0.18, 0.9, 0.04)


def _pebble(rng: np.random.Generator) -> Form:
    angle = np.arange(24) * np.pi / 12
    far = 1 + rng.uniform(0, 0.2) * np.sin(2 * angle + rng.uniform(0, 6)) + rng.uniform(0, 0.1) * np.sin(3 * angle)
    return Form(
        far[:, None] * _around(angle) * (1, rng.uniform(0.6, 0.9)), None, (), _colour(rng, "pebble"), 0.8, 0.2, 0.08
    )


def _ring(corners: int, *, closed: bool = False) -> Array:
    """Corners (N, 2) of a regular polygon of radius 1; `closed` ends it where it began."""
    return _around(np.arange(corners) * 2 * np.pi / (corners - closed))


def _around(angle: Array) -> Array:
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def _table_top(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Cloth, wood, marble or paper, BGR uint8 (H, W, 3)."""
    colours: tuple[Bgr, ...] = ((168, 158, 96), (84, 118, 160), (206, 208, 210), (96, 120, 104), (150, 150, 160))
    base = np.array(colours[rng.integers(len(colours))]) + rng.uniform(-20, 20)
    height, width = shape
    kind = rng.integers(4)
    if kind == 0:
        y, x = np.mgrid[:height, :width]
        field = 0.06 * (np.sin(1.9 * x) + np.sin(1.9 * y)) + 0.05 * smooth_noise(rng, shape, (height // 3, width // 3))
    elif kind == 1:
        grain = smooth_noise(rng, shape, (height // 4, 6)) + smooth_noise(rng, shape, (24, 3))
        field = 0.08 * grain
    elif kind == 2:
        vein = np.abs(smooth_noise(rng, shape, (7, 9)) + 0.3 * smooth_noise(rng, shape, (40, 50)))
        field = 0.05 * smooth_noise(rng, shape, (12, 16)) - 0.18 * np.exp(-((vein / 0.07) ** 2))
    else:
        field = 0.03 * smooth_noise(rng, shape, (height // 2, width // 2))
    top: Array = (base * (1 + field + 0.04 * smooth_noise(rng, shape, (4, 5)))[..., None]).clip(0, 255)
    return top.astype(np.uint8)
