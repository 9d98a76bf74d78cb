"""Pictures to begin with, drawn when the page starts: cars, a street, a table with things on it."""

import numpy as np

from distseg.data.codec import Pixels
from distseg.data.synthetic.car import BODIES, random_car
from distseg.data.synthetic.street import Street
from distseg.data.synthetic.studio import photograph, random_studio
from distseg.data.synthetic.tabletop import Table

COUNT = 3
_SEED = 9
_SIZE = (640, 480)


def draw_samples(task: str) -> list[tuple[str, Pixels]]:
    """(file name, (480, 640, 3) uint8 RGB) of three pictures such as a model of this task may know."""
    name, draw = {"binary": ("car", _car), "multiclass": ("street", _street), "instance": ("table", _table)}[task]
    return [(f"{name}-{number + 1}.jpg", draw(number)) for number in range(COUNT)]


def _car(number: int) -> Pixels:
    rng = np.random.default_rng((_SEED, number))
    car = random_car(rng, BODIES[number % len(BODIES)])
    turn = (0.6, 2.4, 4.0)[number]
    picture, _ = photograph(car, random_studio(rng, car), turn, _SIZE, rng)
    return _rgb(picture)


def _street(number: int) -> Pixels:
    picture, _ = Street(_SEED, number, _SIZE).frame(number)
    return _rgb(picture)


def _table(number: int) -> Pixels:
    rng = np.random.default_rng((_SEED, number))
    picture, _ = Table(rng, _SIZE).photograph(rng)
    return _rgb(picture)


def _rgb(bgr: Pixels) -> Pixels:
    return np.ascontiguousarray(bgr[..., ::-1])
