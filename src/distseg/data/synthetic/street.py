"""A street without end and a camera that drives along it: what stands where, and the photograph of each moment.

Fixed things are dealt into stretches of 12 m and moving ones into slots of their lane, each with its own generator,
so what a frame shows depends on nothing but (seed, sequence, frame). The picture and the label map are painted
together: the canvas's fourth channel holds the class of what was painted last.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from distseg.data.synthetic import street_things as things
from distseg.data.synthetic import street_traffic as traffic
from distseg.data.synthetic.camvid import Label, to_segnet
from distseg.data.synthetic.car import Array, Bgr, blend
from distseg.data.synthetic.noise import sensor_noise, smooth_noise
from distseg.data.synthetic.street_shapes import Patch, Thing, boxes, disc, flat, ground, varied

_SUPERSAMPLING = 2
_STRETCH_M = 12.0
_STRETCHES_SEEN = 9
_NEAREST_M = 0.6  # what is nearer is drawn at this distance: outside the picture for all but the middle of the lane
_SKYLINE_M = 300.0  # ahead of the camera: too far to come nearer
_CONTACT_SHADOW = 0.45  # share of the light that is missing under cars and people
_HAZE_M = 350.0  # distance at which two thirds of a colour are lost
_LOOK, _STRETCH, _FRAME, _ONCOMING, _AHEAD, _RIDERS, _WALKERS, _VEHICLE = range(1, 9)  # what a generator is for
_SURE = 1  # stretch and slot near the start with something rare in them: short sequences show every class
_FAR_SIDE = 32  # added to a purpose: the row that comes towards the camera
_GRAIN = np.zeros(len(Label), np.float32)  # strength of the fine texture of each class
_GRAIN[:] = 0.05
_GRAIN[[Label.Tree, Label.VegetationMisc]] = 0.20
_GRAIN[[Label.Building, Label.Wall, Label.Bridge, Label.Fence]] = 0.08
_GRAIN[[Label.Road, Label.Sidewalk, Label.RoadShoulder, Label.ParkingBlock]] = 0.05
_GRAIN[Label.Sky] = 0.008


@dataclass(frozen=True)
class Look:
    """What stays as it is through a sequence: the street's plan, its palette, the light; metres, colours BGR 0-255."""

    lane: float
    parking: tuple[bool, bool]  # a row of parked cars on the left, on the right
    pavement: float  # its width
    shoulder: float  # of the road, on the left
    line: Bgr  # marks along the kerbs
    garden: float  # from the pavement to the fronts of the houses
    bend: tuple[float, float, float]  # amplitude, wave length / 2 pi, phase of the centre line
    storeys: int
    houses: float  # share of the stretches
    shops: float  # share of the houses
    trees: float
    walkers: float
    cars: float
    riders: float
    asphalt: Bgr
    paving: Bgr
    soil: Bgr
    walls: tuple[Bgr, ...]
    leaf: Bgr
    fences: Bgr
    sky: tuple[Bgr, Bgr, Bgr]  # at the top, at the horizon, clouds
    clouds: float  # share of the sky
    light: Bgr  # gain a channel, 1 = as painted
    shadow: float  # share of the light that houses and trees take from the ground
    sun_side: int
    noise: float
    blur_px: float
    bonnet: Bgr | None  # the camera's own car in the lower edge
    rim: float  # unlabelled strip on the left, in picture widths
    focal: float  # in picture widths
    eye_height: float
    step: float  # metres from frame to frame

    @property
    def kerbs(self) -> tuple[float, float]:
        left, right = (self.lane + 2.1 * parked for parked in self.parking)
        return -left, right

    @property
    def eye_across(self) -> float:
        return -0.5 * self.lane  # traffic keeps left, as in CamVid


def _look(rng: np.random.Generator) -> Look:
    skies: tuple[tuple[Bgr, Bgr, Bgr], ...] = (
        ((222, 180, 140), (240, 228, 214), (246, 244, 242)), ((208, 206, 204), (236, 236, 236), (188, 186, 186)),
        ((190, 178, 168), (214, 212, 210), (150, 146, 144)), ((196, 160, 140), (190, 210, 236), (160, 170, 205)),
    )  # fmt: skip
    kind = int(rng.choice(4, p=(0.3, 0.35, 0.2, 0.15)))
    bright = rng.uniform(*((0.9, 1.1), (0.85, 1.05), (0.55, 0.8), (0.7, 0.95))[kind])
    warm = rng.uniform(-0.05, 0.05) + (0.06 if kind == 3 else 0.0)
    leaves: tuple[Bgr, ...] = ((48, 104, 78), (44, 84, 52), (52, 112, 128), (58, 82, 84))
    bricks: tuple[Bgr, ...] = ((84, 98, 138), (150, 180, 198), (120, 132, 142), (186, 190, 194), (98, 120, 150),
                               (88, 84, 92))  # fmt: skip
    return Look(
        lane=rng.uniform(2.8, 3.4),
        parking=(bool(rng.random() < 0.25), bool(rng.random() < 0.5)),
        pavement=rng.uniform(2.2, 4.0),
        shoulder=0.6 if rng.random() < 0.35 else 0.0,
        line=(60, 170, 200) if rng.random() < 0.5 else (190, 190, 190),
        garden=rng.choice([0.0, 0.0, 2.0, 4.0]),
        bend=(rng.uniform(2, 14), rng.uniform(70, 110), rng.uniform(0, 6)),
        storeys=int(rng.integers(2, 5)),
        houses=rng.uniform(0.5, 0.85),
        shops=rng.uniform(0.1, 0.6),
        trees=rng.uniform(0.4, 0.9),
        walkers=rng.uniform(0.35, 0.7),
        cars=rng.uniform(0.4, 0.8),
        riders=rng.uniform(0.2, 0.4),
        asphalt=varied(rng, (96, 94, 92), 26),
        paving=varied(rng, (122, 124, 126), 34),
        soil=varied(rng, (62, 104, 92), 24),
        walls=tuple(varied(rng, bricks[k], 25) for k in rng.integers(0, len(bricks), 4)),
        leaf=varied(rng, leaves[rng.integers(len(leaves))], 16),
        fences=varied(rng, ((60, 78, 98), (58, 58, 56), (150, 152, 150))[rng.integers(3)], 20),
        sky=skies[kind],
        clouds=rng.uniform(0.2, 0.7),
        light=(bright * (1 - warm), bright, bright * (1 + warm)),
        shadow=(0.5, 0.15, 0.2, 0.4)[kind] * rng.uniform(0.6, 1.0),
        sun_side=int(rng.choice([-1, 1])),
        noise=rng.uniform(2, 5),
        blur_px=rng.uniform(0.45, 0.9),
        bonnet=varied(rng, (70, 66, 64), 40) if rng.random() < 0.4 else None,
        rim=rng.uniform(0.008, 0.02) if rng.random() < 0.5 else 0.0,
        focal=rng.uniform(0.82, 1.0),
        eye_height=rng.uniform(1.35, 1.65),
        step=rng.uniform(3, 5),
    )  # fmt: skip


@dataclass(frozen=True)
class _Placed:
    """A thing and where it stands; within a stretch, what has a higher `layer` is drawn later."""

    thing: Thing
    across: float
    along: float
    layer: int

    @property
    def at(self) -> Array:
        return np.array([self.across, self.along, 0.0])


_MARK, _BACK, _LINE, _FRONT = range(4)  # layers: on the ground, houses and back gardens, fences, before the fences


class _Camera:
    """Level, on the road, looking along it; sees the street's coordinates (across, along, up) in metres."""

    def __init__(self, look: Look, frame: int, size: tuple[int, int]) -> None:
        self.look, self.size = look, size
        self.along = look.step * frame
        self._across = look.eye_across + 0.2 * np.sin(0.7 * frame + look.bend[2])
        ahead, here = self._centre(np.array([self.along + 0.5, self.along - 0.5]))
        self.slope = float(ahead - here)  # of the street's centre line
        self.horizon = 0.5 + 0.012 * np.sin(1.3 * frame + look.bend[2])  # in canvas heights

    def _centre(self, along: Array) -> Array:
        """How far the street's centre line lies to the right of a straight one."""
        far, length, phase = self.look.bend
        bent: Array = far * np.sin(along / length + phase)
        return bent

    def rightward(self, along: Array) -> Array:
        """How far the centre line at `along` lies to the right of the optical axis."""
        forward = along - self.along
        right: Array = self._centre(along) - self._centre(np.array(self.along)) - self._across - self.slope * forward
        return right

    def pixels(self, points: Array) -> Array:
        """Street points (..., 3) to canvas pixels (..., 2) int32; the picture is a 4:3 one squeezed into `size`."""
        along = np.maximum(points[..., 1], self.along + _NEAREST_M)
        scale = self.look.focal / (along - self.along)
        across = 0.5 + scale * (points[..., 0] + self.rightward(along))
        down = self.horizon + 4 / 3 * scale * (self.look.eye_height - points[..., 2])
        return np.rint(np.stack([across, down], -1) * self.size).astype(np.int32)

    def paint(self, canvas: Array, placed: list[_Placed]) -> None:
        """Draws the things in their order, paler with the distance."""
        pixels = self.pixels(np.concatenate([item.thing.points + item.at for item in placed]))
        distance = np.array([item.along + item.thing.ends[0][1] - self.along for item in placed])
        haze = 1 - np.exp(-distance.clip(0) / _HAZE_M)
        haze = np.repeat(haze, [len(item.thing.patches) for item in placed])[:, None]
        bgrs = np.concatenate([item.thing.bgrs for item in placed])
        bgrs += (np.array(self.look.sky[1]) - bgrs) * haze
        patches = (patch for item in placed for patch in item.thing.patches)
        start = 0
        for patch, (b, g, r) in zip(patches, bgrs.tolist(), strict=True):
            polygons, corners, _ = patch.points.shape
            end = start + polygons * corners
            cv2.fillPoly(canvas, list(pixels[start:end].reshape(polygons, corners, 2)), (b, g, r, patch.label))
            start = end


class Street:
    """One sequence; `frame` gives its photographs in any order."""

    def __init__(self, seed: int, sequence: int, size: tuple[int, int]) -> None:
        self._key, self._size = (seed, sequence), size
        rng = self._rng(_LOOK, 0)
        self.look = _look(rng)
        self._clouds = smooth_noise(rng, (24, 96), (5, 12)) + 0.4 * smooth_noise(rng, (24, 96), (12, 40))
        self._skyline = _skyline(rng, self.look)
        self._vehicle = lru_cache(32)(self._vehicle_in)
        self._fixed = lru_cache(2 * _STRETCHES_SEEN)(self._fixed_at)

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng((*self._key, purpose, number))

    def frame(self, number: int) -> tuple[Array, Array]:
        """Picture, BGR uint8 (H, W, 3), and its classes, uint8 (H, W) of `Label`."""
        camera = _Camera(self.look, number, (self._size[0] * _SUPERSAMPLING, self._size[1] * _SUPERSAMPLING))
        first = int(camera.along // _STRETCH_M)
        items = [item for k in range(first, first + _STRETCHES_SEEN) for item in self._fixed(k)]
        items += self._traffic(number, camera.along) + self._people(number, camera.along)
        items = [item for item in items if item.along + item.thing.ends[1][1] > camera.along + _NEAREST_M]
        items.sort(key=lambda item: (-(item.along // _STRETCH_M), item.layer, -item.along))
        canvas = self._sky(camera)
        end = camera.along + _SKYLINE_M
        across = -camera.rightward(np.array(end)) - _SKYLINE_M * camera.slope
        far = _Placed(self._skyline, float(across), end, _BACK)
        camera.paint(canvas, [far, *self._ground(camera), *(item for item in items if item.layer == _MARK)])
        standing = [item for item in items if item.layer != _MARK]
        self._shade(canvas, camera, standing)
        camera.paint(canvas, standing)
        return self._exposed(canvas, self._rng(_FRAME, number))

    def _fixed_at(self, stretch: int) -> list[_Placed]:
        """What stands in one stretch, on both sides."""
        rng, look, start = self._rng(_STRETCH, stretch), self.look, stretch * _STRETCH_M
        items = [_Placed(Thing.of(self._marks(rng)), 0, start, _MARK)]
        if rng.random() < 0.012:
            reach = look.pavement + 0.5
            over = things.bridge(rng, look.kerbs[0] - reach, look.kerbs[1] + reach)
            items.append(_Placed(over, 0, start + 6, _FRONT))
        for side, kerb, parked in zip((-1, 1), look.kerbs, look.parking, strict=True):
            items += [
                _Placed(item.thing, item.across, item.along + start, item.layer)
                for item in self._plot(rng, side, kerb) + self._kerbside(rng, side, kerb, stretch)
            ]
            for along in (3.0, 9.0):
                if parked and rng.random() < look.cars:
                    car = traffic.passenger_car(rng, int(rng.choice([-side, side])), -side)
                    items.append(_Placed(car, kerb - side * 1.05, start + along + rng.uniform(-0.4, 0.4), _FRONT))
        return items

    def _marks(self, rng: np.random.Generator) -> list[Patch]:
        """Lane marks and, now and then, a zebra crossing."""
        look = self.look
        white = blend(look.asphalt, (235, 235, 235), 0.75)
        marks = [ground(-0.07, 0.07, np.array([0.5, 6.5]), np.array([4.0, 10.0]), white, Label.LaneMkgsDriv)]
        for parked, edge, inwards in zip(look.parking, look.kerbs, (1, -1), strict=True):
            if not parked:
                for at in (0.25, 0.45):
                    a, b = sorted((edge + inwards * at, edge + inwards * (at + 0.1)))
                    marks.append(ground(a, b, 0, _STRETCH_M, look.line, Label.LaneMkgsDriv))
        if rng.random() < 0.07:
            left, right = look.kerbs
            bars = np.arange(left + 0.4, right - 0.5, 1.1).tolist()
            marks += [ground(at, at + 0.55, 4, 7.5, white, Label.LaneMkgsNonDriv) for at in bars]
        return marks

    def _plot(self, rng: np.random.Generator, side: int, kerb: float) -> list[_Placed]:
        """One side behind the pavement: a house or two, a side street, or something open; and what fences it off."""
        look = self.look
        edge = kerb + side * look.pavement
        front = edge + side * look.garden
        items, fenced = [], look.garden > 0 and rng.random() < 0.8
        kind = rng.random()
        if kind < look.houses:
            pieces = int(rng.integers(1, 3))
            for k in range(pieces):
                length = _STRETCH_M / pieces
                colour = varied(rng, look.walls[rng.integers(len(look.walls))], 12)
                storeys = int(np.clip(look.storeys + rng.integers(-1, 2), 1, 5))
                house = things.house(rng, side, length, storeys, colour, bool(rng.random() < look.shops))
                items.append(_Placed(house, front, k * length, _BACK))
            if look.garden > 2 and rng.random() < 0.6:
                items.append(_Placed(self._tree(rng, 3, 6), edge + side * 1.6, rng.uniform(2, 10), _BACK))
        elif kind < look.houses + 0.2 * (1 - look.houses):
            a, b = sorted((kerb - side * 0.05, kerb + side * 60))
            items.append(_Placed(Thing.of([ground(a, b, 2.5, 10.5, look.asphalt, Label.Road)]), 0, 0, _MARK))
            items.append(_Placed(things.traffic_light(rng), kerb + side * 0.5, 1.5, _FRONT))
            return items
        else:
            fenced = rng.random() < 0.85
            items += [
                _Placed(self._tree(rng, 5, 10), edge + side * rng.uniform(2.5, 12), rng.uniform(1, 12), _BACK)
                for _ in range(int(rng.integers(1, 5)))
            ]
            items += [
                _Placed(things.bush(rng, self._leaf(rng)), edge + side * rng.uniform(1, 4), rng.uniform(1, 12), _BACK)
                for _ in range(int(rng.integers(0, 4)))
            ]
            if rng.random() < 0.3:
                a, b = sorted((edge + side * 0.1, edge + side * 16))
                lot = blend(look.asphalt, look.paving, 0.5)
                items.append(_Placed(Thing.of([ground(a, b, 0, 12, lot, Label.ParkingBlock)]), 0, 0, _MARK))
        if fenced:
            kind = rng.random()
            if kind < 0.5:
                line = things.fence(rng, side, _STRETCH_M, look.fences)
            elif kind < 0.75:
                line = things.wall(rng, side, _STRETCH_M, look.walls[0])
            else:
                line = things.hedge(rng, side, _STRETCH_M, self._leaf(rng))
            items.append(_Placed(line, edge, 0, _LINE))
        return items

    def _kerbside(self, rng: np.random.Generator, side: int, kerb: float, stretch: int) -> list[_Placed]:
        """What stands on one pavement."""
        items, at = [], kerb + side * 0.45
        if stretch % 2 == (side > 0):
            items.append(_Placed(things.lamp(rng, side), at, 6.0, _FRONT))
        if rng.random() < 0.5 * self.look.trees:
            items.append(_Placed(self._tree(rng, 4, 7.5), at + side * 0.3, rng.uniform(7, 11), _FRONT))
        for chance, make in ((0.30, things.sign), (0.05, things.traffic_light), (0.15, things.bin_or_box)):
            if rng.random() < chance or (make is things.sign and stretch == _SURE):
                items.append(_Placed(make(rng), at, rng.uniform(0.5, 11), _FRONT))
        if rng.random() < 0.05 or stretch == _SURE:
            rail = things.fence(rng, side, 6.0, self.look.fences)
            items.append(_Placed(rail, kerb + side * 0.3, 0.5, _FRONT))
        if rng.random() < 0.14:
            items += [_Placed(things.bollard(rng), at, along, _FRONT) for along in (1.0, 2.5, 4.0, 5.5)]
        return items

    def _leaf(self, rng: np.random.Generator) -> Bgr:
        return varied(rng, self.look.leaf, 14)

    def _tree(self, rng: np.random.Generator, low: float, high: float) -> Thing:
        return things.tree(rng, self._leaf(rng), rng.uniform(low, high))

    def _slots(
        self, frame: int, here: float, purpose: int, spacing: float, speed: float, share: float
    ) -> list[tuple[int, float, np.random.Generator]]:
        """The members of a moving row that can be seen: number, place along the street, generator.

        Slot i starts `i * spacing` metres down the street; `share` of the slots are taken; `speed` is in shares
        of the camera's.
        """
        moved = speed * self.look.step * frame
        first = max(0, int(np.ceil((here - 10 - moved) / spacing)))
        found = []
        for slot in range(first, int((here + 100 - moved) / spacing)):
            rng = self._rng(purpose, slot)
            if rng.random() < share or slot == _SURE:
                found.append((slot, slot * spacing + rng.uniform(0, 0.4 * spacing) + moved, rng))
        return found

    def _traffic(self, frame: int, here: float) -> list[_Placed]:
        """Cars that drive ahead of the camera, and others that come."""
        look, items = self.look, []
        for slot, along, _ in self._slots(frame, here, _ONCOMING, 20.0, -0.9, 0.7 * look.cars):
            items.append(_Placed(self._vehicle(_ONCOMING, slot), 0.5 * look.lane, along, _FRONT))
        for slot in range(4):
            rng = self._rng(_AHEAD, slot)
            if rng.random() < 0.7 * look.cars:
                along = here + 15 + 22 * slot + rng.uniform(0, 8) + 4 * np.sin(0.25 * frame + rng.uniform(0, 6))
                items.append(_Placed(self._vehicle(_AHEAD, slot), look.eye_across, along, _FRONT))
        return items

    def _vehicle_in(self, purpose: int, slot: int) -> Thing:
        rng = self._rng(_VEHICLE + purpose, slot)
        make = traffic.lorry if rng.random() < 0.09 else traffic.passenger_car
        return make(rng, -1, -1) if purpose == _ONCOMING else make(rng, 1, 1)

    def _people(self, frame: int, here: float) -> list[_Placed]:
        """Riders by the edges of the lanes and walkers on the pavements."""
        look, items = self.look, []
        for purpose, side, speed in ((_RIDERS, -1, 0.35), (_RIDERS + _FAR_SIDE, 1, -0.35)):
            for _, along, rng in self._slots(frame, here, purpose, 20.0, speed, look.riders):
                rider = traffic.rider(rng, 1.7 * frame + rng.uniform(0, 6))
                items.append(_Placed(rider, side * (look.lane - 0.6), along, _FRONT))
        for purpose, speed in ((_WALKERS, 0.2), (_WALKERS + _FAR_SIDE, -0.2)):
            for _, along, rng in self._slots(frame, here, purpose, 5.0, speed, look.walkers):
                side = int(rng.choice([-1, 1]))
                across = look.kerbs[side > 0] + side * rng.uniform(0.7, look.pavement - 0.3)
                walker = traffic.person(rng, 2.1 * frame + rng.uniform(0, 6))
                items.append(_Placed(walker, across, along, _FRONT))
        return items

    def _sky(self, camera: _Camera) -> Array:
        """A new canvas, BGRA uint8, all sky: gradient and clouds, turning with the camera."""
        width, height = camera.size[0] // 8, camera.size[1] // 8
        turn = 32 * self.look.focal * camera.slope
        window = np.array([[32 / width, 0, 32 + turn], [0, 24 / height, 0]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        clouds = cv2.warpAffine(self._clouds, window, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        cloud = np.clip(2.2 * (clouds + 2 * self.look.clouds - 1), 0, 1)[..., None]
        top, low, grey = (np.array(bgr, np.float32) for bgr in self.look.sky)
        down = np.linspace(0, 1 / camera.horizon, height, dtype=np.float32).clip(0, 1)[:, None, None] ** 0.8
        sky = top + (low - top) * down
        sky = sky + (grey - sky) * cloud * (1 - 0.5 * down)
        small = np.full((height, width, 4), Label.Sky, np.uint8)
        small[..., :3] = sky.clip(0, 255)
        return cv2.resize(small, camera.size, interpolation=cv2.INTER_LINEAR)

    def _ground(self, camera: _Camera) -> list[_Placed]:
        """Soil, pavements with their kerbs, and the road, from the camera to the horizon."""
        look, (left, right) = self.look, self.look.kerbs
        along = np.r_[np.linspace(_NEAREST_M, 12, 8), np.geomspace(15, 900, 24)]
        kerb = blend(look.paving, (225, 225, 225), 0.3)
        strips = (
            (-900.0, 900.0, look.soil, Label.VegetationMisc),
            (left - look.pavement, right + look.pavement, look.paving, Label.Sidewalk),
            (left - 0.18, right + 0.18, kerb, Label.Sidewalk),
            (left, right, look.asphalt, Label.Road),
            (left, left + look.shoulder, blend(look.asphalt, look.soil, 0.4), Label.RoadShoulder),
        )
        patches = []
        for a, b, bgr, label in strips:
            if b > a:
                edge = np.stack([np.full_like(along, a), along, np.zeros_like(along)], -1)
                patches.append(flat(np.concatenate([edge, edge[::-1] + np.array([b - a, 0, 0])]), bgr, label))
        return [_Placed(Thing.of(patches), 0, camera.along, _MARK)]

    def _shade(self, canvas: Array, camera: _Camera, items: list[_Placed]) -> None:
        """Darkens the ground under things and, away from the sun, before houses and trees."""
        under, cast = [], []
        for item in items:
            (left, near, _), (right, far, high) = item.thing.ends
            if item.layer == _FRONT:
                under.append((item, left - 0.2, right + 0.2, near - 0.3, far + 0.3))
            if min(high, right - left) > 2 and item.across * self.look.sun_side > 0:
                cast.append((item, 0.0, -0.8 * self.look.sun_side * high, near, max(far, near + 2)))
        areas = [*cast, *under]
        shares = [self.look.shadow] * len(cast) + [_CONTACT_SHADOW] * len(under)
        corners = [[(a, c, 0), (b, c, 0), (b, d, 0), (a, d, 0)] for _, a, b, c, d in areas]
        spots = [item.at for item, *_ in areas]
        outlines = camera.pixels(np.array(corners).reshape(-1, 4, 3) + np.array(spots).reshape(-1, 1, 3)) // 8
        dark: Array = np.full((camera.size[1] // 8, camera.size[0] // 8), 255, np.uint8)
        for outline, share in zip(outlines, shares, strict=True):
            cv2.fillConvexPoly(dark, outline, 255 * (1 - share))
        dark = cv2.GaussianBlur(dark, (3, 3), 0.8)
        top = int(camera.horizon * camera.size[1])
        gain = cv2.resize(dark, camera.size, interpolation=cv2.INTER_LINEAR)[top:]
        full = np.full_like(gain, 255)
        cv2.multiply(canvas[top:], cv2.merge([gain, gain, gain, full]), canvas[top:], 1 / 255)

    def _exposed(self, canvas: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """The canvas as a camera and an annotator would have it: light, grain, blur, noise; unlabelled spots."""
        look, (width, height) = self.look, self._size
        if look.bonnet is not None:
            middle, axes = (width, int(2.12 * height)), (int(1.1 * width), int(0.24 * height))
            cv2.ellipse(canvas, middle, axes, 0, 0, 360, (*look.bonnet, Label.Void), -1)
        canvas[:, : 2 * round(look.rim * width)] = (0, 0, 0, Label.Void)
        seen = cv2.GaussianBlur(canvas, (5, 5), _SUPERSAMPLING * look.blur_px)
        # Picture and labels are taken at the same points, so neither is shifted against the other.
        picture = seen[::_SUPERSAMPLING, ::_SUPERSAMPLING, :3].astype(np.float32)
        label = canvas[::_SUPERSAMPLING, ::_SUPERSAMPLING, 3].copy()
        noise = sensor_noise(rng, (height, width))
        fine = noise[..., 0]
        rough = cv2.resize(fine[: height // 3, : width // 3], self._size, interpolation=cv2.INTER_CUBIC)
        gain = (1 + _GRAIN[label] * (0.5 * fine + 0.8 * rough)) * _vignette(height, width)
        picture *= cv2.merge([gain * bright for bright in look.light])
        picture += look.noise * noise[::-1]
        self._unlabel(label, rng)
        return np.clip(picture, 0, 255).astype(np.uint8), label

    def _unlabel(self, label: Array, rng: np.random.Generator) -> None:
        """Makes Void of some outlines and of a few spots, as hasty annotators leave them."""
        height, width = label.shape
        outline = cv2.morphologyEx(to_segnet()[label], cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        hasty = cv2.resize(smooth_noise(rng, (12, 16), (12, 16)), self._size, interpolation=cv2.INTER_LINEAR) > 0.55
        label[outline & hasty] = Label.Void
        for x, y, long, wide in rng.uniform((0, 0.35, 0.01, 0.005), (1, 0.6, 0.035, 0.02), (3, 4)).tolist():
            axes = (max(1, int(long * width)), max(1, int(wide * height)))
            cv2.ellipse(label, (int(x * width), int(y * height)), axes, 0, 0, 360, int(Label.Void), -1)


def _vignette(height: int, width: int) -> Array:
    """Brightness over the frame, float32 (H, W)."""
    y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    field: Array = 1 - 0.07 * (y[:, None] ** 2 + x**2)
    return field


def _skyline(rng: np.random.Generator, look: Look) -> Thing:
    """Trees and roofs where the street ends for the eye, to be placed far ahead of the camera."""
    patches = []
    for at in np.linspace(-260, 260, 40).tolist():
        if rng.random() < look.trees:
            crown = rng.uniform(9, 16)
            bgr = varied(rng, look.leaf, 14)
            patches.append(disc(at, 0.2 * crown, 2.2 * crown, crown, bgr, Label.Tree))
        else:
            high, wide = rng.uniform(5, 11), rng.uniform(5, 9)
            bgr = varied(rng, look.walls[rng.integers(len(look.walls))], 12)
            patches.append(boxes(at - wide, at + wide, 0, high, bgr, Label.Building))
    return Thing.of(patches)
