"""Raw photographs as users have them: of any common format, turned by EXIF, cut short, or no pictures at all."""

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from distseg.data.codec import MAX_PIXELS, Pixels
from distseg.errors import BadSampleError

HEADER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What PIL raises on files that are damaged or no pictures."""


@dataclass(frozen=True)
class RawImage:
    """A photograph that can be decoded."""

    data: bytes
    pixels: Pixels
    """(H, W, 3) uint8 BGR, upright."""
    upright_jpeg: bool
    """``data`` is a JPEG of three channels that no EXIF tag turns: it can be stored as it is."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, upright."""
        height, width = self.pixels.shape[:2]
        return width, height


@dataclass(frozen=True)
class Sizes:
    """(width, height) of a picture in pixels."""

    stored: tuple[int, int]
    shown: tuple[int, int]
    """As EXIF turns it, which is how it is packed."""

    @classmethod
    def of(cls, header: Image.Image) -> "Sizes":
        """Of an opened picture that is not loaded yet."""
        width, height = header.size
        if isinstance(header, TiffImageFile):  # its size is the stored one or the shown one, as PIL's version has it
            tags = header.tag_v2
            width, height = tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]
        return cls((width, height), (height, width) if orientation(header) >= 5 else (width, height))


def read_image(path: Path) -> RawImage:
    """Reads and decodes a photograph; BadSampleError when that cannot be done."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadSampleError(f"image cannot be read ({error.strerror})") from error
    with _opened(io.BytesIO(data)) as header:
        # not MPO, a phone's JPEG with more pictures behind it: its index would point past the first one's bytes
        upright_jpeg = header.format == "JPEG" and header.mode == "RGB" and orientation(header) == 1
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # applies the EXIF orientation
    except cv2.error as error:
        raise BadSampleError("image cannot be decoded") from error
    if pixels is None:
        raise BadSampleError("image cannot be decoded")
    return RawImage(data, np.asarray(pixels, np.uint8), upright_jpeg)


def shown_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of a picture as it is shown, from its header; BadSampleError when it has none."""
    with _opened(path) as header:
        return Sizes.of(header).shown


def _opened(source: Path | io.BytesIO) -> Image.Image:
    try:
        image = Image.open(source)
    except HEADER_ERRORS as error:
        raise BadSampleError("image cannot be decoded") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadSampleError(f"image declares {image.width}x{image.height} pixels, more than {MAX_PIXELS}")
    return image


def orientation(image: Image.Image) -> int:
    """EXIF's, before the picture is loaded: 1 upright, 2..8 mirrored or turned, 5..8 with the sides exchanged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (*HEADER_ERRORS, TypeError):
        return 1  # damaged EXIF: viewers show the picture as it is stored
    return int(value) if value in range(1, 9) else 1
