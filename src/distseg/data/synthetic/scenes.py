"""A COCO data set in miniature: make-believe objects that overlap on tables, as polygons and as run lengths.

Each table and each photograph has its own generator, seeded by (seed, table, view): asking for more changes none of the
others, and the same arguments give the same files to the byte (with the same versions of numpy, OpenCV and
pycocotools).
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from distseg.data import rle
from distseg.data.appearing import appearing
from distseg.data.synthetic.car import Array
from distseg.data.synthetic.folder import check
from distseg.data.synthetic.tabletop import KINDS, SUPERSAMPLING, Seen, Table

_CATEGORY_IDS = (2, 5, 7, 11)  # of KINDS: with gaps, as in COCO
_SMALLEST_PX = 12  # of an object less is seen: nobody would have labelled it
_HALVING = 2
_JPEG_QUALITY = 92
_TABLE, _PHOTOGRAPH = range(2)  # what a generator is for


def write_scenes(out: Path, *, groups: int = 12, views: int = 16, size: tuple[int, int], seed: int = 0) -> None:
    """Writes `groups` tables x `views` photographs of `size` (width, height in pixels), and `annotations.json`.

    Photographs are `images/TABLE_VIEW.jpg`: those of one table share the name before the `_`. Objects without holes are
    polygons, the others compressed run lengths; heaps are `iscrowd` with uncompressed ones. `area` and `bbox` are those
    of the mask that pycocotools makes of the segmentation. `out` appears complete or not at all; an `out` that holds
    anything is refused with InputError and left as it is.
    """
    check(out, groups=groups, views=views, size=size, seed=seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with appearing(out) as aside:
        (aside / "images").mkdir()
        for group in range(groups):
            table = Table(np.random.default_rng((seed, group, _TABLE, 0)), size)
            for view in range(views):
                picture, found = table.photograph(np.random.default_rng((seed, group, _PHOTOGRAPH, view)))
                name = f"table{group + 1:03d}_{view + 1:03d}.jpg"
                image_id = len(images) + 1
                (aside / "images" / name).write_bytes(_jpeg(picture))
                images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
                for seen in found:
                    if (entry := _annotation(seen)) is not None:
                        annotations.append({"id": len(annotations) + 1, "image_id": image_id, **entry})
        categories = [
            {"id": number, "name": name, "supercategory": "plant" if name == "leaf" else "metal"}
            for number, name in zip(_CATEGORY_IDS, KINDS, strict=True)
        ]
        document = {
            "info": {"description": f"make-believe objects on tables, seed {seed}"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        (aside / "annotations.json").write_text(json.dumps(document))


def _annotation(seen: Seen) -> dict[str, Any] | None:
    """COCO's fields of one object but the ids of the entry and the image; None when next to nothing of it is seen."""
    if np.count_nonzero(seen.mask) < _SMALLEST_PX:
        return None
    height, width = seen.mask.shape
    outlines = None if seen.crowd else _polygons(seen.fine_mask)
    segmentation: Any
    if outlines:
        segmentation = outlines
        packed = coco_mask.merge(coco_mask.frPyObjects(outlines, height, width))
    else:
        packed = coco_mask.encode(np.asfortranarray(seen.mask))
        counts = _counts(seen.mask) if seen.crowd else packed["counts"].decode()
        segmentation = {"size": [height, width], "counts": counts}
    return {
        "category_id": _CATEGORY_IDS[seen.kind],
        "segmentation": segmentation,
        "area": int(coco_mask.area(packed)),
        "bbox": coco_mask.toBbox(packed).tolist(),
        "iscrowd": int(seen.crowd),
    }


def _polygons(fine_mask: Array) -> list[list[float]] | None:
    """Outlines [x, y, x, y, ...] in pixels of the photograph, one a visible piece; None when a piece has a hole."""
    height, width = fine_mask.shape
    left, top, wide, high = cv2.boundingRect(fine_mask)
    # An outline runs through the middles of its pixels: on halved ones it lies half as far inside the true edge.
    size = (wide * _HALVING, high * _HALVING)
    piece = cv2.resize(fine_mask[top : top + high, left : left + wide], size, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(piece, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlines = []
    for contour, (_, _, _, parent) in zip(contours, tree[0].tolist(), strict=True):
        if cv2.contourArea(contour) < _SMALLEST_PX * _HALVING**2:
            continue
        if parent >= 0:
            return None
        corners = cv2.approxPolyDP(contour, 0.8, True).reshape(-1, 2)
        if len(corners) >= 3:
            fine = (left, top) + (corners + 0.5) / _HALVING - 0.5  # 0 = the middle of the canvas's first pixel
            inside = (fine / SUPERSAMPLING + 0.5).clip(0, (width / SUPERSAMPLING, height / SUPERSAMPLING))
            outlines.append(inside.round(2).ravel().tolist())
    return outlines


def _counts(mask: Array) -> list[int]:
    """COCO's uncompressed run lengths: column-major, background first."""
    edges = rle.edges(mask, order="column-major")
    counts: list[int] = np.diff(edges, prepend=0, append=mask.size).tolist()
    return counts


def _jpeg(picture: Array) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
