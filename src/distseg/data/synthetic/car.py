"""A make-believe car: a smooth shell lofted from a side profile, seen through a camera and filled polygon by polygon.

Two right-handed frames, both in metres: the car's own (x forward, y to its left, z up, origin on the floor under its
middle) and the studio's (x to the right in the picture, y away from the camera, z up, origin on the turntable's axis).
Everything is drawn on one BGRA canvas whose fourth channel is 255 exactly where the car is, so the mask cannot drift
from the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bgr = tuple[float, float, float]

TYRE: Bgr = (30, 28, 27)
PLASTIC: Bgr = (44, 42, 41)


@dataclass(frozen=True)
class Camera:
    """A level camera with a shifted lens: upright edges stay upright wherever the car stands in the frame."""

    size: tuple[int, int]  # canvas width and height, pixels
    focal: float  # in canvas widths
    centre: tuple[float, float]  # where the optical axis meets the canvas, in canvas widths and heights
    eye: tuple[float, float, float]  # position in the studio frame, metres

    def project(self, points: Array) -> Array:
        """Studio points (..., 3) to canvas pixels (..., 2); the picture is a 3:2 one squeezed into `size`."""
        offset = points - np.array(self.eye)
        slope = self.focal * offset[..., [0, 2]] / offset[..., [1]]
        return (np.array(self.centre) + slope * (1.0, -1.5)) * self.size


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
BODIES = {
    "sedan": Body(
        4.75, 1.83, 1.46,
        ((-0.5, 0.42), (-0.49, 0.68), (-0.36, 0.72), (-0.20, 0.97), (-0.04, 1.01), (0.07, 0.98), (0.23, 0.69), *_NOSE),
        ((-0.27, -0.145), (-0.135, 0.005), (0.02, 0.19)), ((-0.335, -0.215), (0.085, 0.225)), (-0.17, 0.012, 0.19),
    ),
    "hatch": Body(
        4.15, 1.76, 1.50,
        ((-0.5, 0.45), (-0.49, 0.64), (-0.41, 0.94), (-0.20, 1.01), (0.04, 0.98), (0.22, 0.69), *_NOSE),
        ((-0.36, -0.225), (-0.21, -0.02), (-0.005, 0.18)), ((-0.475, -0.425), (0.06, 0.21)), (-0.22, -0.012, 0.18),
    ),
    "suv": Body(
        4.70, 1.92, 1.74,
        ((-0.5, 0.42), (-0.49, 0.62), (-0.44, 0.95), (-0.20, 1.01), (0.06, 0.98), (0.21, 0.69), (0.45, 0.63), *_NOSE[1:]),
        ((-0.40, -0.235), (-0.22, -0.035), (-0.02, 0.17)), ((-0.48, -0.45), (0.075, 0.20)), (-0.23, -0.028, 0.18),
    ),
    "van": Body(
        5.00, 1.97, 1.90,
        ((-0.5, 0.40), (-0.495, 0.62), (-0.47, 0.96), (-0.20, 1.01), (0.15, 0.97), (0.34, 0.60), (0.47, 0.49), (0.5, 0.32)),
        ((-0.44, -0.25), (-0.23, 0.03), (0.05, 0.28)), ((-0.492, -0.475), (0.17, 0.325)), (-0.24, 0.04, 0.25),
    ),
    "pickup": Body(
        5.60, 1.98, 1.86,
        ((-0.5, 0.42), (-0.497, 0.63), (-0.155, 0.635), (-0.15, 0.64), (-0.13, 0.97), (0.0, 1.01), (0.07, 0.98),
         (0.19, 0.67), (0.46, 0.63), *_NOSE[1:]),
        ((-0.115, 0.01), (0.025, 0.16)), ((-0.148, -0.132), (0.08, 0.18)), (-0.125, 0.018, 0.17), (-0.48, -0.16),
    ),
    "coupe": Body(
        4.45, 1.84, 1.34,
        ((-0.5, 0.42), (-0.49, 0.70), (-0.38, 0.75), (-0.13, 1.0), (0.0, 1.01), (0.17, 0.70), (0.43, 0.60), *_NOSE[1:]),
        ((-0.24, -0.105), (-0.09, 0.14)), ((-0.34, -0.16), (0.02, 0.165)), (-0.10, 0.15),
    ),
}  # fmt: skip
_FLOORLINE = ((-0.5, 0.42), (-0.49, 0.21), (-0.40, 0.15), (0.40, 0.13), (0.485, 0.16), (0.5, 0.36))
_BELT = 0.665  # where the windows begin, in heights
_EDGE_M = 0.09  # radius of the rounded edge between flank and top
_CROWN_M = 0.03  # how far the middle of the roof stands above its edges


def _rounded(corners: Sequence[tuple[float, float]], scale: tuple[float, float]) -> Array:
    """Chaikin's corner cutting: a smooth curve (N, 2) that keeps both ends and never overshoots its corners."""
    curve = np.array(corners)
    for _ in range(3):
        a, b = curve[:-1], curve[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], axis=1).reshape(-1, 2)
        curve = np.concatenate([curve[:1], cut, curve[-1:]])
    return curve * scale


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
    antenna: tuple[float, float]  # where it stands (lengths from the middle) and how tall it is (metres, 0 = none)
    rails: bool

    @cached_property
    def _profile(self) -> tuple[Array, Array]:
        scale = (self.length, self.height)
        return _rounded(self.body.roofline, scale), _rounded(_FLOORLINE, scale)

    def top(self, x: Array) -> Array:
        return np.interp(x, *self._profile[0].T)

    def bottom(self, x: Array) -> Array:
        return np.interp(x, *self._profile[1].T)

    def half_width(self, x: Array, z: Array) -> Array:
        """Distance of the flank from the middle plane: bulging below the belt, leaning in above it, rounded on top."""
        top, bottom, belt = self.top(x), self.bottom(x), _BELT * self.height
        low = np.clip((z - bottom) / np.maximum(belt - bottom, 0.05), 0, 1)
        high = np.clip((z - belt) / (self.height - belt), 0, 1)
        flank = (1 - 0.09 * np.abs(2 * x / self.length) ** 4) * (1 - 0.07 * (2 * low - 1.1) ** 2 - 0.24 * high**1.3)
        edge = np.clip((top - bottom) / 2, 1e-6, _EDGE_M)
        rise = np.clip((z - top) / edge + 1, 0, 1)
        return self.width / 2 * flank - edge * (1 - np.sqrt(1 - rise**2))

    def _bowed(self, x: Array, y: Array, z: Array) -> Array:
        """Points (..., 3) with nose and tail curved back towards the corners, as seen from above."""
        near_end = np.clip(np.abs(x) / self.length / 0.2 - 1.5, 0, 1)
        bow = np.where(x > 0, 0.34, 0.18) * near_end**2 * (3 - 2 * near_end) * np.abs(2 * y / self.width) ** 2.2
        return np.stack([x - np.sign(x) * bow, y, z], axis=-1)

    def on_side(self, x: Array, z: Array, side: float) -> Array:
        """Points (N, 3) on the left (side = 1) or right (-1) flank."""
        return self._bowed(x, side * self.half_width(x, z), z)

    def on_top(self, x: Array, across: Array) -> Array:
        """Points (N, 3) on hood, screens, roof and deck; `across` runs from -1 to 1."""
        z = self.top(x)
        return self._bowed(x, across * self.half_width(x, z), z + _CROWN_M * (1 - across**2))

    def on_end(self, across: Array, z: Array, end: float) -> Array:
        """Points (N, 3) on the nose (end = 1) or the tail (-1); `across` runs from -1 to 1."""
        x = end * np.linspace(0.5, 0.36, 160) * self.length  # from the tip inwards: the first one inside is the skin
        inside = (self.bottom(x) <= z[:, None]) & (self.top(x) >= z[:, None])
        x = x[inside.argmax(axis=1)]
        return self._bowed(x, across * self.half_width(x, z), z)

    @cached_property
    def mesh(self) -> Array:
        """Shell vertices (stations tail to nose, points from the left sill over the top to the right sill, 3)."""
        x = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 73))[:, None] * self.length / 2  # dense where the ends curve
        top, bottom = self.top(x), self.bottom(x)
        edge = np.clip((top - bottom) / 2, 1e-6, _EDGE_M)
        z_flank = bottom + (top - edge - bottom) * np.linspace(0, 1, 11)
        z_edge = top - edge + edge * np.sin(np.linspace(0, np.pi / 2, 6)[1:])
        z = np.concatenate([z_flank, z_edge], axis=1)
        x_side = np.broadcast_to(x, z.shape)
        flank = self._bowed(x_side, self.half_width(x_side, z), z)
        across = np.broadcast_to(np.linspace(0.8, 0, 5), (len(x), 5))
        left = np.concatenate([flank, self.on_top(np.broadcast_to(x, across.shape), across)], axis=1)
        return np.concatenate([left, left[:, -2::-1] * (1, -1, 1)], axis=1)


_PAINTS: tuple[Bgr, ...] = (
    (226, 228, 228), (205, 206, 206), (184, 184, 182), (150, 150, 148), (112, 110, 106), (72, 70, 68), (34, 33, 33),
    (24, 22, 24), (36, 30, 150), (40, 34, 96), (120, 62, 30), (66, 40, 24), (150, 170, 186), (70, 92, 118), (70, 84, 52),
    (40, 130, 190),
)  # fmt: skip


def random_car(rng: np.random.Generator) -> Car:
    body = BODIES[str(rng.choice(list(BODIES)))]
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
        antenna=(rng.uniform(-0.36, -0.1), rng.uniform(0.2, 0.6) if rng.random() < 0.6 else 0.0),
        rails=body.height > 1.6 and body.cargo_bed is None and bool(rng.random() < 0.6),
    )  # fmt: skip


def _varied(rng: np.random.Generator, bgr: Bgr, by: float) -> Bgr:
    b, g, r = np.clip(np.array(bgr) + rng.uniform(-by, by) + rng.uniform(-by / 3, by / 3, 3), 8, 240)
    return float(b), float(g), float(r)


class CarPainter:
    """Draws one car at one heading: `to_studio` places its points, `draw` fills them back to front."""

    def __init__(self, canvas: Array, camera: Camera, car: Car, heading_rad: float) -> None:
        self.canvas, self.camera, self.car = canvas, camera, car
        c, s = np.cos(heading_rad), np.sin(heading_rad)
        self._turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])  # rows: the car's axes in the studio frame

    def to_studio(self, points: Array) -> Array:
        return points @ self._turn

    def draw(self) -> None:
        car = self.car
        eye = self._turn @ np.array(self.camera.eye)  # in the car's frame
        near, far = (1.0, -1.0) if eye[1] > 0 else (-1.0, 1.0)
        flank_seen = abs(eye[1]) > car.width / 2
        for side in (far, near):
            for x in self._axles():
                self._wheel(x, side)
            self._mirror(side)
        self._shell(eye)
        for points, bgr in self._details(near):
            if _faces(points, eye):
                self._fill(points, bgr)
        if flank_seen:
            for x in self._axles():
                self._arch(x, near)
                self._wheel(x, near)
                self._wheel_face(x, near)
            self._mirror(near)
        self._thin_parts()

    def _axles(self) -> tuple[float, float]:
        return -0.30 * self.car.length, 0.315 * self.car.length

    def _fill(self, points: Array, bgr: Bgr) -> None:
        pixels = np.rint(self.camera.project(self.to_studio(points))).astype(np.int32)
        cv2.fillPoly(self.canvas, [pixels], (*bgr, 255))

    def _fill_hull(self, points: Array, bgr: Bgr) -> None:
        pixels = np.rint(self.camera.project(self.to_studio(points))).astype(np.int32)
        cv2.fillConvexPoly(self.canvas, cv2.convexHull(pixels), (*bgr, 255))

    def _line(self, points: Array, bgr: Bgr, width_m: float) -> None:
        scale = self.camera.focal * self.camera.size[0] / abs(self.camera.eye[1])  # pixels in a metre at the car
        pixels = np.rint(self.camera.project(self.to_studio(points))).astype(np.int32)
        # Three canvas pixels survive the mask's halving as an unbroken line.
        cv2.polylines(self.canvas, [pixels], False, (*bgr, 255), max(3, round(width_m * scale)))

    def _shell(self, eye: Array) -> None:
        """Paint the shell's quads that face the eye, farthest first, each one by its normal and what it mirrors."""
        car, mesh = self.car, self.car.mesh
        corners = np.stack([mesh[:-1, :-1], mesh[1:, :-1], mesh[1:, 1:], mesh[:-1, 1:]], axis=2)  # (S, T, 4, 3)
        normal = np.cross(corners[:, :, 2] - corners[:, :, 0], corners[:, :, 1] - corners[:, :, 3])
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
        middle = corners.mean(axis=2)
        sight = eye - middle
        distance = np.linalg.norm(sight, axis=-1)
        facing = (normal * sight).sum(-1) / distance
        colour = self._shade(self._base_colours(middle), normal @ self._turn, (sight / distance[..., None]) @ self._turn)
        pixels = np.rint(self.camera.project(self.to_studio(corners))).astype(np.int32)
        seen = np.flatnonzero(facing > 0)
        seen = seen[np.argsort(-distance.ravel()[seen])]
        for quad, bgr in zip(pixels.reshape(-1, 4, 2)[seen], colour.reshape(-1, 3)[seen].tolist(), strict=True):
            cv2.fillConvexPoly(self.canvas, quad, (*bgr, 255))

    def _base_colours(self, middle: Array) -> Array:
        car = self.car
        x, z = middle[..., 0], middle[..., 2]
        colour = np.broadcast_to(np.array(car.paint), middle.shape).copy()
        upper = z > car.top(x) - 0.5 * _EDGE_M
        colour[upper & (z > 0.9 * car.height)] = car.roof_paint
        if car.body.cargo_bed is not None:
            tail, cab = np.array(car.body.cargo_bed) * car.length
            colour[upper & (x > tail) & (x < cab) & (np.abs(middle[..., 1]) < 0.42 * car.width)] = PLASTIC
        colour[z < car.bottom(x) + 0.06 * car.height] = PLASTIC
        return colour

    def _shade(self, base: Array, normal: Array, sight: Array) -> Array:
        """BGR (..., 3): soft light from above and the left, plus a white ceiling and a dark horizon mirrored in it."""
        cosine = np.clip((normal * sight).sum(-1), 0, 1)
        up = 2 * cosine * normal[..., 2] - sight[..., 2]  # height of the mirrored direction
        ceiling = 0.35 + 0.65 / (1 + np.exp(-14 * (up - 0.22))) - 0.25 * np.exp(-((up - 0.05) ** 2) / 0.006)
        fresnel = self.car.gloss * (0.10 + 0.55 * (1 - cosine) ** 3)
        diffuse = 0.68 + 0.34 * normal[..., 2] - 0.10 * normal[..., 0]
        return np.clip(base * diffuse[..., None] * (1 - fresnel[..., None]) + (245 * fresnel * ceiling)[..., None], 4, 252)

    def _details(self, near: float) -> list[tuple[Array, Bgr]]:
        """Flat patches on the shell: panes, lights, plates, gaps; (points (N, 3), colour) in drawing order."""
        car, patches = self.car, list[tuple[Array, Bgr]]()
        high, length = car.height, car.length
        glint = _blend(car.glass, (235, 235, 235), 0.22)
        for from_x, to_x in car.body.windows:
            for share, bgr in ((1.0, car.glass), (0.45, glint)):
                x = np.linspace(from_x, from_x + (to_x - from_x) * share, 24) * length
                sill = np.full_like(x, (_BELT + 0.015) * high)
                roof = np.maximum(car.top(x) - 0.085 * high, sill)
                if share < 1:
                    sill = roof - 0.6 * (roof - sill)
                patches.append((car.on_side(np.r_[x, x[::-1]], np.r_[sill, roof[::-1]], near), bgr))
        for from_x, to_x in car.body.screens:
            x = np.linspace(from_x, to_x, 12) * length
            patches.append((car.on_top(np.r_[x, x[::-1]], np.repeat([-0.93, 0.93], 12)), car.glass))
            x = np.linspace(0.55 * from_x + 0.45 * to_x, to_x, 8) * length
            patches.append((car.on_top(np.r_[x, x[::-1]], np.r_[np.linspace(-0.2, 0.1, 8), np.full(8, 0.9)]), glint))
        gap = _blend(car.paint, (0, 0, 0), 0.55)
        for at in car.body.doors:
            z = np.linspace(0.20, _BELT, 10) * high
            x = np.full_like(z, at * length)
            patches.append((car.on_side(np.r_[x, x[::-1] + 0.014], np.r_[z, z[::-1]], near), gap))
        for at in car.body.doors[:-1]:
            patches.append((self._side_box(at + 0.018, 0.60, 0.035, 0.02, near), gap))
        bright, red, plate = (238, 236, 226), (38, 32, 178), (222, 214, 206)
        for across in (-1.0, 1.0):
            patches.append((self._end_box(0.80 * across, 0.515, 0.17, 0.085, 1), bright))
            patches.append((self._end_box(0.80 * across, 0.515, 0.07, 0.05, 1), (150, 150, 150)))
            patches.append((self._end_box(0.84 * across, 0.56, 0.13, 0.13, -1), red))
        patches.append((self._end_box(0, 0.44, 0.52, 0.11, 1), PLASTIC))
        patches.append((self._end_box(0, 0.24, 0.62, 0.08, 1), PLASTIC))
        patches.append((self._end_box(0, 0.30, 0.16, 0.075, 1), plate))
        patches.append((self._end_box(0, 0.25, 0.80, 0.09, -1), PLASTIC))
        patches.append((self._end_box(0, 0.46, 0.16, 0.075, -1), plate))
        patches.append((self._side_box(-0.478, 0.565, 0.05, 0.10, near), red))
        patches.append((self._side_box(0.455, 0.525, 0.06, 0.06, near), bright))
        return patches

    def _side_box(self, x: float, z: float, long: float, high: float, side: float) -> Array:
        car = self.car
        xs = np.repeat([x - long / 2, x + long / 2], 2) * car.length
        return car.on_side(xs, np.array([z - high / 2, z + high / 2, z + high / 2, z - high / 2]) * car.height, side)

    def _end_box(self, across: float, z: float, wide: float, high: float, end: float) -> Array:
        xs = np.linspace(across - wide, across + wide, 9)
        zs = np.repeat([z - high / 2, z + high / 2], 9) * self.car.height
        return self.car.on_end(np.r_[xs, xs[::-1]], zs, end)

    def _circle(self, x: float, radius: float, y: float, points: int = 40) -> Array:
        angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
        z = self.car.wheel_radius + radius * np.sin(angle)
        return np.stack([x + radius * np.cos(angle), np.full(points, y), z], axis=-1)

    def _arch(self, x: float, side: float) -> None:
        ring = self._circle(x, 1.14 * self.car.wheel_radius, 0)
        z = np.maximum(ring[:, 2], self.car.bottom(ring[:, 0]))
        self._fill(self.car.on_side(ring[:, 0], z, side), (20, 19, 19))

    def _wheel(self, x: float, side: float) -> None:
        outer, radius = side * (self.car.width / 2 - 0.04), self.car.wheel_radius
        self._fill_hull(np.concatenate([self._circle(x, radius, outer - side * y) for y in (0.0, 0.22)]), TYRE)

    def _wheel_face(self, x: float, side: float) -> None:
        car, outer = self.car, side * (self.car.width / 2 - 0.04)
        self._fill(self._circle(x, 0.97 * car.wheel_radius, outer), _blend(TYRE, (90, 90, 90), 0.25))
        self._fill(self._circle(x, 0.70 * car.wheel_radius, outer), car.rim)
        inner, rim = (self._circle(x, f * car.wheel_radius, outer, 2 * car.spokes) for f in (0.22, 0.62))
        hole = _blend(car.rim, (10, 10, 10), 0.8)
        for k in range(0, 2 * car.spokes, 2):
            self._fill(np.stack([inner[k], rim[k], rim[k + 1], inner[k]]), hole)

    def _mirror(self, side: float) -> None:
        car = self.car
        x = (car.body.windows[-1][1] - 0.02) * car.length
        y = side * (car.width / 2 * 0.95 + np.array([0.0, 0.22]))
        z = (_BELT + np.array([0.02, 0.11])) * car.height
        corners = np.stack(np.meshgrid([x - 0.05, x + 0.07], y, z), axis=-1).reshape(-1, 3)
        self._fill_hull(corners, _blend(car.paint, (0, 0, 0), 0.25))

    def _thin_parts(self) -> None:
        car = self.car
        at, tall = car.antenna[0] * car.length, car.antenna[1]
        if tall > 0:
            foot = float(car.top(np.array(at)))
            self._line(np.array([[at, 0, foot], [at - 0.45 * tall, 0, foot + tall]]), (35, 35, 35), 0.012)
        if car.rails:
            x = np.linspace(-0.36, 0.02, 10) * car.length
            for side in (-1.0, 1.0):
                rail = car.on_top(x, np.full_like(x, 0.9 * side))
                rail[1:-1, 2] += 0.05
                self._line(rail, _blend(PLASTIC, (160, 160, 160), 0.3), 0.03)


def _faces(points: Array, eye: Array) -> bool:
    """Whether the patch (N, 3) shows its outer side to `eye`; outer is away from the car's middle."""
    middle = points.mean(axis=0)
    arms = points - middle
    normal = np.cross(arms, np.roll(arms, -1, axis=0)).sum(axis=0)
    outward = normal @ (middle - (0, 0, 0.6))
    return bool(np.sign(outward) * (normal @ (eye - middle)) > 0)


def _blend(a: Bgr, b: Bgr, share: float) -> Bgr:
    """`share` of b in a."""
    blue, green, red = (float(p + (q - p) * share) for p, q in zip(a, b, strict=True))
    return blue, green, red
