"""The objects of an image as they are stored: a JSON member with COCO's compressed run lengths.

Run lengths are read here: pycocotools reads beyond the end of those that are cut short.
"""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from distseg.data.codec import MAX_PIXELS, Pixels, resize_labels
from distseg.data.layouts.base import Instance
from distseg.errors import BadSampleError

_DIGITS_MAX = 6  # of 5 bits each: more than any difference of two runs below MAX_PIXELS needs


def encode_instances(instances: Sequence[Instance], size: tuple[int, int]) -> bytes:
    """Objects of an image of ``size`` = (width, height) -> bytes of a ``json`` member.

    ``{"size": [height, width], "instances": [{"label": 0, "counts": "...", "crowd": false}, ...]}``
    """
    rows = [{"label": one.label, "counts": one.counts, "crowd": one.crowd} for one in instances]
    return json.dumps({"size": [size[1], size[0]], "instances": rows}, separators=(",", ":")).encode()


def decode_instances(data: bytes, size: tuple[int, int], classes: int) -> tuple[Instance, ...]:
    """Bytes of a ``json`` member -> its objects; BadSampleError unless they are objects of an image of ``size``."""
    try:
        tree = json.loads(data)
        declared = tree["size"]
        instances = tuple(Instance(row["label"], row["counts"], row["crowd"]) for row in tree["instances"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSampleError("objects cannot be decoded: want JSON of size and instances") from error
    if declared != [size[1], size[0]]:
        raise BadSampleError(f"objects are of an image of [height, width] {declared}, image is {size[0]}x{size[1]}")
    for number, instance in enumerate(instances):
        try:
            check_instance(instance, size, classes)
        except BadSampleError as error:
            raise BadSampleError(f"object {number}: {error.reason}") from error
    return instances


def check_instance(instance: Instance, size: tuple[int, int], classes: int) -> None:
    """BadSampleError unless the label is a class and the run lengths fill an image of ``size`` = (width, height)."""
    label = instance.label
    if type(label) is not int or not 0 <= label < classes:
        raise BadSampleError(f"label {label} out of range 0..{classes - 1}")
    if type(instance.crowd) is not bool:
        raise BadSampleError(f"crowd is {instance.crowd!r}, want true or false")
    counts = _counts(instance.counts)
    pixels = size[0] * size[1]
    if pixels > MAX_PIXELS:
        raise BadSampleError(f"image of {size[0]}x{size[1]} pixels, more than {MAX_PIXELS}")
    if (counts < 0).any() or int(counts.sum()) != pixels:
        raise BadSampleError(f"run lengths do not fill the image of {size[0]}x{size[1]} pixels")


def instance_mask(instance: Instance, size: tuple[int, int]) -> Pixels:
    """Mask (H, W) uint8 of 0 and 1 of an object that `check_instance` has passed; ``size`` = (width, height)."""
    counts = _counts(instance.counts)
    by_columns = np.repeat(np.arange(counts.size, dtype=np.uint8) & 1, counts).reshape(size)
    return np.ascontiguousarray(by_columns.T)


def instance_pixels(instance: Instance) -> int:
    """Pixels of an object: the sum of every second run."""
    return int(_counts(instance.counts)[1::2].sum())


def resize_instances(
    instances: Sequence[Instance], old: tuple[int, int], new: tuple[int, int]
) -> tuple[tuple[Instance, ...], int]:
    """The objects at another size, by each new pixel's centre, and how many vanished; sizes are (width, height)."""
    if old == new:
        kept = [instance for instance in instances if instance_pixels(instance)]
        return tuple(kept), len(instances) - len(kept)
    resized = []
    for instance in instances:
        mask = resize_labels(instance_mask(instance, old), new)
        if mask.any():
            counts = coco.encode(np.asfortranarray(mask))["counts"].decode()
            resized.append(Instance(instance.label, counts, instance.crowd))
    return tuple(resized), len(instances) - len(resized)


def _counts(text: object) -> npt.NDArray[np.int64]:
    """Run lengths of a compressed string: background, object, background, ...; BadSampleError when it is none.

    Each number is written in digits of 5 bits from '0' on, the lowest first, a sixth bit saying that more follow, the
    highest digit carrying the sign. From the fourth number on they are differences to the last but one.
    """
    if not isinstance(text, str) or not text.isascii():
        raise BadSampleError("run lengths are no compressed COCO string")
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if digits.size == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise BadSampleError("run lengths are no compressed COCO string")
    ends = np.flatnonzero(~digits & 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _DIGITS_MAX:
        raise BadSampleError("run lengths hold a number larger than any image")
    places = np.arange(digits.size) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((digits & 31) << (5 * places), starts)
    negative = (digits[ends] & 16) > 0
    numbers -= negative.astype(np.int64) << (5 * (places[ends] + 1))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
