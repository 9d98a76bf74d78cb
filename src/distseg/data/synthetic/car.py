"""The shape of a make-believe car: a smooth shell lofted from a side profile, one for each body type.

The car's frame is right-handed and in metres: x forward, y to its left, z up, origin on the floor under its middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bgr = tuple[float, float, float]


@dataclass(frozen=True)
class Body:
    """One body type: sizes in metres; along the car in lengths from the middle, up in heights from the floor."""

    length: float
    width: float
    height: float
    roofline: tuple[tuple[float, float], ...]  # corners of the upper profile, tail to nose, rounded later
    windows: tuple[tuple[float, float], ...]  # side panes, from and to
    screens: tuple[tuple[float, float], ...]  # rear window and windscreen, from and to along the roofline
    doors: tuple[float, ...]  # vertical gaps between the doors
    cargo_bed: tuple[float, float] | None = None


_NOSE = ((0.43, 0.60), (0.485, 0.53), (0.5, 0.36))
BODIES = (
    Body(  # sedan
        4.75, 1.83, 1.46,
        ((-0.5, 0.42), (-0.49, 0.68), (-0.36, 0.72), (-0.20, 0.97), (-0.04, 1.01), (0.07, 0.98), (0.23, 0.69), *_NOSE),
        ((-0.27, -0.145), (-0.135, 0.005), (0.02, 0.19)), ((-0.335, -0.215), (0.085, 0.225)), (-0.17, 0.012, 0.19),
    ),
    Body(  # hatch
        4.15, 1.76, 1.50,
        ((-0.5, 0.45), (-0.49, 0.64), (-0.41, 0.94), (-0.20, 1.01), (0.04, 0.98), (0.22, 0.69), *_NOSE),
        ((-0.36, -0.225), (-0.21, -0.02), (-0.005, 0.18)), ((-0.475, -0.425), (0.06, 0.21)), (-0.22, -0.012, 0.18),
    ),
    Body(  # SUV
        4.70, 1.92, 1.74,
        ((-0.5, 0.42), (-0.49, 0.62), (-0.44, 0.95), (-0.20, 1.01), (0.06, 0.98), (0.21, 0.69), (0.45, 0.63),
         *_NOSE[1:]),
        ((-0.40, -0.235), (-0.22, -0.035), (-0.02, 0.17)), ((-0.48, -0.45), (0.075, 0.20)), (-0.23, -0.028, 0.18),
    ),
    Body(  # van
        5.00, 1.97, 1.90,
        ((-0.5, 0.40), (-0.495, 0.62), (-0.47, 0.96), (-0.20, 1.01), (0.15, 0.97), (0.34, 0.60), (0.47, 0.49),
         (0.5, 0.32)),
        ((-0.44, -0.25), (-0.23, 0.03), (0.05, 0.28)), ((-0.492, -0.475), (0.17, 0.325)), (-0.24, 0.04, 0.25),
    ),
    Body(  # pickup
        5.60, 1.98, 1.86,
        ((-0.5, 0.42), (-0.497, 0.63), (-0.155, 0.635), (-0.15, 0.64), (-0.13, 0.97), (0.0, 1.01), (0.07, 0.98),
         (0.19, 0.67), (0.46, 0.63), *_NOSE[1:]),
        ((-0.115, 0.01), (0.025, 0.16)), ((-0.148, -0.132), (0.08, 0.18)), (-0.125, 0.018, 0.17), (-0.48, -0.16),
    ),
    Body(  # coupe
        4.45, 1.84, 1.34,
        ((-0.5, 0.42), (-0.49, 0.70), (-0.38, 0.75), (-0.13, 1.0), (0.0, 1.01), (0.17, 0.70), (0.43, 0.60), *_NOSE[1:]),
        ((-0.24, -0.105), (-0.09, 0.14)), ((-0.34, -0.16), (0.02, 0.165)), (-0.10, 0.15),
    ),
)  # fmt: skip
_FLOORLINE = ((-0.498, 0.20), (-0.47, 0.17), (-0.36, 0.15), (0.36, 0.13), (0.47, 0.13), (0.497, 0.15))
BELT = 0.665  # where the windows begin, in heights
EDGE_M = 0.09  # radius of the rounded edge between flank and top
_CROWN_M = 0.03  # how far the middle of the roof stands above its edges


def _rounded(corners: Sequence[tuple[float, float]], scale: tuple[float, float]) -> Array:
    """Chaikin's corner cutting: a smooth curve (N, 2) that keeps both ends and never overshoots its corners."""
    curve: Array = np.array(corners)
    for _ in range(3):
        a, b = curve[:-1], curve[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], axis=1).reshape(-1, 2)
        curve = np.concatenate([curve[:1], cut, curve[-1:]])
    curve *= scale
    return curve


@dataclass(frozen=True)
class Car:
    """What makes one car differ from the next; lengths in metres, colours BGR 0-255."""

    body: Body
    length: float
    width: float
    height: float
    wheel_radius: float
    paint: Bgr
    roof_paint: Bgr
    glass: Bgr
    rim: Bgr
    spokes: int
    gloss: float  # strength of the studio's reflection in the paint, 0-1
    antenna_at: float  # where it stands on the roof, in lengths from the middle
    antenna_height: float  # 0 = none
    rails: bool

    @cached_property
    def _profile(self) -> tuple[Array, Array]:
        scale = (self.length, self.height)
        roofline = self.body.roofline
        return _rounded(roofline, scale), _rounded((roofline[0], *_FLOORLINE, roofline[-1]), scale)

    def top(self, x: Array) -> Array:
        return np.interp(x, *self._profile[0].T)

    def bottom(self, x: Array) -> Array:
        return np.interp(x, *self._profile[1].T)

    def half_width(self, x: Array, z: Array) -> Array:
        """Distance of the flank from the middle plane: bulging below the belt, leaning in above it, rounded on top."""
        top, bottom, belt = self.top(x), self.bottom(x), BELT * self.height
        low = np.clip((z - bottom) / np.maximum(belt - bottom, 0.05), 0, 1)
        high = np.clip((z - belt) / (self.height - belt), 0, 1)
        flank = (1 - 0.09 * np.abs(2 * x / self.length) ** 4) * (1 - 0.07 * (2 * low - 1.1) ** 2 - 0.24 * high**1.3)
        edge = np.clip((top - bottom) / 2, 1e-6, EDGE_M)
        rise = np.clip((z - top) / edge + 1, 0, 1)
        y: Array = self.width / 2 * flank - edge * (1 - np.sqrt(1 - rise**2))
        return y

    def _bowed(self, x: Array, y: Array, z: Array) -> Array:
        """Points (..., 3) with nose and tail curved back towards the corners, as seen from above."""
        near_end = np.clip(np.abs(x) / self.length / 0.2 - 1.5, 0, 1)
        bow = np.where(x > 0, 0.26, 0.16) * near_end**2 * (3 - 2 * near_end) * np.abs(2 * y / self.width) ** 2.2
        return np.stack([x - np.sign(x) * bow, y, z], axis=-1)

    def on_side(self, x: Array, z: Array, side: float) -> Array:
        """Points (N, 3) on the left (side = 1) or right (-1) flank."""
        return self._bowed(x, side * self.half_width(x, z), z)

    def on_top(self, x: Array, across: Array) -> Array:
        """Points (N, 3) on hood, screens, roof and deck; `across` runs from -1 to 1."""
        z = self.top(x)
        crown = _CROWN_M * np.clip((z - self.bottom(x)) / 0.3, 0, 1)  # none at the tips, where top meets floor
        return self._bowed(x, across * self.half_width(x, z), z + crown * (1 - across**2))

    def on_end(self, across: Array, z: Array, end: float) -> Array:
        """Points (N, 3) on the nose (end = 1) or the tail (-1); `across` runs from -1 to 1."""
        x = end * np.linspace(0.5, 0.36, 160) * self.length  # from the tip inwards: the first one inside is the skin
        inside = (self.bottom(x) <= z[:, None]) & (self.top(x) >= z[:, None])
        x = x[inside.argmax(axis=1)]
        return self._bowed(x, across * self.half_width(x, z), z)

    @cached_property
    def mesh(self) -> Array:
        """Shell vertices (stations tail to nose, points around from the middle of the floor over the left flank, 3)."""
        x = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 73))[:, None] * self.length / 2  # dense where the ends curve
        top, bottom = self.top(x), self.bottom(x)
        edge = np.clip((top - bottom) / 2, 1e-6, EDGE_M)
        z_flank = bottom + (top - edge - bottom) * np.linspace(0, 1, 11)
        z_edge = top - edge + edge * np.sin(np.linspace(0, np.pi / 2, 6)[1:])
        z = np.concatenate([z_flank, z_edge], axis=1)
        x_side = np.broadcast_to(x, z.shape)
        flank = self._bowed(x_side, self.half_width(x_side, z), z)
        inwards = np.linspace(0.8, 0, 5)
        x_inner = np.broadcast_to(x, (len(x), 5))
        over = self.on_top(x_inner, np.broadcast_to(inwards, x_inner.shape))
        under = self._bowed(x_inner, inwards * self.half_width(x, bottom), np.broadcast_to(bottom, x_inner.shape))
        left = np.concatenate([under[:, ::-1], flank, over], axis=1)
        return np.concatenate([left, left[:, -2::-1] * (1, -1, 1)], axis=1)


_PAINTS: tuple[Bgr, ...] = (
    (226, 228, 228), (205, 206, 206), (184, 184, 182), (150, 150, 148), (112, 110, 106), (72, 70, 68), (34, 33, 33),
    (24, 22, 24), (36, 30, 150), (40, 34, 96), (120, 62, 30), (66, 40, 24), (150, 170, 186), (70, 92, 118),
    (70, 84, 52), (40, 130, 190),
)  # fmt: skip


def random_car(rng: np.random.Generator, body: Body) -> Car:
    """A car of this type in a slightly varied paint; half of the paints are greys, hard to tell from the studio."""
    length, width, height = np.array([body.length, body.width, body.height]) * rng.uniform(0.95, 1.05, 3)
    paint = _varied(rng, _PAINTS[rng.integers(len(_PAINTS))], 10)
    return Car(
        body=body, length=length, width=width, height=height,
        wheel_radius=height * 0.15 + rng.uniform(0.08, 0.12),
        paint=paint,
        roof_paint=(26, 25, 25) if rng.random() < 0.15 else paint,
        glass=_varied(rng, (52, 48, 44), 18),
        rim=_varied(rng, (165, 165, 163) if rng.random() < 0.8 else (60, 60, 60), 25),
        spokes=int(rng.integers(5, 11)),
        gloss=rng.uniform(0.5, 1.0),
        antenna_at=rng.uniform(body.screens[0][1], body.screens[1][0]),
        antenna_height=rng.uniform(0.2, 0.6) if rng.random() < 0.6 else 0.0,
        rails=body.height > 1.6 and body.cargo_bed is None and bool(rng.random() < 0.6),
    )  # fmt: skip


def _varied(rng: np.random.Generator, bgr: Bgr, by: float) -> Bgr:
    b, g, r = np.clip(np.array(bgr) + rng.uniform(-by, by) + rng.uniform(-by / 3, by / 3, 3), 8, 240)
    return float(b), float(g), float(r)


def blend(a: Bgr, b: Bgr, share: float) -> Bgr:
    """`share` of b in a."""
    blue, green, red = (float(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return blue, green, red
