"""CamVid in miniature: make-believe street scenes, in SegNet's folders or with CamVid's own colour maps.

Each sequence has its own palette, plan and light, and each frame is drawn from (seed, sequence, frame) alone: asking
for more changes none of the others, and the same arguments give the same files to the byte (with the same versions of
numpy and OpenCV).
"""

import csv
import hashlib
from pathlib import Path

import cv2

from distseg.data.appearing import appearing
from distseg.data.synthetic.camvid import RGB, SEGNET, Label, to_segnet
from distseg.data.synthetic.car import Array
from distseg.data.synthetic.folder import check
from distseg.data.synthetic.street import Street
from distseg.errors import InputError

_SPLITS = ("train", "val", "test", "train")  # of the sequences in turn: never one sequence on two sides
_FRAME_STEP = 30  # CamVid labels every 30th frame of its films


def write_streets(
    out: Path, *, groups: int = 4, views: int = 16, size: tuple[int, int], classes: int = 11, seed: int = 0
) -> None:
    """Writes `groups` sequences x `views` frames of `size` (width, height in pixels) as PNG images with label maps.

    `classes` = 11: SegNet's folders (`train`, `trainannot`, ...), whole sequences a split, label maps of indices 0 to
    10 in SegNet's order, 11 = void. `classes` = 32: `images` and `masks` (`NAME_L.png` in CamVid's colours) with
    `class_dict.csv`. The pictures are the same. `out` appears complete or not at all; InputError when it holds
    anything, for fewer than 3 sequences (one a split), and for any other number of classes.
    """
    check(out, groups=groups, views=views, size=size, seed=seed, fewest_groups=3)
    if classes not in (len(SEGNET), len(Label)):
        raise InputError(f"classes: got {classes}, wanted {len(SEGNET)} or {len(Label)}; CamVid has no other sets")
    with appearing(out) as aside:
        for sequence in range(groups):
            if classes == len(SEGNET):
                split = _SPLITS[sequence % len(_SPLITS)]
                images, masks = aside / split, aside / f"{split}annot"
            else:
                images, masks = aside / "images", aside / "masks"
            images.mkdir(exist_ok=True)
            masks.mkdir(exist_ok=True)
            street = Street(seed, sequence, size)
            name = _sequence_name(seed, sequence)
            for view in range(views):
                picture, label = street.frame(view)
                stem = f"{name}_{_FRAME_STEP * (view + 1):06d}"
                (images / f"{stem}.png").write_bytes(_png(picture))
                if classes == len(SEGNET):
                    (masks / f"{stem}.png").write_bytes(_png(to_segnet()[label]))
                else:
                    (masks / f"{stem}_L.png").write_bytes(_png(RGB[label][..., ::-1]))
        if classes == len(Label):
            _write_class_dict(aside / "class_dict.csv")


def _sequence_name(seed: int, sequence: int) -> str:
    """Four digits and two letters, like CamVid's 0001TP."""
    first, second = hashlib.sha256(f"sequence {sequence} of seed {seed}".encode()).digest()[:2]
    return f"{sequence + 1:04d}{chr(ord('A') + first % 26)}{chr(ord('A') + second % 26)}"


def _write_class_dict(path: Path) -> None:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["name", "r", "g", "b"])
        rows.writerows([label.name, *RGB[label].tolist()] for label in Label)


def _png(picture: Array) -> bytes:
    return cv2.imencode(".png", picture)[1].tobytes()
