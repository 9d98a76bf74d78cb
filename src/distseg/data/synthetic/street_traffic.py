"""What moves through a street: cars, buses and lorries, riders, people on foot.

`heading` is 1 for vehicles that drive away from the camera and -1 for those that come; `eye_side` is the side of the
vehicle on which the camera passes, -1 = left.
"""

import numpy as np

from distseg.data.synthetic.camvid import Label
from distseg.data.synthetic.car import BELT, BODIES, Array, Bgr, Car, blend, random_car
from distseg.data.synthetic.street_shapes import BLACK, GLASS, WHITE, Patch, Thing, boxes, disc, panes, upright, varied

_TYRE: Bgr = (30, 28, 27)
_SEDAN, _HATCH, _SUV, _VAN, _PICKUP, _COUPE = BODIES
_CAR_BODIES = (_SEDAN, _HATCH, _HATCH, _COUPE, _SEDAN, _SUV, _VAN, _PICKUP)
_SUV_BODIES = (_SUV, _PICKUP)


def passenger_car(rng: np.random.Generator, heading: int, eye_side: int) -> Thing:
    """A car that drives away (heading = 1) or comes (-1)."""
    body = _CAR_BODIES[rng.integers(len(_CAR_BODIES))]
    car = random_car(rng, body)
    label = Label.SUVPickupTruck if body in _SUV_BODIES else Label.Car
    end, near = -heading, -heading * eye_side  # of the car: which of its ends and flanks the camera sees
    x = np.linspace(-end, end, 9) * 0.499 * car.length  # far to near
    belt = np.minimum(BELT * car.height, car.top(x) - 0.03)
    rows = [car.bottom(x), belt, car.top(x) - 0.02]
    ring = [car.on_side(x, z, s) for s in (-near, near) for z in rows]
    far_low, far_belt, far_top, near_low, near_belt, near_top = ring
    strips = (
        (far_low, far_belt, 0.45),
        (far_belt, far_top, 0.45),
        (near_low, near_belt, 0.2),
        (near_belt, near_top, 0.12),
        (near_top, far_top, 0.0),
    )
    parts: list[tuple[Array, Bgr]] = []
    for k in range(8):
        for a, b, dark in strips:
            parts.append((np.stack([a[k], a[k + 1], b[k + 1], b[k]])[None], blend(car.paint, BLACK, dark)))
    parts.append(
        (
            np.stack([far_low[-1], near_low[-1], near_belt[-1], near_top[-1], far_top[-1], far_belt[-1]])[None],
            blend(car.paint, BLACK, 0.15),
        )
    )
    parts += _glazing(car, end, near)
    lights: Bgr = (30, 26, 175) if end < 0 else (232, 232, 224)
    parts.append((np.stack([_on_end(car, 0.62 * s, 0.52, 0.24, 0.10, end) for s in (-1, 1)]), lights))
    parts.append((_on_end(car, 0, 0.36, 0.26, 0.10, end)[None], (60, 200, 225) if end < 0 else (225, 225, 225)))
    parts.append((_on_end(car, 0, 0.20, 0.80, 0.10, end)[None], (44, 42, 41)))
    patches = [Patch(_street(points, heading), bgr, label) for points, bgr in parts]
    return Thing.of([*_tyres(car, end, heading, label), *patches, *_wheel_faces(car, near, heading, label)])


def _street(points: Array, heading: int) -> Array:
    """From a car's frame (x forward, y to its left) to the street's."""
    turned: Array = points[..., [1, 0, 2]] * (-heading, heading, 1)
    return turned


def _glazing(car: Car, end: int, near: int) -> list[tuple[Array, Bgr]]:
    sides = []
    for from_x, to_x in car.body.windows:
        x = np.linspace(from_x, to_x, 4) * car.length
        sill = np.full_like(x, (BELT + 0.03) * car.height)
        roof = np.maximum(car.top(x) - 0.09 * car.height, sill)
        sides.append(car.on_side(np.r_[x, x[::-1]], np.r_[sill, roof[::-1]], near))
    rear, front = car.body.screens
    from_x, to_x = rear if end < 0 else front
    x = np.linspace(from_x, to_x, 4) * car.length
    screen = car.on_top(np.r_[x, x[::-1]], np.repeat([-0.9, 0.9], 4))
    glint = car.on_top(np.r_[x, x[::-1]], np.r_[np.linspace(-0.3, 0.1, 4), np.full(4, 0.85)])
    return [(np.stack(sides), car.glass), (screen[None], car.glass), (glint[None], blend(car.glass, WHITE, 0.2))]


def _on_end(car: Car, across: float, z: float, wide: float, high: float, end: int) -> Array:
    """A box (4, 3) on the nose or tail; sizes in half widths and heights."""
    y = np.array([-wide, wide, wide, -wide]) + across
    return car.on_end(y, np.array([z - high / 2, z - high / 2, z + high / 2, z + high / 2]) * car.height, end)


def _tyres(car: Car, end: int, heading: int, label: Label) -> list[Patch]:
    """The tyres and the dark underside, as seen from the end."""
    half, radius = car.width / 2, car.wheel_radius
    parts = []
    for x in (-end * 0.295 * car.length, end * 0.295 * car.length):
        tyres = np.array(
            [
                [
                    (x, s * 0.92 * half, 0),
                    (x, s * 0.66 * half, 0),
                    (x, s * 0.66 * half, 1.5 * radius),
                    (x, s * 0.92 * half, 1.5 * radius),
                ]
                for s in (-1, 1)
            ]
        )
        parts.append(Patch(_street(tyres, heading), _TYRE, label))
    return parts


def _wheel_faces(car: Car, near: int, heading: int, label: Label) -> list[Patch]:
    angle = np.arange(12) * 2 * np.pi / 12
    y = np.full(12, near * (car.width / 2 - 0.04))
    parts = []
    for share, bgr in ((1.0, _TYRE), (0.66, car.rim)):
        radius = share * car.wheel_radius
        discs = [
            np.stack([x + radius * np.cos(angle), y, car.wheel_radius + radius * np.sin(angle)], -1)
            for x in (-0.295 * car.length, 0.30 * car.length)
        ]
        parts.append(Patch(_street(np.stack(discs), heading), bgr, label))
    return parts


def lorry(rng: np.random.Generator, heading: int, eye_side: int) -> Thing:
    """A bus, a lorry or (rarely) a trailer, which CamVid calls OtherMoving: a box with windows or a load."""
    bus = rng.random() < 0.5
    label = Label.Truck_Bus if bus or rng.random() < 0.8 else Label.OtherMoving
    long, half, high = rng.uniform(6, 10), 1.22, rng.uniform(2.9, 4.1) if bus else rng.uniform(2.7, 3.6)
    bgr = varied(rng, ((44, 38, 170), (70, 110, 60), (200, 205, 205), (130, 80, 40))[rng.integers(4)], 20)
    near_end, flank = -long / 2, eye_side * half
    parts = [
        boxes(np.array([-half, 0.6 * half]), np.array([-0.6 * half, half]), 0, 0.9, _TYRE, label, near_end),
        panes(flank, near_end, long / 2, 0.45, high, blend(bgr, BLACK, 0.22), label),
        boxes(-half, half, 0.45, high, bgr, label, near_end),
    ]
    wheels = np.array([-0.3, 0.3]) * long
    parts.append(panes(flank, wheels - 0.45, wheels + 0.45, 0, 0.9, _TYRE, label))
    if bus or heading < 0:
        parts.append(boxes(-0.85 * half, 0.85 * half, 1.4, min(2.5, high - 0.4), GLASS, label, near_end))
    if bus:
        rows = np.arange(1.5, high - 0.6, 1.6)
        start = np.linspace(near_end + 0.4, long / 2 - 1.2, 6)
        start, rows = (grid.ravel() for grid in np.meshgrid(start, rows))
        parts.append(panes(flank, start, start + 0.9, rows, rows + 0.8, GLASS, label))
    lights: Bgr = (30, 26, 175) if heading > 0 else (232, 232, 224)
    side = np.array([-0.85, 0.6]) * half
    parts.append(boxes(side, side + 0.25 * half, 0.7, 0.95, lights, label, near_end))
    return Thing.of(parts)


def person(rng: np.random.Generator, stride: float) -> Thing:
    """Someone on foot; `stride` is the phase of the walk in radians. Some are children, push a pram or lead a dog."""
    child, company = rng.random() < 0.10, rng.random()
    label = Label.Child if child else Label.Pedestrian
    scale = rng.uniform(1.0, 1.35) / 1.75 if child else rng.uniform(0.93, 1.06)
    coat, trousers, skin, hair = _clothes(rng)
    swing = 0.22 * np.sin(stride)
    parts = [
        _limb((0.07, 0.9), (0.09 - swing, 0.0), 0.17, blend(trousers, BLACK, 0.3), label),
        _limb((-0.07, 0.9), (-0.09 + swing, 0.0), 0.17, trousers, label),
        _limb((0.22, 1.42), (0.27 + swing, 0.85), 0.11, blend(coat, BLACK, 0.25), label),
        upright(
            np.array([-0.21, -0.18, 0.18, 0.21, 0.14, -0.14]), np.array([1.38, 0.8, 0.8, 1.38, 1.52, 1.52]), coat, label
        ),
        _limb((-0.22, 1.42), (-0.27 - swing, 0.85), 0.11, coat, label),
        *_head(1.65, skin, hair, label),
    ]
    parts = [Patch(patch.points * scale, patch.bgr, label) for patch in parts]
    if company < 0.06:
        bgr, label = varied(rng, (90, 60, 60), 40), Label.CartLuggagePram
        parts += [
            boxes(0.35, 0.9, 0.45, 1.0, bgr, label),
            disc(0.5, 0.2, 0.35, 0.4, _TYRE, label),
            disc(0.8, 0.2, 0.3, 0.4, _TYRE, label),
        ]
    elif company < 0.12:
        bgr, label = varied(rng, (60, 80, 110), 40), Label.Animal
        legs = np.array([0.5, 0.62, 0.85, 0.97])
        parts += [
            boxes(legs, legs + 0.07, 0, 0.3, bgr, label),
            disc(0.76, 0.42, 0.62, 0.3, bgr, label),
            disc(1.08, 0.58, 0.26, 0.24, bgr, label),
        ]
    return Thing.of(parts)


def rider(rng: np.random.Generator, pedals: float) -> Thing:
    """Someone on a bicycle, now and then on a scooter, seen from behind or ahead; `pedals` is a phase in radians."""
    scooter = rng.random() < 0.15
    label = Label.MotorcycleScooter if scooter else Label.Bicyclist
    coat, trousers, skin, hair = _clothes(rng)
    helmet = varied(rng, (120, 120, 200), 60) if rng.random() < 0.6 else hair
    lift = 0.14 * np.sin(pedals)
    parts = [
        disc(0, 0.34, 0.10, 0.68, _TYRE, label),
        boxes(-0.025, 0.025, 0.5, 1.05, (90, 80, 80), label),
        _limb((0.10, 0.98), (0.13, 0.32 - lift), 0.16, blend(trousers, BLACK, 0.25), label),
        _limb((-0.10, 0.98), (-0.13, 0.32 + lift), 0.16, trousers, label),
        upright(
            np.array([-0.17, 0.17, 0.24, 0.13, -0.13, -0.24]),
            np.array([0.92, 0.92, 1.42, 1.56, 1.56, 1.42]),
            coat,
            label,
        ),
        _limb((-0.21, 1.42), (-0.30, 1.03), 0.10, blend(coat, BLACK, 0.15), label),
        _limb((0.21, 1.42), (0.30, 1.03), 0.10, blend(coat, BLACK, 0.15), label),
        boxes(-0.33, 0.33, 1.0, 1.05, (60, 56, 54), label),
        *_head(1.69, skin, helmet, label),
    ]
    if scooter:
        parts.insert(4, boxes(-0.24, 0.24, 0.25, 0.95, varied(rng, (70, 60, 120), 50), label))
    return Thing.of(parts)


def _clothes(rng: np.random.Generator) -> tuple[Bgr, Bgr, Bgr, Bgr]:
    """Coat, trousers, skin and hair."""
    coats: tuple[Bgr, ...] = ((45, 42, 42), (90, 60, 40), (50, 50, 130), (150, 150, 155), (70, 90, 70), (80, 110, 140))
    return (
        varied(rng, coats[rng.integers(len(coats))], 30),
        varied(rng, (72, 60, 52), 25),
        varied(rng, (120, 150, 190), 40),
        varied(rng, (45, 52, 62), 30),
    )


def _limb(start: tuple[float, float], end: tuple[float, float], wide: float, bgr: Bgr, label: Label) -> Patch:
    half = wide / 2
    return upright(
        np.array([start[0] - half, start[0] + half, end[0] + 0.7 * half, end[0] - 0.7 * half]),
        np.array([start[1], start[1], end[1], end[1]]),
        bgr,
        label,
    )


def _head(up: float, skin: Bgr, hair: Bgr, label: Label) -> list[Patch]:
    return [disc(0, up, 0.21, 0.27, skin, label), disc(0, up + 0.06, 0.22, 0.18, hair, label)]
