"""Bytes to pixels and back: the images and label maps inside shards. Nothing else is ever decoded.

What a file declares is read from its header first, so an image that claims to be enormous is refused, not decoded.
"""

import struct
import time
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from distseg.data.manifest import MaskEncoding
from distseg.errors import BadSampleError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 200_000_000
"""Images that declare more pixels than this are refused before they are decoded (decompression bombs)."""

_BITS_MAGIC = b"DSB1"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.Struct(">8xI4sIIBBBBB4x")  # length and name of the first chunk, then what IHDR holds
_PNG_CHUNK = struct.Struct(">I4s")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers; those three are tables and a reserve
_ENOUGH = 0.9  # an encoding that few programs read is chosen only if it saves a tenth


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> Pixels:
    """JPEG file -> (H, W, 3) uint8 RGB, EXIF rotation ignored (packing has applied it to the pixels already).

    BadSampleError when it is no JPEG, cannot be decoded, or declares more than MAX_PIXELS or another size than
    ``size`` = (width, height).
    """
    declared = _jpeg_size(data)
    if declared is None:
        raise BadSampleError("image cannot be decoded: no header of a JPEG")
    _check_declared("image", declared, "index says", size)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadSampleError("image cannot be decoded") from error
    if image is None:  # cv2 returns None on damage, it does not raise
        raise BadSampleError("image cannot be decoded")
    return np.asarray(image, np.uint8)


def encode_mask(labels: Pixels, encoding: MaskEncoding, levels: int) -> bytes:
    """Label map (H, W) uint8 -> bytes of a ``png`` or ``bits`` member.

    ``levels``: how many labels there are (the classes, and one more for an ignore label). ``png``: one bit a pixel for
    two levels (0 is black, 1 is white), else eight, the label being the grey value. Rows are stored unfiltered and
    deflated at level 1, which every program reads, and `decode_mask` seven times faster than libpng reads its own
    files. ``bits``: labels 0 and 1 as packed bits, row-major, deflated at level 1, after a header of magic, height and
    width; no other tool reads it.
    BadSampleError when a label needs more than the one bit that ``bits``, or two levels, leave it.
    """
    bilevel = levels == 2
    if (bilevel or encoding == "bits") and labels.max(initial=0) > 1:
        raise BadSampleError(f"label {labels.max()} does not fit a mask of one bit (labels 0 and 1)")
    height, width = labels.shape
    if encoding == "bits":
        header = _BITS_MAGIC + np.array(labels.shape, ">u4").tobytes()
        return header + zlib.compress(np.packbits(labels).tobytes(), 1)
    packed = np.packbits(labels, axis=1) if bilevel else labels
    rows = np.zeros((height, packed.shape[1] + 1), np.uint8)  # each row begins with its filter: 0, none
    rows[:, 1:] = packed
    header = struct.pack(">IIBBBBB", width, height, 1 if bilevel else 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return _PNG_MAGIC + b"".join(_png_chunk(name, content) for name, content in chunks)


def decode_mask(data: bytes, encoding: MaskEncoding, levels: int, size: tuple[int, int] | None = None) -> Pixels:
    """Bytes of a ``png`` or ``bits`` member -> label map (H, W) uint8, maybe read-only; ``levels`` as when encoded.

    BadSampleError when it cannot be decoded, declares more than MAX_PIXELS or another size than ``size`` = (width,
    height), or for two levels holds other grey values than 0 and 1, or 0 and 255.
    """
    if encoding == "bits":
        return _decode_bits(data, size)
    if data[:8] != _PNG_MAGIC or len(data) < _PNG_HEADER.size or data[12:16] != b"IHDR":
        raise BadSampleError("mask cannot be decoded: no header of a PNG")
    _, _, width, height, depth, colours, _, _, interlaced = _PNG_HEADER.unpack_from(data)
    _check_declared("mask", (width, height), "image is", size)
    bilevel = levels == 2
    if (depth, colours, interlaced) == (1 if bilevel else 8, 0, 0):
        labels = _plain_png(data, width, height, depth)
        if labels is not None:
            return labels
    return _any_png(data, bilevel)


def check_labels(labels: Pixels, classes: int, ignore_label: int | None) -> None:
    """BadSampleError when a label map holds anything but 0..classes-1 and the ignore label."""
    highest = int(labels.max(initial=0))  # a tenth of the cost of leaving pixels out, and mostly enough
    if highest >= classes and ignore_label is not None:
        highest = int(labels.max(initial=0, where=labels != ignore_label))
    if highest >= classes:
        raise BadSampleError(f"label {highest} out of range 0..{classes - 1}")


def fastest_encoding(masks: Sequence[Pixels]) -> MaskEncoding:
    """The encoding of two-class masks that decodes fastest here: ``bits`` if it saves a tenth at least, else ``png``.

    It is measured (CPU time, the best of several rounds), so another machine may answer otherwise.
    """
    encodings: tuple[MaskEncoding, ...] = ("png", "bits")
    stored = {encoding: [encode_mask(mask, encoding, 2) for mask in masks] for encoding in encodings}
    best = dict.fromkeys(encodings, float("inf"))
    for _ in range(7):
        for encoding in encodings:
            started = time.process_time()
            for data in stored[encoding]:
                decode_mask(data, encoding, 2)
            best[encoding] = min(best[encoding], time.process_time() - started)
    return "bits" if best["bits"] < _ENOUGH * best["png"] else "png"


def resize_image(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Image (H, W, 3) at ``size`` = (width, height): shrinks by area (antialiased), grows bilinearly."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinking = size[0] <= width and size[1] <= height
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR))


def resize_labels(labels: Pixels, size: tuple[int, int]) -> Pixels:
    """Label map (H, W) at ``size`` = (width, height).

    It takes the label under each new pixel's centre (INTER_NEAREST_EXACT), where an image has its averaged pixel too;
    INTER_NEAREST takes the top left corner's and shifts the mask by up to half a new pixel.
    """
    height, width = labels.shape
    if (width, height) == size:
        return labels
    return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT))


def resize_pair(image: Pixels, mask: Pixels, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Image (H, W, 3) and mask (H, W) at ``size`` = (width, height); unchanged when they have it."""
    return resize_image(image, size), resize_labels(mask, size)


def _check_declared(what: str, declared: tuple[int, int], says: str, wanted: tuple[int, int] | None) -> None:
    width, height = declared
    if width * height > MAX_PIXELS:
        raise BadSampleError(f"{what} declares {width}x{height} pixels, more than {MAX_PIXELS}")
    if wanted is not None and declared != wanted:
        raise BadSampleError(f"{what} is {width}x{height}, {says} {wanted[0]}x{wanted[1]}")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the frame header declares; None when there is none. Some 2 microseconds."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return (width, height) if width and height else None
        if marker == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return _PNG_CHUNK.pack(len(content), name) + content + struct.pack(">I", zlib.crc32(name + content))


def _plain_png(data: bytes, width: int, height: int, depth: int) -> Pixels | None:
    """A grey PNG whose pixels stand in one chunk behind the header, all rows unfiltered; None when it is another."""
    first = _PNG_HEADER.size
    length, name = _PNG_CHUNK.unpack_from(data, first) if len(data) >= first + 8 else (0, b"")
    if name != b"IDAT" or data[first + length + 16 : first + length + 20] != b"IEND":
        return None
    row_bytes = (width * depth + 7) // 8 + 1
    content = _inflate(data[first + 8 : first + 8 + length], height * row_bytes)
    rows = np.frombuffer(content, np.uint8).reshape(height, row_bytes)
    if rows[:, 0].any():
        return None
    return np.unpackbits(rows[:, 1:], axis=1, count=width) if depth == 1 else rows[:, 1:]


def _any_png(data: bytes, bilevel: bool) -> Pixels:
    try:
        labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadSampleError("mask cannot be decoded") from error
    if labels is None or labels.ndim != 2 or labels.dtype != np.uint8:
        raise BadSampleError("mask cannot be decoded as one 8-bit channel")
    if not bilevel:
        return np.asarray(labels, np.uint8)
    white = int(labels.max(initial=0))  # 1 is a label as it stands, 255 is white
    ones = labels > 0
    wrong = labels[ones & (labels != white)] if white in (1, 255) else labels[ones]
    if wrong.size:
        raise BadSampleError(f"label {wrong.max()} out of range 0..1 (or grey values 0 and 255)")
    return ones.astype(np.uint8)


def _decode_bits(data: bytes, size: tuple[int, int] | None) -> Pixels:
    if data[:4] != _BITS_MAGIC or len(data) < 12:
        raise BadSampleError("mask cannot be decoded: no packed bit mask")
    height, width = struct.unpack_from(">II", data, 4)
    _check_declared("mask", (width, height), "image is", size)
    bits = np.frombuffer(_inflate(data[12:], (height * width + 7) // 8), np.uint8)
    return np.unpackbits(bits, count=height * width).reshape(height, width)


def _inflate(data: bytes, wanted: int) -> bytes:
    """Exactly ``wanted`` bytes; a stream that holds more is not inflated beyond one byte too many."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, wanted + 1)
    except zlib.error as error:
        raise BadSampleError("mask cannot be inflated") from error
    if len(content) != wanted or not inflater.eof:
        raise BadSampleError(f"mask is cut short or too long: its pixels want {wanted} bytes")
    return content
