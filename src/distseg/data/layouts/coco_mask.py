"""One object's outline as COCO writes it -> COCO's compressed run lengths; checked, because pycocotools does not.

Its C code takes what it is given: run lengths that overflow the image make it read foreign memory, far coordinates
make it allocate without bound, and a polygon of two points is taken for a box.
"""

import math
from typing import Any

from pycocotools import mask as coco

from distseg.data.layouts.base import Instance
from distseg.errors import BadSampleError


def compressed(segmentation: Any, height: int, width: int) -> str:
    """Compressed run lengths (column-major) of polygons, or of run lengths in either form, in an image of this size.

    BadSampleError says what is wrong with the outline.
    """
    if isinstance(segmentation, dict):
        return _of_run_lengths(segmentation, height, width)
    if segmentation is None or segmentation == []:
        raise BadSampleError("it has no outline (a box only?)")
    if not isinstance(segmentation, list):
        raise BadSampleError(f"outline is a {type(segmentation).__name__}, want polygons or run lengths")
    for polygon in segmentation:
        _check_polygon(polygon, height, width)
    return _text(coco.merge(coco.frPyObjects(segmentation, height, width)))


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise BadSampleError("polygon is no list of x and y of at least three points")
    if not all(_is_number(value) for value in polygon):
        raise BadSampleError("polygon has a coordinate that is no number")
    for value, side in ((value, (width, height)[place % 2]) for place, value in enumerate(polygon)):
        if not -side <= value <= 2 * side:
            raise BadSampleError(f"polygon has coordinate {value:g}, far outside an image of {width}x{height}")


def _of_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> str:
    from distseg.data.instances import check_instance  # not above: it imports this package to have Instance

    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise BadSampleError(f"run lengths are of size {size}, want the image's [height, width] [{height}, {width}]")
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
            raise BadSampleError(f"run lengths are no whole numbers that add up to the image's {height * width} pixels")
        return _text(coco.frPyObjects(segmentation, height, width))
    if not isinstance(counts, str):
        raise BadSampleError(f"run lengths are a {type(counts).__name__}, want a list or a text")
    check_instance(Instance(0, counts, False), (width, height), classes=1)
    return counts


def _text(encoded: dict[str, Any]) -> str:
    counts: bytes = encoded["counts"]
    return counts.decode("ascii")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
