"""Image files as users keep them, read for inference."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from distseg.data.codec import Pixels
from distseg.errors import DataError

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as an image in a folder, in any case; no ``.gif``, which is what Carvana's masks are."""


def list_images(folder: Path) -> list[Path]:
    """The images directly inside a folder, sorted by name; DataError when there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder that holds the images")
    found = visible_files(folder, IMAGE_ENDINGS)
    if not found:
        raise DataError(f"{folder}: no images; want files that end in {', '.join(IMAGE_ENDINGS)}")
    return found


def visible_files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Files directly inside a folder with one of these endings (in any case), sorted, without hidden ones.

    Archives made on a Mac hold a ``._name.jpg`` beside every ``name.jpg``.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".") and path.is_file()
    )


def read_image(path: Path) -> Pixels:
    """Image file -> (H, W, 3) uint8 RGB, upright (EXIF rotation applied), transparency dropped; DataError on damage.

    Grey becomes three equal channels; of 16 bits the upper eight count; CMYK is converted.
    """
    return decode_image(read_bytes(path), path)


def decode_image(data: bytes, path: Path) -> Pixels:
    """The bytes of the file ``path`` -> as ``read_image``."""
    damaged = f"{path}: cannot be decoded as an image ({len(data)} bytes); replace or remove the file"
    if not data:
        raise DataError(damaged)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # it returns None on damage, and raises on what it will not read
        raise DataError(
            f"{path}: OpenCV refuses it ({error.err}), want at most 2^30 pixels and 2^20 a side; cut it into parts"
        ) from error
    if image is None:
        raise DataError(damaged)
    return np.asarray(image, np.uint8)


def read_bytes(path: Path) -> bytes:
    """DataError when the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
