"""Opens a mask that is a picture, and no other file: what PIL could hand to another program is never opened."""

from pathlib import Path

from PIL import Image

from distseg.data.codec import MAX_PIXELS
from distseg.data.findings import FindingError, error
from distseg.data.raw_image import HEADER_ERRORS

MASK_ENDINGS = (".png", ".gif", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
ONE_CHANNEL = ("1", "L", "P")
"""PIL's modes of one channel, 8 bits deep at most."""

_FORMATS = ("PNG", "GIF", "BMP", "TIFF", "JPEG")  # PIL runs Ghostscript to load EPS
_DEEP = ("I", "F")  # first letters of PIL's modes of more than 8 bits a channel


def load_mask(path: Path) -> Image.Image:
    """The picture, loaded, of at most 8 bits a channel; FindingError when there is none."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                declared = f"mask declares {image.width}x{image.height} pixels, more than {MAX_PIXELS}"
                raise FindingError(error("unreadable-mask", path, declared, "save the mask at its image's size"))
            image.load()
    except HEADER_ERRORS as problem:
        message = f"mask cannot be decoded ({_reason(problem)})"
        remedy = "save or copy the file again, or remove it and its image"
        raise FindingError(error("unreadable-mask", path, message, remedy)) from problem
    if image.format == "JPEG":
        remedy = "save the mask as PNG from its source"
        raise FindingError(error("mask-jpeg", path, "mask is a JPEG, which blurs labels at every edge", remedy))
    if image.mode.startswith(_DEEP):
        remedy = "save labels 0..255 in one channel of 8 bits"
        raise FindingError(error("mask-16-bit", path, f"mask has more than 8 bits (mode {image.mode})", remedy))
    return image


def has_palette(path: Path) -> bool:
    """Whether a picture that ``load_mask`` can load has a palette; from its header."""
    with Image.open(path, formats=_FORMATS) as image:
        return image.mode == "P"


def _reason(problem: Exception) -> str:
    """Without the file's name, which stands before it already."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return "no picture" if "cannot identify" in str(problem) else str(problem)
