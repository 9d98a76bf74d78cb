"""Elastic deformation that costs little more than the warp itself."""

from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
from albumentations.augmentations.geometric.distortion import BaseDistortion
from albumentations.core.transforms_interface import BaseTransformInitSchema
from pydantic import Field

_KNOTS_PER_SIGMA = 4  # a Gaussian-smoothed field has nothing to say between knots as near as that


class Elastic(BaseDistortion):  # type: ignore[misc]
    """Each pixel moved by white noise smoothed with a Gaussian (Simard et al. 2003), in two independent directions.

    ``shift``: root mean square of the displacement along each axis; ``smoothness``: standard deviation of the Gaussian;
    both in pixels. The library draws and smooths noise for every pixel, 16 to 19 ms at 512x512; here the noise is drawn
    on a grid of knots a quarter of the Gaussian apart, smoothed there and enlarged with cubic splines: the same
    distribution of fields, at the cost of the warp.
    """

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc]
        shift: Annotated[float, Field(ge=0)]
        smoothness: Annotated[float, Field(ge=1)]
        border_mode: int
        fill: tuple[float, ...] | float
        fill_mask: tuple[float, ...] | float

    def __init__(
        self,
        shift: float,
        smoothness: float,
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
        self.shift = shift
        self.smoothness = smoothness

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Where each pixel is taken from: ``map_x``, ``map_y`` (H, W) float32."""
        height, width = params["shape"][:2]
        dx, dy = displacement((height, width), self.shift, self.smoothness, self.random_generator)
        return {
            "map_x": dx + np.arange(width, dtype=np.float32),
            "map_y": dy + np.arange(height, dtype=np.float32)[:, None],
        }


def knots(size: tuple[int, int], smoothness: float) -> tuple[int, int]:
    """Rows and columns of the grid on which noise is drawn, margins of smoothing included; ``size`` = (H, W)."""
    spacing = max(1.0, smoothness / _KNOTS_PER_SIGMA)
    margin = 2 * _margin(smoothness / spacing)
    return tuple(int(np.ceil(length / spacing)) + 1 + margin for length in size)  # type: ignore[return-value]


def displacement(
    size: tuple[int, int], shift: float, smoothness: float, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A field (2, H, W) float32 in pixels, x first: normal at every pixel with standard deviation ``shift``."""
    height, width = size
    spacing = max(1.0, smoothness / _KNOTS_PER_SIGMA)
    sigma = smoothness / spacing
    margin = _margin(sigma)
    fields = []
    # from the knots' coordinates to those of pixels: pixel x stands at knot margin + x / spacing
    matrix = np.array([[1 / spacing, 0, margin], [0, 1 / spacing, margin]])
    for noise in generator.standard_normal((2, *knots(size, smoothness)), dtype=np.float32):
        smooth = cv2.GaussianBlur(noise, (2 * margin + 1, 2 * margin + 1), sigma)
        # smoothing leaves white noise a variance of 1 / (4 pi sigma^2), the sum of the squared weights
        smooth *= shift / _left(sigma, margin)
        fields.append(cv2.warpAffine(smooth, matrix, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP))
    return np.stack(fields)


def _margin(sigma: float) -> int:
    return int(np.ceil(3 * sigma))


def _left(sigma: float, margin: int) -> float:
    """Standard deviation that smoothing leaves of unit noise."""
    weights = cv2.getGaussianKernel(2 * margin + 1, sigma)
    return float((weights**2).sum())
