"""What the page takes: images up to so many bytes and pixels. Whatever else comes is answered by a sentence."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from distseg.data.codec import Pixels
from distseg.data.raw_image import HEADER_ERRORS
from distseg.errors import DataError, InputError
from distseg.predict.images import decode_image
from distseg.records import ExportManifest

FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP")
_UPLOAD_BYTES = 20 << 20
_PIXELS_MAX = 24_000_000  # a phone's photograph has 12 million
_WORK_BYTES = 2 << 30
_OBJECT_MASKS = 100  # that torchvision's detectors find at most, one byte a pixel each
_FEATURES = 512  # bytes a pixel of a detector that sees photographs at their own size


@dataclass(frozen=True)
class Limits:
    """Of one upload."""

    upload_bytes: int
    pixels: int

    @classmethod
    def of(cls, manifest: ExportManifest) -> "Limits":
        """As many pixels as the model answers within 2 GiB, 24 million at most: more classes, fewer pixels."""
        if manifest.task == "instance":
            each = _OBJECT_MASKS + 28 + (_FEATURES if manifest.input_size is None else 0)
        else:
            each = 16 + 12 * (1 if manifest.task == "binary" else len(manifest.classes))  # logits, probabilities, mean
        return cls(_UPLOAD_BYTES, min(_PIXELS_MAX, _WORK_BYTES // each))

    def __str__(self) -> str:
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        return f"{formats}, up to {_megabytes(self.upload_bytes)} and {self.pixels / 1e6:.1f} million pixels"


def decode_upload(data: bytes, name: str, limits: Limits) -> Pixels:
    """The file's bytes -> (H, W, 3) uint8 RGB, upright.

    InputError, a sentence for the page, when it is too large or no image of ``FORMATS``; the size that it declares is
    looked at before it is decoded.
    """
    if len(data) > limits.upload_bytes:
        raise InputError(
            f"{name} has {_megabytes(len(data))}. This page takes up to {_megabytes(limits.upload_bytes)}."
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
    except Image.DecompressionBombError:
        raise InputError(f"{name} declares far more pixels than it could hold. Please choose another image.") from None
    except HEADER_ERRORS:
        raise InputError(f"{name} is not an image that this page can read. It takes {limits}.") from None
    if width * height > limits.pixels:
        raise InputError(
            f"{name} has {width} x {height} = {width * height / 1e6:.1f} million pixels. This page takes up to "
            f"{limits.pixels / 1e6:.1f} million. Please make it smaller and try again."
        )
    try:
        return decode_image(data, Path(name))
    except DataError:
        raise InputError(f"{name} is damaged: it cannot be decoded to its end. Please choose another file.") from None


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):.3g} MB"  # of 2**20 bytes, as Gradio counts them
