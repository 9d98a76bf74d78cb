"""Bytes to pixels and back: the images and label maps inside shards. Nothing else is ever decoded."""

import zlib

import cv2
import numpy as np
import numpy.typing as npt

from distseg.data.manifest import MaskEncoding
from distseg.errors import BadSampleError

Pixels = npt.NDArray[np.uint8]

_BITS_MAGIC = b"DSB1"
MAX_PIXELS = 200_000_000
"""Images that declare more pixels than this are refused before they are decoded (decompression bombs)."""


def decode_image(data: bytes) -> Pixels:
    """Image file -> (H, W, 3) uint8 RGB, EXIF rotation ignored; BadSampleError when it cannot be decoded.

    Packing has applied the rotation to the pixels already.
    """
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadSampleError("image cannot be decoded") from error
    if image is None:  # cv2 returns None on damage, it does not raise
        raise BadSampleError("image cannot be decoded")
    return np.asarray(image, np.uint8)


def encode_mask(labels: Pixels, encoding: MaskEncoding, classes: int) -> bytes:
    """Label map (H, W) uint8 -> bytes of a ``png`` or ``bits`` member.

    ``bits`` holds labels 0 and 1 as packed bits, row-major, deflated at level 1, after a header of magic, height and
    width: some twenty times faster to decode than a PNG, but no other tool reads it.
    BadSampleError when a label needs more than the one bit that ``bits``, or two classes, leave it.
    """
    bilevel = encoding == "bits" or classes == 2
    if bilevel and labels.max(initial=0) > 1:
        raise BadSampleError(f"label {labels.max()} does not fit a mask of one bit (labels 0 and 1)")
    if encoding == "png":
        flags = [cv2.IMWRITE_PNG_BILEVEL, 1] if bilevel else []
        # A bilevel PNG written by cv2 holds value != 0; labels 0/1 come back as 0/255 and are mapped in decode_mask.
        done, data = cv2.imencode(".png", labels, flags)
        assert done
        return data.tobytes()
    header = _BITS_MAGIC + np.array(labels.shape, ">u4").tobytes()
    return header + zlib.compress(np.packbits(labels.astype(bool)).tobytes(), 1)


def decode_mask(data: bytes, encoding: MaskEncoding, classes: int) -> Pixels:
    """Bytes of a ``png`` or ``bits`` member -> label map (H, W) uint8; BadSampleError when it cannot be decoded."""
    if encoding == "png":
        try:
            labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise BadSampleError("mask cannot be decoded") from error
        if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
            raise BadSampleError("mask cannot be decoded as one 8-bit channel")
        return (labels > 0).astype(np.uint8) if classes == 2 else np.asarray(labels, np.uint8)
    if data[:4] != _BITS_MAGIC or len(data) < 12:
        raise BadSampleError("mask member is no packed bit mask")
    height, width = (int(side) for side in np.frombuffer(data[4:12], ">u4"))
    if height * width > MAX_PIXELS:
        raise BadSampleError(f"mask declares {width}x{height} pixels, more than {MAX_PIXELS}")
    wanted = (height * width + 7) // 8
    inflater = zlib.decompressobj()
    try:
        bits = np.frombuffer(
            inflater.decompress(data[12:], wanted + 1), np.uint8
        )  # a bomb stops after one byte too many
    except zlib.error as error:
        raise BadSampleError("mask cannot be inflated") from error
    if bits.size != wanted or not inflater.eof:
        raise BadSampleError(f"mask is cut short or too long, want {wanted} bytes of bits for {width}x{height} pixels")
    return np.unpackbits(bits, count=height * width).reshape(height, width)


def resize_pair(image: Pixels, mask: Pixels, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Image (H, W, 3) and mask (H, W) at ``size`` = (width, height); unchanged when they have it.

    Images shrink by area (antialiased) and grow bilinearly. A mask takes the label under each new pixel's centre
    (INTER_NEAREST_EXACT), where an image has its averaged pixel too; INTER_NEAREST takes the top left corner's and
    shifts the mask by up to half a new pixel.
    """
    height, width = mask.shape
    if (width, height) == size:
        return image, mask
    shrinking = size[0] <= width and size[1] <= height
    new_image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    new_mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(new_image, np.uint8), np.asarray(new_mask, np.uint8)
