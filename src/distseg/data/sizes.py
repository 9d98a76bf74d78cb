"""Sizes of images as people write them."""

import re

from distseg.errors import InputError

_SIDE_MAX = 65_500  # libjpeg's limit for the side of a picture


def fitted(width: int, height: int, box_width: int, box_height: int) -> tuple[int, int]:
    """(width, height) of an image scaled so that it just fits into a box, its shape kept; all in pixels, at least 1.

    A square box of N sets the longest side to N. TorchScript compiles this, too.
    """
    scale = min(box_width / width, box_height / height)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def parse_size(text: str) -> tuple[int, int] | None:
    """``512`` or ``480x360`` -> (width, height) in pixels; ``original`` -> None; InputError on anything else."""
    if text == "original":
        return None
    match = re.fullmatch(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", text.lower())
    if match is not None:
        width, height = int(match[1]), int(match[2] or match[1])
        if min(width, height) >= 1 and max(width, height) <= _SIDE_MAX:
            return width, height
    raise InputError(f"size '{text}': want N, WxH or 'original' with sides of 1 to {_SIDE_MAX} pixels, such as 480x360")
