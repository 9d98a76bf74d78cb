"""What a policy paints on: the picture's size, and what stands beyond its border."""

from dataclasses import dataclass
from typing import Any

import cv2

GREY = (124.0, 116.0, 104.0)
"""Mean colour of ImageNet: to a network that normalises by it, nothing at all."""


@dataclass(frozen=True)
class Canvas:
    """Size and fill of the pictures that a policy is built for."""

    width: int
    height: int
    """Pixels."""
    blank_label: int | None = None
    """None: beyond the border, picture and labels are mirrored. A label: grey in the picture, this in the masks."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), as albumentations wants it."""
        return self.height, self.width

    @property
    def side(self) -> int:
        """The smaller side, the measure of lengths."""
        return min(self.width, self.height)

    @property
    def border_mode(self) -> int:
        """OpenCV's."""
        return int(cv2.BORDER_REFLECT_101 if self.blank_label is None else cv2.BORDER_CONSTANT)

    @property
    def border(self) -> dict[str, Any]:
        """Arguments of a warping transform."""
        return {"border_mode": self.border_mode, "fill": GREY, "fill_mask": self.blank_label or 0}
