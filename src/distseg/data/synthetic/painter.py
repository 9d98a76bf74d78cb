"""A car seen through a camera: its shell filled quad by quad, farthest first, then panes, lights, wheels and antenna.

The studio's frame is right-handed and in metres: x to the right in the picture, y away from the camera, z up, origin
on the turntable's axis. The fourth channel of the BGRA canvas is 255 exactly where the car was painted, so the mask
cannot drift from the picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from distseg.data.synthetic.car import BELT, EDGE_M, Array, Bgr, Car, blend

_TYRE: Bgr = (30, 28, 27)
_PLASTIC: Bgr = (44, 42, 41)


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
        pixels: Array = (np.array(self.centre) + slope * (1.0, -1.5)) * self.size
        return pixels

    def pixels(self, points: Array) -> Array:
        """The same, rounded to the int32 that OpenCV's drawing takes."""
        return np.rint(self.project(points)).astype(np.int32)


def turned(points: Array, angle_rad: float) -> Array:
    """Points (..., 3) rotated anticlockwise seen from above: by a car's heading, from its frame into the studio's."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    rotated: Array = points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return rotated


class CarPainter:
    """Draws one car at one heading onto a BGRA canvas (H, W, 4)."""

    def __init__(self, canvas: Array, camera: Camera, car: Car, heading_rad: float) -> None:
        self.canvas, self.camera, self.car, self.heading_rad = canvas, camera, car, heading_rad

    def draw(self) -> None:
        """Fills the car back to front: far wheels, shell, patches on it, near wheels, what stands on the roof."""
        car = self.car
        eye = turned(np.array(self.camera.eye), -self.heading_rad)  # in the car's frame
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
                self._wheel_face(x, near)
            self._mirror(near)
        self._thin_parts()

    def _axles(self) -> tuple[float, float]:
        return -0.295 * self.car.length, 0.30 * self.car.length

    def _pixels(self, points: Array) -> Array:
        return self.camera.pixels(turned(points, self.heading_rad))

    def _fill(self, points: Array, bgr: Bgr) -> None:
        cv2.fillPoly(self.canvas, [self._pixels(points)], (*bgr, 255))

    def _fill_hull(self, points: Array, bgr: Bgr) -> None:
        cv2.fillConvexPoly(self.canvas, cv2.convexHull(self._pixels(points)), (*bgr, 255))

    def _line(self, points: Array, bgr: Bgr, width_m: float) -> None:
        scale = self.camera.focal * self.camera.size[0] / abs(self.camera.eye[1])  # pixels in a metre at the car
        # Three canvas pixels survive the mask's halving as an unbroken line.
        thickness = max(3, round(width_m * scale))
        cv2.polylines(self.canvas, [self._pixels(points)], False, (*bgr, 255), thickness)

    def _shell(self, eye: Array) -> None:
        """Paints the shell's quads that face the eye, farthest first, each one by its normal and what it mirrors."""
        mesh = self.car.mesh
        corners = np.stack([mesh[:-1, :-1], mesh[1:, :-1], mesh[1:, 1:], mesh[:-1, 1:]], axis=2)  # (S, T, 4, 3)
        normal = np.cross(corners[:, :, 2] - corners[:, :, 0], corners[:, :, 1] - corners[:, :, 3])
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
        middle = corners.mean(axis=2)
        sight = eye - middle
        distance = np.linalg.norm(sight, axis=-1)
        sight /= distance[..., None]
        colour = self._shade(self._base_colours(middle), normal, sight)
        pixels = self._pixels(corners)
        seen = np.flatnonzero((normal * sight).sum(-1) > 0)
        seen = seen[np.argsort(-distance.ravel()[seen])]
        for quad, bgr in zip(pixels.reshape(-1, 4, 2)[seen], colour.reshape(-1, 3)[seen].tolist(), strict=True):
            cv2.fillConvexPoly(self.canvas, quad, (*bgr, 255))

    def _base_colours(self, middle: Array) -> Array:
        car = self.car
        x, z = middle[..., 0], middle[..., 2]
        colour = np.broadcast_to(np.array(car.paint), middle.shape).copy()
        upper = z > car.top(x) - 0.5 * EDGE_M
        colour[upper & (z > 0.9 * car.height)] = car.roof_paint
        if car.body.cargo_bed is not None:
            tail, cab = np.array(car.body.cargo_bed) * car.length
            colour[upper & (x > tail) & (x < cab) & (np.abs(middle[..., 1]) < 0.42 * car.width)] = _PLASTIC
        colour[z < 0.19 * car.height] = _PLASTIC
        return colour

    def _shade(self, base: Array, normal: Array, sight: Array) -> Array:
        """BGR (..., 3): soft light from above and the left, plus a white ceiling and a dark horizon mirrored in it."""
        leftwards = -turned(normal, self.heading_rad)[..., 0]
        cosine = np.clip((normal * sight).sum(-1), 0, 1)
        up = 2 * cosine * normal[..., 2] - sight[..., 2]  # height of the mirrored direction
        ceiling = 0.35 + 0.65 / (1 + np.exp(-14 * (up - 0.22))) - 0.25 * np.exp(-((up - 0.05) ** 2) / 0.006)
        fresnel = self.car.gloss * (0.10 + 0.55 * (1 - cosine) ** 3)
        diffuse = 0.68 + 0.34 * normal[..., 2] + 0.10 * leftwards
        lit: Array = base * (diffuse * (1 - fresnel))[..., None] + (245 * fresnel * ceiling)[..., None]
        return lit.clip(4, 252)

    def _details(self, near: float) -> list[tuple[Array, Bgr]]:
        """Flat patches on the shell: panes, lights, plates, gaps; (points (N, 3), colour) in drawing order."""
        car, patches = self.car, list[tuple[Array, Bgr]]()
        high, length = car.height, car.length
        glint = blend(car.glass, (235, 235, 235), 0.22)
        for from_x, to_x in car.body.windows:
            for share, bgr in ((1.0, car.glass), (0.45, glint)):
                x = np.linspace(from_x, from_x + (to_x - from_x) * share, 24) * length
                sill = np.full_like(x, (BELT + 0.015) * high)
                roof = np.maximum(car.top(x) - 0.085 * high, sill)
                if share < 1:
                    sill = roof - 0.6 * (roof - sill)
                patches.append((car.on_side(np.r_[x, x[::-1]], np.r_[sill, roof[::-1]], near), bgr))
        for from_x, to_x in car.body.screens:
            x = np.linspace(from_x, to_x, 12) * length
            patches.append((car.on_top(np.r_[x, x[::-1]], np.repeat([-0.93, 0.93], 12)), car.glass))
            x = np.linspace(0.55 * from_x + 0.45 * to_x, to_x, 8) * length
            patches.append((car.on_top(np.r_[x, x[::-1]], np.r_[np.linspace(-0.2, 0.1, 8), np.full(8, 0.9)]), glint))
        gap = blend(car.paint, (0, 0, 0), 0.55)
        for at in car.body.doors:
            z = np.linspace(0.20, BELT, 10) * high
            x = np.full_like(z, at * length)
            patches.append((car.on_side(np.r_[x, x[::-1] + 0.014], np.r_[z, z[::-1]], near), gap))
        for at in car.body.doors[:-1]:
            patches.append((self._side_box(at + 0.018, 0.60, 0.035, 0.02, near), gap))
        bright, red, plate = (238, 236, 226), (38, 32, 178), (222, 214, 206)
        for across in (-1.0, 1.0):
            patches.append((self._end_box(0.78 * across, 0.50, 0.19, 0.07, 1, slant=0.2), bright))
            patches.append((self._end_box(0.78 * across, 0.50, 0.07, 0.05, 1, slant=0.2), (150, 150, 150)))
            patches.append((self._end_box(0.84 * across, 0.535, 0.13, 0.11, -1), red))
        patches.append((self._end_box(0, 0.44, 0.52, 0.11, 1), _PLASTIC))
        patches.append((self._end_box(0, 0.24, 0.62, 0.08, 1), _PLASTIC))
        patches.append((self._end_box(0, 0.30, 0.16, 0.075, 1), plate))
        patches.append((self._end_box(0, 0.25, 0.80, 0.09, -1), _PLASTIC))
        patches.append((self._end_box(0, 0.46, 0.16, 0.075, -1), plate))
        patches.append((self._side_box(-0.478, 0.54, 0.05, 0.09, near), red))
        patches.append((self._side_box(0.455, 0.525, 0.06, 0.06, near), bright))
        return patches

    def _side_box(self, x: float, z: float, long: float, high: float, side: float) -> Array:
        """A patch of a flank; `x` and `long` in lengths from the middle, `z` and `high` in heights."""
        car = self.car
        xs = np.repeat([x - long / 2, x + long / 2], 2) * car.length
        return car.on_side(xs, np.array([z - high / 2, z + high / 2, z + high / 2, z - high / 2]) * car.height, side)

    def _end_box(self, across: float, z: float, wide: float, high: float, end: float, slant: float = 0.0) -> Array:
        """A patch of nose or tail; `across` and `wide` in half widths, the rest in heights."""
        ys = np.linspace(across - wide, across + wide, 9)
        rise = slant * (np.abs(ys) - abs(across))
        zs = np.r_[z - high / 2 + rise, (z + high / 2 + rise)[::-1]] * self.car.height
        return self.car.on_end(np.r_[ys, ys[::-1]], zs, end)

    def _circle(self, x: float, radius: float, y: float, points: int = 40) -> Array:
        angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
        z = self.car.wheel_radius + radius * np.sin(angle)
        return np.stack([x + radius * np.cos(angle), np.full(points, y), z], axis=-1)

    def _arch(self, x: float, side: float) -> None:
        ring = self._circle(x, 1.11 * self.car.wheel_radius, 0)
        z = np.maximum(ring[:, 2], self.car.bottom(ring[:, 0]))
        self._fill(self.car.on_side(ring[:, 0], z, side), (20, 19, 19))

    def _wheel(self, x: float, side: float) -> None:
        outer, radius = side * (self.car.width / 2 - 0.04), self.car.wheel_radius
        self._fill_hull(np.concatenate([self._circle(x, radius, outer - side * y) for y in (0.0, 0.22)]), _TYRE)

    def _wheel_face(self, x: float, side: float) -> None:
        car, outer = self.car, side * (self.car.width / 2 - 0.04)
        self._fill(self._circle(x, 0.97 * car.wheel_radius, outer), blend(_TYRE, (90, 90, 90), 0.25))
        self._fill(self._circle(x, 0.74 * car.wheel_radius, outer), car.rim)
        inner, rim = (self._circle(x, f * car.wheel_radius, outer, 2 * car.spokes) for f in (0.22, 0.66))
        hole = blend(car.rim, (10, 10, 10), 0.8)
        for k in range(0, 2 * car.spokes, 2):
            self._fill(np.stack([inner[k], rim[k], rim[k + 1], inner[k]]), hole)

    def _mirror(self, side: float) -> None:
        car = self.car
        x = (car.body.windows[-1][1] - 0.02) * car.length
        y = side * (car.width / 2 * 0.95 + np.array([0.0, 0.19]))
        z = (BELT + np.array([0.02, 0.095])) * car.height
        corners = np.stack(np.meshgrid([x - 0.05, x + 0.07], y, z), axis=-1).reshape(-1, 3)
        self._fill_hull(corners, blend(car.paint, (0, 0, 0), 0.25))

    def _thin_parts(self) -> None:
        car = self.car
        at, tall = car.antenna_at * car.length, car.antenna_height
        if tall > 0:
            foot = float(car.top(np.array(at)))
            self._line(np.array([[at, 0, foot], [at - 0.45 * tall, 0, foot + tall]]), (35, 35, 35), 0.012)
        if car.rails:
            x = np.linspace(-0.36, 0.02, 10) * car.length
            for side in (-1.0, 1.0):
                rail = car.on_top(x, np.full_like(x, 0.9 * side))
                rail[1:-1, 2] += 0.05
                self._line(rail, blend(_PLASTIC, (160, 160, 160), 0.3), 0.03)


def _faces(points: Array, eye: Array) -> bool:
    """Whether the patch (N, 3) shows its outer side to `eye`; outer is away from the car's middle."""
    middle = points.mean(axis=0)
    arms = points - middle
    normal = np.cross(arms, np.roll(arms, -1, axis=0)).sum(axis=0)
    outward = normal @ (middle - (0, 0, 0.6))
    return bool(np.sign(outward) * (normal @ (eye - middle)) > 0)
