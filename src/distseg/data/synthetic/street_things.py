"""What stands in a street: houses, bridges, trees, fences, posts.

`side` is -1 for things on the left of the street and 1 on the right; walls and houses reach from where they stand along
the street, and away from it.
"""

import numpy as np

from distseg.data.synthetic.camvid import Label
from distseg.data.synthetic.car import Bgr, blend
from distseg.data.synthetic.street_shapes import (
    BLACK,
    GLASS,
    WHITE,
    Patch,
    Thing,
    boxes,
    disc,
    flat,
    panes,
    upright,
    varied,
)


def house(rng: np.random.Generator, side: int, length: float, storeys: int, wall: Bgr, shop: bool) -> Thing:
    """A building `length` metres along, its front on across = 0: windows, door or shop front, roof, gable."""
    floor = rng.uniform(2.7, 3.2)
    height, deep, rise = storeys * floor + rng.uniform(0.2, 0.8), side * 9.0, rng.choice([0.0, 1.8, 2.8])
    roof = varied(rng, (70, 70, 84), 22)
    trim, glass = varied(rng, (205, 210, 212), 30), varied(rng, GLASS, 25)
    label = Label.Building
    parts = [
        flat(
            [(0, 0, height), (0, length, height), (deep / 2, length, height + rise), (deep / 2, 0, height + rise)],
            roof,
            label,
        ),
        flat(
            [(0, 0, 0), (0, 0, height), (deep / 2, 0, height + rise), (deep, 0, height), (deep, 0, 0)],
            blend(wall, BLACK, 0.22),
            label,
        ),
        panes(0, 0, length, 0, height, wall, label),
    ]
    if rise and rng.random() < 0.6:
        at = side * rng.uniform(3, 4.5)
        parts.insert(1, boxes(at - 0.5, at + 0.5, height, height + rise + 1.1, blend(wall, BLACK, 0.3), label, 0.5))
    columns = max(2, round(length / rng.uniform(2.2, 3.4)))
    wide, tall = rng.uniform(0.40, 0.62) * length / columns, rng.uniform(0.45, 0.62) * floor
    start = (np.arange(columns) + 0.5) * length / columns - wide / 2
    sill = (np.arange(storeys) + 0.28) * floor
    start, sill = (grid.ravel() for grid in np.meshgrid(start, sill[1:] if shop else sill))
    if len(start):
        parts.append(panes(0, start - 0.12, start + wide + 0.12, sill - 0.12, sill + tall + 0.12, trim, label))
        parts.append(panes(0, start, start + wide, sill, sill + tall, glass, label))
        lit = rng.random(len(start)) < 0.4
        if lit.any():
            lit_glass = blend(glass, (200, 205, 205), 0.35)
            parts.append(
                panes(0, start[lit], start[lit] + wide, sill[lit] + 0.4 * tall, sill[lit] + tall, lit_glass, label)
            )
    if storeys > 1 and rng.random() < 0.5:
        band = floor * np.arange(1, storeys)
        parts.append(panes(0, 0, length, band - 0.1, band + 0.1, blend(wall, WHITE, 0.25), label))
    if shop:
        board, front = varied(rng, (90, 80, 90), 70), varied(rng, (70, 66, 60), 30)
        parts.append(panes(0, 0.4, length - 0.4, 0.5, floor - 0.9, front, label))
        bars = np.linspace(0.4, length - 0.4, columns + 1)
        parts.append(panes(0, bars - 0.08, bars + 0.08, 0.3, floor - 0.8, trim, label))
        parts.append(panes(0, 0.3, length - 0.3, floor - 0.8, floor - 0.05, board, label))
        letters = 0.3 * length + np.arange(6) * 0.07 * length
        ink = blend(board, WHITE, 0.75)
        parts.append(panes(0, 0.26 * length, 0.74 * length, floor - 0.72, floor - 0.14, board, Label.Misc_Text))
        parts.append(panes(0, letters, letters + 0.045 * length, floor - 0.62, floor - 0.24, ink, Label.Misc_Text))
    else:
        door = rng.uniform(0.1, 0.8) * length
        parts.append(panes(0, door, door + 1.0, 0, 2.1, varied(rng, (80, 60, 70), 45), label))
    if rng.random() < 0.06 and not shop:
        parts.append(panes(0, 0.55 * length, 0.8 * length, 0, floor * 0.95, (34, 34, 38), Label.Archway))
    return Thing.of(parts)


def bridge(rng: np.random.Generator, left: float, right: float) -> Thing:
    """A bridge over the street, resting outside `left` and `right`."""
    bgr = varied(rng, (118, 122, 126), 25)
    low, high = rng.uniform(5.2, 6.0), rng.uniform(7.2, 8.2)
    under = flat(
        [(left, 0, low), (right, 0, low), (right, 5, low), (left, 5, low)], blend(bgr, BLACK, 0.6), Label.Bridge
    )
    piers = boxes(
        np.array([left - 6, right]), np.array([left, right + 6]), np.zeros(2), np.full(2, low), bgr, Label.Bridge
    )
    beam = boxes(left - 12, right + 12, low, high, bgr, Label.Bridge)
    rail = boxes(left - 12, right + 12, high - 0.3, high, blend(bgr, BLACK, 0.3), Label.Bridge)
    return Thing.of([under, piers, beam, rail])


def tree(rng: np.random.Generator, leaf: Bgr, height: float) -> Thing:
    """A trunk and a crown of lumps that face the camera."""
    radius, trunk = rng.uniform(0.26, 0.40) * height, rng.uniform(0.02, 0.035) * height
    middle = height - radius
    bark = varied(rng, (52, 62, 72), 18)
    stem = upright(
        np.array([-trunk, trunk, 0.6 * trunk, -0.6 * trunk]), np.array([0, 0, middle, middle]), bark, Label.Tree
    )
    return Thing.of([stem, *_foliage(rng, leaf, radius, middle, 1.15, Label.Tree)])


def bush(rng: np.random.Generator, leaf: Bgr) -> Thing:
    radius = rng.uniform(0.5, 1.1)
    return Thing.of(_foliage(rng, leaf, radius, 0.6 * radius, 0.8, Label.VegetationMisc))


def _foliage(
    rng: np.random.Generator, leaf: Bgr, radius: float, middle: float, tall: float, label: Label
) -> list[Patch]:
    angle = np.arange(26) * 2 * np.pi / 26
    rim = radius * rng.uniform(0.78, 1.08, 26)
    parts = [
        upright(
            rim * np.cos(angle), np.maximum(middle + tall * rim * np.sin(angle), 0), blend(leaf, BLACK, 0.35), label
        )
    ]
    turn = np.arange(7) * 2 * np.pi / 7
    for share, lift, lumps in ((0.12, -0.15, 9), (-0.08, 0.10, 9), (-0.2, 0.32, 6)):
        where, far = rng.uniform(0, 2 * np.pi, (lumps, 1)), radius * np.sqrt(rng.uniform(0, 0.6, (lumps, 1)))
        size = radius * rng.uniform(0.14, 0.30, (lumps, 1)) * rng.uniform(0.7, 1.2, (lumps, 7))
        across = far * np.cos(where) + size * np.cos(turn)
        up = middle + tall * (far * np.sin(where) * 0.9 + lift * radius + size * np.sin(turn))
        bgr = blend(leaf, BLACK, share) if share > 0 else blend(leaf, (190, 225, 225), -share)
        parts.append(upright(across, np.maximum(up, 0), bgr, label))
    return parts


def fence(rng: np.random.Generator, side: int, length: float, bgr: Bgr) -> Thing:
    """Wooden planks, or steel rails between posts."""
    label, high = Label.Fence, rng.uniform(0.9, 1.9)
    dark = blend(bgr, BLACK, 0.3)
    end = boxes(0, side * 0.12, 0, high, dark, label)
    step = np.arange(0, length, 0.5)
    if rng.random() < 0.6:
        board = panes(0, 0, length, 0, high, bgr, label)
        gaps = panes(0, step, step + 0.12, 0.05, high, dark, label)
        posts = panes(0, step[::4], step[::4] + 0.16, 0, high + 0.12, blend(bgr, WHITE, 0.15), label)
        return Thing.of([board, gaps, posts, end])
    high = min(high, 1.3)
    rails = panes(0, 0, length, np.array([0.30, high - 0.35]), np.array([0.62, high]), bgr, label)
    posts = panes(0, step[::4], step[::4] + 0.18, 0, high + 0.08, dark, label)
    return Thing.of([posts, rails])


def wall(rng: np.random.Generator, side: int, length: float, bgr: Bgr) -> Thing:
    high = rng.uniform(0.8, 2.0)
    cap = blend(bgr, WHITE, 0.3)
    return Thing.of(
        [
            panes(0, 0, length, 0, high, bgr, Label.Wall),
            panes(0, 0, length, high - 0.15, high, cap, Label.Wall),
            boxes(0, side * 0.35, 0, high, blend(bgr, BLACK, 0.2), Label.Wall),
        ]
    )


def hedge(rng: np.random.Generator, side: int, length: float, leaf: Bgr) -> Thing:
    label, deep = Label.VegetationMisc, side * 0.9
    along = np.linspace(0, length, 14)
    high = rng.uniform(0.9, 1.7) * rng.uniform(0.92, 1.06, 14)
    front = np.stack([np.zeros(14), along, high], -1)
    back = front[::-1] + np.array([deep, 0, 0])
    foot = np.array([(0, length, 0), (0, 0, 0)])
    spots = rng.uniform(0, length - 0.4, 12), rng.uniform(0.1, 0.6, 12)
    return Thing.of(
        [
            flat(np.concatenate([front, back]), blend(leaf, WHITE, 0.12), label),
            boxes(0, deep, 0, high[0], blend(leaf, BLACK, 0.35), label),
            flat(np.concatenate([front, foot]), blend(leaf, BLACK, 0.15), label),
            panes(0, spots[0], spots[0] + 0.4, spots[1], spots[1] + 0.25, blend(leaf, BLACK, 0.35), label),
        ]
    )


def lamp(rng: np.random.Generator, side: int) -> Thing:
    """A street lamp whose arm reaches over the road."""
    bgr, high, label = varied(rng, (112, 114, 112), 28), rng.uniform(5.5, 8.0), Label.Column_Pole
    arm = -side * rng.uniform(0.9, 1.6)
    return Thing.of(
        [
            boxes(-0.11, 0.11, 0, 1.1, bgr, label),
            boxes(-0.07, 0.07, 1.1, high, bgr, label),
            upright(np.array([0, arm, arm, 0]), np.array([high - 0.15, high + 0.1, high + 0.24, high]), bgr, label),
            boxes(arm - 0.3, arm + 0.3, high + 0.02, high + 0.26, blend(bgr, WHITE, 0.4), label),
        ]
    )


def sign(rng: np.random.Generator) -> Thing:
    """A round, three-cornered or square traffic sign on a pole."""
    high, wide, label = rng.uniform(2.1, 2.9), rng.uniform(0.6, 0.95), Label.SignSymbol
    pole = boxes(-0.05, 0.05, 0, high + 0.2, varied(rng, (125, 125, 122), 25), Label.Column_Pole)
    red, blue, pale = (40, 36, 190), (160, 70, 30), (225, 228, 228)
    kind = rng.integers(4)
    if kind == 0:
        faces = [disc(0, high, share * wide, share * wide, bgr, label) for share, bgr in ((1, red), (0.7, pale))]
    elif kind == 1:
        faces = [disc(0, high, wide, wide, blue, label), boxes(-0.08, 0.08, high - 0.2, high + 0.2, pale, label)]
    elif kind == 2:
        wide *= 1.2
        faces = [disc(0, high, share * wide, share * wide, bgr, label, 3) for share, bgr in ((1, red), (0.6, pale))]
    else:
        ground_bgr = varied(rng, (60, 110, 60), 40) if rng.random() < 0.5 else (40, 190, 220)
        faces = [
            boxes(-0.7 * wide, 0.7 * wide, high - 0.45, high + 0.45, pale, label),
            boxes(-0.62 * wide, 0.62 * wide, high - 0.38, high + 0.38, ground_bgr, label),
        ]
    return Thing.of([pole, *faces])


def traffic_light(rng: np.random.Generator) -> Thing:
    label, dark = Label.TrafficLight, (38, 36, 34)
    glow = [(50, 40, 120), (40, 90, 120), (60, 110, 60)]
    on = rng.integers(3)
    glow[on] = ((60, 50, 250), (60, 190, 250), (140, 240, 120))[on]
    lights = [disc(0, 3.25 - 0.36 * k, 0.26, 0.26, bgr, label) for k, bgr in enumerate(glow)]
    return Thing.of(
        [
            boxes(-0.06, 0.06, 0, 2.4, (84, 84, 82), Label.Column_Pole),
            boxes(-0.3, 0.3, 2.25, 3.55, dark, label),
            *lights,
        ]
    )


def bollard(rng: np.random.Generator) -> Thing:
    if rng.random() < 0.35:
        label = Label.TrafficCone
        cone = upright(np.array([-0.2, 0.2, 0.05, -0.05]), np.array([0, 0, 0.75, 0.75]), (40, 90, 225), label)
        return Thing.of([cone, boxes(-0.13, 0.13, 0.3, 0.45, (225, 225, 225), label)])
    bgr = varied(rng, (60, 58, 56), 25)
    return Thing.of(
        [
            boxes(-0.09, 0.09, 0, 1.0, bgr, Label.Column_Pole),
            boxes(-0.09, 0.09, 0.75, 0.88, (215, 215, 215), Label.Column_Pole),
        ]
    )


def bin_or_box(rng: np.random.Generator) -> Thing:
    """Street furniture for which CamVid has no class: Void."""
    bgr = ((45, 40, 160), (58, 66, 46), (60, 58, 56))[rng.integers(3)]
    wide, high = rng.uniform(0.25, 0.5), rng.uniform(0.9, 1.5)
    return Thing.of(
        [
            boxes(-wide, wide, 0, high, bgr, Label.Void),
            boxes(-wide, wide, high - 0.15, high, blend(bgr, BLACK, 0.4), Label.Void),
            boxes(-0.6 * wide, 0.6 * wide, high - 0.4, high - 0.3, (25, 25, 25), Label.Void),
        ]
    )
