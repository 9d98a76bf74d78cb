"""The studio around the car: curved wall with lettering, floor with a turntable, shadows, light and the camera's noise.

What stands behind the car is drawn from the same greys and paints as the car itself, so colour alone finds no mask.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from distseg.data.synthetic.car import Array, Bgr, Car, blend
from distseg.data.synthetic.painter import Camera, CarPainter, turned

_SUPERSAMPLING = 2
_BLACK: Bgr = (0, 0, 0)
_SHADOW_PX = 160  # shadows are soft: a small square map holds them
_LETTERS = {  # strokes in a box one wide and one high
    "A": (((0, 0), (0.5, 1), (1, 0)), ((0.2, 0.35), (0.8, 0.35))),
    "C": (((0.95, 0.85), (0.6, 1), (0.2, 0.85), (0, 0.5), (0.2, 0.15), (0.6, 0), (0.95, 0.15)),),
    "E": (((0.9, 1), (0, 1), (0, 0), (0.9, 0)), ((0, 0.5), (0.7, 0.5))),
    "H": (((0, 0), (0, 1)), ((1, 0), (1, 1)), ((0, 0.5), (1, 0.5))),
    "K": (((0, 0), (0, 1)), ((0.9, 1), (0, 0.45), (1, 0))),
    "M": (((0, 0), (0.1, 1), (0.5, 0.2), (0.9, 1), (1, 0)),),
    "N": (((0, 0), (0, 1), (0.9, 0), (0.9, 1)),),
    "R": (((0, 0), (0, 1), (0.7, 1), (0.85, 0.75), (0.7, 0.5), (0, 0.5)), ((0.4, 0.5), (0.9, 0))),
    "T": (((0, 1), (1, 1)), ((0.5, 1), (0.5, 0))),
    "V": (((0, 1), (0.5, 0), (1, 1)),),
}


@dataclass(frozen=True)
class Studio:
    """Everything that stays as it is while one car turns; lengths in metres, colours BGR 0-255."""

    wall: Bgr
    floor: Bgr
    table: Bgr
    wall_radius: float
    table_radius: float
    word: str
    letter_bgr: Bgr
    letter_height: float
    panels: tuple[tuple[float, float, Bgr], ...]  # strips of the wall: from and to (radians), colour
    stains: tuple[tuple[float, float, float, float], ...]  # on the floor: x, y, radius, darkness 0-1
    eye_height: float

    def draw(self, canvas: Array, camera: Camera) -> None:
        """Fills the whole BGRA canvas, alpha 0."""
        canvas[:] = (*self.wall, 0)
        for start, end, bgr in self.panels:
            angle = np.linspace(start, end, 6)
            self._fill(canvas, camera, np.concatenate([self._on_wall(angle, 0), self._on_wall(angle[::-1], 20)]), bgr)
        self._lettering(canvas, camera)
        seam = camera.pixels(self._on_wall(np.linspace(-1.4, 1.4, 60), 0))
        below = np.array([[10, 10], [-9, 10]], np.int32) * camera.size  # far outside the canvas, right and left
        cv2.fillPoly(canvas, [np.concatenate([seam, below]).astype(np.int32)], (*self.floor, 0), cv2.LINE_AA)
        for x, y, radius, darkness in self.stains:
            self._fill(canvas, camera, _disc(radius, (x, y)), blend(self.floor, _BLACK, darkness))
        for radius, darkness in ((self.table_radius, 0.2), (self.table_radius - 0.03, 0.0), (1.5, 0.03)):
            self._fill(canvas, camera, _disc(radius), blend(self.table, _BLACK, darkness))

    def _fill(self, canvas: Array, camera: Camera, points: Array, bgr: Bgr) -> None:
        cv2.fillPoly(canvas, [camera.pixels(points)], (*bgr, 0), cv2.LINE_AA)

    def _on_wall(self, angle: Array, height: Array | float) -> Array:
        x, y = self.wall_radius * np.sin(angle), self.wall_radius * np.cos(angle)
        return np.stack([x, y, np.broadcast_to(height, x.shape)], axis=-1)

    def _lettering(self, canvas: Array, camera: Camera) -> None:
        step = 1.15 * self.letter_height / self.wall_radius  # radians from letter to letter
        pixels_per_m = camera.focal * camera.size[0] / (self.wall_radius - camera.eye[1])
        for k, letter in enumerate(self.word):
            left = (k - len(self.word) / 2) * step
            bold = 0.05 + 0.11 * k / len(self.word)  # the strokes grow from light to heavy, in letter heights
            for stroke in _LETTERS[letter]:
                across, up = np.array(stroke).T
                points = self._on_wall(left + 0.8 * step * across, 0.35 + self.letter_height * up)
                width = max(1, round(bold * self.letter_height * pixels_per_m))
                cv2.polylines(canvas, [camera.pixels(points)], False, (*self.letter_bgr, 0), width, cv2.LINE_AA)


def _disc(radius: float, middle: tuple[float, float] = (0, 0)) -> Array:
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    x, y = middle[0] + radius * np.sin(angle), middle[1] + radius * np.cos(angle)
    return np.stack([x, y, np.zeros_like(x)], axis=-1)


def random_studio(rng: np.random.Generator, car: Car) -> Studio:
    """A studio whose lettering or panels share the car's paint about every other time."""
    wall = _grey(rng, 196, 238)
    floor, table = _grey(rng, 145, 220), _grey(rng, 145, 220)
    starts = rng.uniform(-0.6, 0.6, rng.integers(2, 6))
    like_car = rng.random(2) < 0.5
    panel = blend(wall, car.paint, rng.uniform(0.3, 0.8)) if like_car[0] else _grey(rng, 120, 235)
    return Studio(
        wall=wall, floor=floor, table=table,
        wall_radius=rng.uniform(12, 16),
        table_radius=rng.uniform(2.9, 3.8),
        word="".join(rng.choice(list(_LETTERS), rng.integers(5, 8))),
        letter_bgr=car.paint if like_car[1] else _grey(rng, 50, 120),
        letter_height=rng.uniform(1.8, 3.2),
        panels=tuple((a, a + rng.uniform(0.04, 0.18), panel) for a in starts.tolist()),
        stains=tuple(map(tuple, rng.uniform((-4.5, -4, 0.1, 0), (4.5, 4, 1, 0.14), (5, 4)).tolist())),
        eye_height=rng.uniform(1.6, 2.1),
    )  # fmt: skip


def _grey(rng: np.random.Generator, low: float, high: float) -> Bgr:
    b, g, r = rng.uniform(low, high) + rng.uniform(-6, 6, 3)
    return float(b), float(g), float(r)


def photograph(
    car: Car, studio: Studio, heading_rad: float, size: tuple[int, int], rng: np.random.Generator
) -> tuple[Array, Array]:
    """One photograph: BGR uint8 (H, W, 3) and its mask, uint8 0/1 (H, W). `size` is width and height in pixels."""
    width, height = size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING
    canvas = np.empty((height, width, 4), np.uint8)
    camera = _framed(car, studio, heading_rad, (width, height), rng)
    studio.draw(canvas, camera)
    cv2.multiply(canvas, _shadow(car, camera, heading_rad), canvas, 1 / 255)
    CarPainter(canvas, camera, car, heading_rad).draw()
    small = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    picture = cv2.GaussianBlur(small[:, :, :3], (3, 3), rng.uniform(0.4, 0.8)).astype(np.float32)
    picture *= cv2.resize(_light(rng), size, interpolation=cv2.INTER_CUBIC)[:, :, None]
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(2, 5))
    return np.clip(picture, 0, 255).astype(np.uint8), (small[:, :, 3] > 127).astype(np.uint8)


def _framed(car: Car, studio: Studio, heading_rad: float, size: tuple[int, int], rng: np.random.Generator) -> Camera:
    """A camera that has the whole car in frame, anywhere in it: the average mask must not be a good guess."""
    eye = (0.0, -8.0, studio.eye_height)
    focal = rng.uniform(0.80, 1.12) * 1.18 * (4.7 / car.length) ** 0.7
    centred = Camera((1, 1), focal, (0.0, 0.0), eye)
    outline = centred.project(turned(car.mesh, heading_rad)).reshape(-1, 2)
    low, high = outline.min(axis=0), outline.max(axis=0)
    room = np.maximum(0.94 - (high - low), 0)  # a rim of 3 % stays free
    centre = 0.5 - (low + high) / 2 + room * rng.uniform(-0.5, 0.5, 2)
    return Camera(size, focal, (float(centre[0]), float(centre[1])), eye)


def _shadow(car: Car, camera: Camera, heading_rad: float) -> Array:
    """The car's contact shadow and dull reflection: BGRA uint8 of the canvas's size, 255 leaves the floor as it is."""
    to_map = np.array([_SHADOW_PX, _SHADOW_PX]) / camera.size
    tint: Array = np.full((_SHADOW_PX, _SHADOW_PX, 4), 255, np.uint8)

    def hull(points: Array) -> Array:
        return cv2.convexHull(np.rint(camera.project(turned(points, heading_rad)) * to_map).astype(np.int32))

    reflection = blend((255, 255, 255), car.paint, 0.28)
    cv2.fillConvexPoly(tint, hull(car.mesh.reshape(-1, 3) * (1, 1, -0.6)), (*reflection, 255))
    tint = cv2.GaussianBlur(tint, (0, 0), 5)
    ground = 0.5 * np.array([[-1, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]]) * (car.length, car.width, 0)
    for grow, share, blur in ((1.12, 0.72, 5.0), (0.96, 0.5, 2.0)):
        dark = np.full_like(tint, 255)
        cv2.fillConvexPoly(dark, hull(ground * grow), (255 * share, 255 * share, 255 * share, 255))
        tint = cv2.multiply(tint, cv2.GaussianBlur(dark, (0, 0), blur), scale=1 / 255)
    return cv2.resize(tint, camera.size, interpolation=cv2.INTER_LINEAR)


def _light(rng: np.random.Generator) -> Array:
    """Brightness over the frame, float32 (32, 32): a slope, two soft lamps and darker corners."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    field: Array = rng.uniform(0.88, 1.05) + rng.uniform(-0.10, 0.10) * x + rng.uniform(-0.10, 0.06) * y
    for _ in range(2):
        at_x, at_y = rng.uniform(-1, 1, 2)
        field += rng.uniform(-0.12, 0.16) * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / rng.uniform(0.1, 0.5))
    field -= rng.uniform(0.03, 0.09) * (x**2 + y**2)
    return field.astype(np.float32)
