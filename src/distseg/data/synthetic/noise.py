"""Random fields that several make-believe data sets are textured with."""

import cv2
import numpy as np

from distseg.data.synthetic.car import Array

_APART = 977  # pixels from the noise of one channel to the next: one draw serves all three


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Float32 (H, W) of about unit strength with `cells` bumps down and across."""
    return cv2.resize(rng.standard_normal(cells, np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)


def sensor_noise(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Float32 (H, W, 3) of unit strength, different in each pixel and channel."""
    pixels = shape[0] * shape[1]
    drawn = rng.standard_normal(pixels + 2 * _APART, np.float32)
    return cv2.merge([drawn[channel * _APART :][:pixels].reshape(shape) for channel in range(3)])
