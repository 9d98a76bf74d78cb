"""Coloured polygons, the stuff that a make-believe street is made of.

A thing is modelled around the spot where it stands, in metres: across (to the right as the camera drives), along (away
from it), up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distseg.data.synthetic.camvid import Label
from distseg.data.synthetic.car import Array, Bgr

BLACK: Bgr = (0, 0, 0)
WHITE: Bgr = (255, 255, 255)
GLASS: Bgr = (62, 56, 50)
Edges = Array | float  # of one or of several rectangles


@dataclass(frozen=True)
class Patch:
    """Polygons of one colour and one class."""

    points: Array  # (polygons, corners, 3) metres
    bgr: Bgr
    label: Label


@dataclass(frozen=True)
class Thing:
    """Patches in drawing order; all their corners in one array, so that one sum projects many things."""

    patches: tuple[Patch, ...]
    points: Array  # (P, 3) metres
    bgrs: Array  # (patches, 3)

    @classmethod
    def of(cls, patches: Iterable[Patch]) -> "Thing":
        """The patches in drawing order."""
        patches = tuple(patches)
        points = np.concatenate([patch.points.reshape(-1, 3) for patch in patches])
        return cls(patches, points, np.array([patch.bgr for patch in patches]))

    @cached_property
    def ends(self) -> tuple[Array, Array]:
        """Corners (3,) of the box around it."""
        return self.points.min(axis=0), self.points.max(axis=0)


def flat(corners: Sequence[Sequence[float]] | Array, bgr: Bgr, label: Label) -> Patch:
    """A patch of one polygon (N, 3)."""
    return Patch(np.array(corners, float)[None], bgr, label)


def upright(across: Array, up: Array, bgr: Bgr, label: Label, along: float = 0.0) -> Patch:
    """Polygons that face the camera; `across` and `up` are (N,) of one or (polygons, N) of several."""
    across, up = np.atleast_2d(across, up)
    return Patch(np.stack([across, np.full(across.shape, along), up], -1), bgr, label)


def boxes(left: Edges, right: Edges, low: Edges, high: Edges, bgr: Bgr, label: Label, along: float = 0.0) -> Patch:
    """Upright rectangles that face the camera."""
    left, right, low, high = _together(left, right, low, high)
    across, up = np.stack([left, right, right, left], -1), np.stack([low, low, high, high], -1)
    return upright(across, up, bgr, label, along)


def panes(across: float, start: Edges, end: Edges, low: Edges, high: Edges, bgr: Bgr, label: Label) -> Patch:
    """Upright rectangles in a plane along the street."""
    start, end, low, high = _together(start, end, low, high)
    along, up = np.stack([start, end, end, start], -1), np.stack([low, low, high, high], -1)
    return Patch(np.stack([np.full(along.shape, across), along, up], -1), bgr, label)


def ground(left: float, right: float, start: Edges, end: Edges, bgr: Bgr, label: Label) -> Patch:
    """Rectangles on the ground."""
    start, end = _together(start, end)
    along = np.stack([start, start, end, end], -1)
    across = np.broadcast_to([left, right, right, left], along.shape)
    return Patch(np.stack([across, along, np.zeros(along.shape)], -1), bgr, label)


def _together(*edges: Edges) -> tuple[Array, ...]:
    return np.broadcast_arrays(*(np.array(edge, float, ndmin=1) for edge in edges))


def disc(across: float, up: float, width: float, height: float, bgr: Bgr, label: Label, corners: int = 10) -> Patch:
    """An ellipse, or a regular polygon that stands on an edge, that faces the camera."""
    angle = np.arange(corners) * 2 * np.pi / corners - np.pi / 2 + np.pi / corners
    return upright(across + width / 2 * np.cos(angle), up + height / 2 * np.sin(angle), bgr, label)


def varied(rng: np.random.Generator, bgr: Bgr, by: float) -> Bgr:
    """Lighter or darker by up to `by`, and a third of that in hue."""
    b, g, r = np.clip(np.array(bgr) + rng.uniform(-by, by) + rng.uniform(-by / 3, by / 3, 3), 8, 245).tolist()
    return b, g, r
