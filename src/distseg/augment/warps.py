"""Geometric warps as maps from points to points: however many are drawn, pixels are resampled once.

A stage says where a point of the picture after it stood before it. Stages of one sample are composed, the last one
asked first, and image and masks are then read at those points: one interpolation instead of one a warp, and the same
parameters serve this machine's processor (here) and its GPU (``on_device.py``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import albumentations as A
import cv2
import numpy as np
import numpy.typing as npt
from albumentations.augmentations.geometric.distortion import BaseDistortion
from albumentations.core.transforms_interface import BaseTransformInitSchema

from distseg.augment.canvas import GREY, Canvas
from distseg.augment.keyed_random import Pixels

Coordinates = npt.NDArray[np.float32]
"""(H, W), or (1, W) and (H, 1) while x depends on the column alone and y on the row; pixels, 0 a first one's centre."""

_KNOTS_PER_SIGMA = 4  # a field smoothed by a Gaussian has nothing more to say between knots as near as that


class Stage(Protocol):
    """Where the points (x, y) of the picture after a warp stood before it; ``size`` = (H, W) of both."""

    def before(self, x: Coordinates, y: Coordinates, size: tuple[int, int]) -> tuple[Coordinates, Coordinates]: ...


@dataclass(frozen=True)
class AffineStage:
    """x' = a x + b y + c, y' = d x + e y + f."""

    matrix: npt.NDArray[np.float64]
    """(2, 3), from points after to points before."""

    def before(self, x: Any, y: Any, size: tuple[int, int]) -> tuple[Any, Any]:
        """Of arrays and tensors alike."""
        (a, b, c), (d, e, f) = self.matrix.tolist()
        return a * x + (b * y + c), d * x + (e * y + f)


@dataclass(frozen=True)
class OpticalStage:
    """Radial distortion about the centre: r' = r (1 + k r^2 + k r^4), r in parts of the sides (Brown 1966)."""

    k: float

    def before(self, x: Any, y: Any, size: tuple[int, int]) -> tuple[Any, Any]:
        """Of arrays and tensors alike."""
        height, width = size
        dx, dy = x - (width - 1) / 2, y - (height - 1) / 2
        square = (dx / width) ** 2 + (dy / height) ** 2
        factor = 1 + self.k * square * (1 + square)
        return (width - 1) / 2 + dx * factor, (height - 1) / 2 + dy * factor


@dataclass(frozen=True)
class GridStage:
    """Columns and rows of a regular grid made wider and narrower; the border stays where it is."""

    columns: Coordinates
    """(cells + 1,) where the grid's lines stood before, in parts of the width: from 0 to 1."""
    rows: Coordinates

    def before(self, x: Coordinates, y: Coordinates, size: tuple[int, int]) -> tuple[Coordinates, Coordinates]:
        return _along(x, self.columns, size[1]), _along(y, self.rows, size[0])


@dataclass(frozen=True)
class ElasticStage:
    """Each point moved by a smooth random field."""

    knots: Coordinates
    """(rows, columns, 2): displacement (x, y) in pixels, at the centres of as many equal cells of the picture."""

    def before(self, x: Coordinates, y: Coordinates, size: tuple[int, int]) -> tuple[Coordinates, Coordinates]:
        height, width = size
        if x.shape[0] == 1 and np.array_equal(x[0], np.arange(width)) and np.array_equal(y[:, 0], np.arange(height)):
            moved = cv2.resize(self.knots, (width, height), interpolation=cv2.INTER_CUBIC)
        else:
            rows, columns, _ = self.knots.shape
            at_x = _filled((x + 0.5) * (columns / width) - 0.5, size)
            at_y = _filled((y + 0.5) * (rows / height) - 0.5, size)
            moved = cv2.remap(self.knots, at_x, at_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return x + moved[..., 0], y + moved[..., 1]


def sources(stages: Sequence[Stage], size: tuple[int, int]) -> tuple[Coordinates, Coordinates]:
    """Where each pixel is taken from, after all stages in the order of application: x and y, (H, W) float32."""
    height, width = size
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    for stage in reversed(stages):
        x, y = stage.before(x, y, size)
    return _filled(x, size), _filled(y, size)


def warp(
    image: Pixels, masks: tuple[Pixels, ...], stages: Sequence[Stage], canvas: Canvas
) -> tuple[Pixels, tuple[Pixels, ...]]:
    """Image (H, W, 3), bilinear, and masks (H, W), nearest, after all stages."""
    if not stages:
        return image, masks
    size = image.shape[:2]
    if len(stages) == 1 and isinstance(stages[0], AffineStage):  # no map needs to be made
        matrix, out = stages[0].matrix, (size[1], size[0])

        def taken(pixels: Pixels, how: int, fill: Any) -> Any:
            border = {"borderMode": canvas.border_mode, "borderValue": fill}
            return cv2.warpAffine(pixels, matrix, out, flags=how | cv2.WARP_INVERSE_MAP, **border)

    else:
        x, y = sources(stages, size)

        def taken(pixels: Pixels, how: int, fill: Any) -> Any:
            return cv2.remap(pixels, x, y, how, borderMode=canvas.border_mode, borderValue=fill)

    label = canvas.blank_label or 0
    return taken(image, cv2.INTER_LINEAR, GREY), tuple(taken(mask, cv2.INTER_NEAREST, label) for mask in masks)


class Warp(BaseDistortion):  # type: ignore[misc]
    """A random warp as albumentations has them, which can also be drawn without being applied."""

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        border_mode: int
        fill: tuple[float, ...] | float
        fill_mask: tuple[float, ...] | float

    def __init__(
        self,
        border_mode: int = cv2.BORDER_REFLECT_101,
        fill: tuple[float, ...] | float = 0,
        fill_mask: tuple[float, ...] | float = 0,
        p: float = 0.5,
    ) -> None:
        super().__init__(
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            keypoint_remapping_method="mask",
            p=p,
            border_mode=border_mode,
            fill=fill,
            fill_mask=fill_mask,
        )

    def draw(self, size: tuple[int, int]) -> Stage:
        """One warp of pictures of (H, W), from this transform's random numbers."""
        raise NotImplementedError

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        size = params["shape"][:2]
        x, y = sources([self.draw(size)], size)
        return {"map_x": x, "map_y": y}


class Elastic(Warp):
    """White noise smoothed with a Gaussian moves each pixel (Simard et al. 2003), in two independent directions.

    ``shift``: standard deviation of the displacement along each axis; ``smoothness``: that of the Gaussian; both in
    pixels. Done plainly, noise for every pixel smoothed with a wide filter, it costs 16 to 19 ms at 512x512. Here the
    noise is drawn on knots a quarter of the Gaussian apart, smoothed there and enlarged with cubic splines: the same
    distribution of fields.
    """

    def __init__(self, shift: float, smoothness: float, **others: Any) -> None:
        super().__init__(**others)
        self.shift = shift
        self.smoothness = smoothness

    def draw(self, size: tuple[int, int]) -> ElasticStage:
        spacing = max(1.0, self.smoothness / _KNOTS_PER_SIGMA)
        rows, columns = (max(1, math.ceil(length / spacing)) for length in size)
        sigma = self.smoothness * rows / size[0], self.smoothness * columns / size[1]  # in knots
        kernels = [_gaussian(each) for each in sigma]
        margins = [len(kernel) // 2 for kernel in kernels]
        shape = rows + 2 * margins[0], columns + 2 * margins[1], 2
        noise = self.random_generator.standard_normal(shape, dtype=np.float32)
        smooth = cv2.sepFilter2D(noise, -1, kernels[1], kernels[0])
        # what smoothing leaves of unit noise: the root of the sum of the squared weights
        left = math.sqrt(float((kernels[0] ** 2).sum() * (kernels[1] ** 2).sum()))
        inside = smooth[margins[0] : margins[0] + rows, margins[1] : margins[1] + columns]
        return ElasticStage(np.ascontiguousarray(inside * np.float32(self.shift / left)))


class Grid(Warp):
    """Five by five cells whose columns and rows are made wider and narrower by up to ``limit`` of themselves.

    The library's own leaves a seam at the cells' edges, and moves pixels at a limit of 0 too.
    """

    CELLS = 5

    def __init__(self, limit: float, **others: Any) -> None:
        super().__init__(**others)
        self.limit = limit

    def draw(self, size: tuple[int, int]) -> GridStage:
        return GridStage(self._lines(), self._lines())

    def _lines(self) -> Coordinates:
        widths = [1 + self.py_random.uniform(-self.limit, self.limit) for _ in range(self.CELLS)]
        return np.cumsum([0.0, *widths], dtype=np.float32) / np.float32(sum(widths))


class Optical(Warp):
    """Barrel and pincushion distortion with a coefficient between ``low`` and ``high``."""

    def __init__(self, low: float, high: float, **others: Any) -> None:
        super().__init__(**others)
        self.low = low
        self.high = high

    def draw(self, size: tuple[int, int]) -> OpticalStage:
        return OpticalStage(self.py_random.uniform(self.low, self.high))


def is_warp(transform: A.BasicTransform) -> bool:
    """Whether `draw_stage` can draw it."""
    return isinstance(transform, (Warp, A.Affine))


def draw_stage(transform: A.BasicTransform, size: tuple[int, int]) -> Stage:
    """A warp of pictures of (H, W) drawn from a transform's random numbers."""
    if isinstance(transform, Warp):
        return transform.draw(size)
    forward = transform.get_params_dependent_on_data({"shape": (*size, 3)}, {})["matrix"]
    return AffineStage(np.linalg.inv(forward)[:2])


def _along(at: Coordinates, lines: Coordinates, length: int) -> Coordinates:
    """Piecewise linear from evenly spaced lines to ``lines``, both in parts of the picture's outer edges."""
    parts = (at + 0.5) / length
    outside = parts - parts.clip(0, 1)  # beyond the border all moves with it
    moved = np.interp(parts, np.linspace(0, 1, len(lines)), lines) + outside
    return np.asarray(moved * length - 0.5, np.float32)


def _gaussian(sigma: float) -> Any:
    reach = math.ceil(3 * sigma)
    return cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F)


def _filled(values: Coordinates, size: tuple[int, int]) -> Coordinates:
    return np.ascontiguousarray(np.broadcast_to(values, size), np.float32)
