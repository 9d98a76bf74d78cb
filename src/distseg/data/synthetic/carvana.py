"""Kaggle's Carvana data set in miniature: make-believe cars on a turntable, in the real set's folders and formats.

Each car and each view has its own generator, seeded by (seed, car, view): asking for more cars changes none of the
others, and the same arguments give the same files to the byte (with the same versions of numpy, OpenCV and Pillow).
"""

import csv
import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from distseg.data.appearing import appearing
from distseg.data.synthetic.car import BODIES, Array, random_car
from distseg.data.synthetic.folder import check
from distseg.data.synthetic.studio import photograph, random_studio
from distseg.errors import InputError

_VIEWS_IN_A_TURN = 16
_JPEG_QUALITY = 92
_MAKERS = ("Aldora", "Brisk", "Cavano", "Dunmore", "Estrel", "Fenwick")
_MODELS = ("Comet", "Heron", "Lark", "Mesa", "Otter", "Quill", "Tarn", "Vesper")
_TRIMS = ("Base", "Sport", "Touring", "Limited")


def write_carvana(out: Path, *, groups: int = 12, views: int = 16, size: tuple[int, int], seed: int = 0) -> None:
    """Writes `groups` cars x `views` photographs of `size` (width, height in pixels), with masks and run lengths.

    `out` appears complete or not at all; an `out` that holds anything is refused with InputError and left as it is.
    """
    check(out, groups=groups, views=views, size=size, seed=seed)
    if views > _VIEWS_IN_A_TURN:
        raise InputError(f"views: got {views}, wanted 1 to {_VIEWS_IN_A_TURN}; those make a full turn")
    with appearing(out) as aside:
        (aside / "train").mkdir()
        (aside / "train_masks").mkdir()
        with (
            open(aside / "train_masks.csv", "w", newline="") as runs_file,
            open(aside / "metadata.csv", "w", newline="") as metadata_file,
        ):
            runs = csv.writer(runs_file, lineterminator="\n")
            metadata = csv.writer(metadata_file, lineterminator="\n")
            runs.writerow(["img", "rle_mask"])
            metadata.writerow(["id", "year", "make", "model", "trim1", "trim2"])
            for group in range(groups):
                rng = np.random.default_rng((seed, group))
                car = random_car(rng, BODIES[(group + seed) % len(BODIES)])  # each body type comes up in turn
                studio = random_studio(rng, car)
                car_id = hashlib.sha256(f"car {group} of seed {seed}".encode()).hexdigest()[:12]
                metadata.writerow([car_id, *_description(rng)])
                for view in range(1, views + 1):
                    turn = -np.pi / 2 - 2 * np.pi * (view - 1) / _VIEWS_IN_A_TURN  # view 1 looks into the camera
                    picture, mask = photograph(car, studio, turn, size, np.random.default_rng((seed, group, view)))
                    name = f"{car_id}_{view:02d}"
                    (aside / "train" / f"{name}.jpg").write_bytes(_jpeg(picture))
                    (aside / "train_masks" / f"{name}_mask.gif").write_bytes(_gif(mask))
                    runs.writerow([f"{name}.jpg", _run_lengths(mask)])


def _description(rng: np.random.Generator) -> list[str]:
    """Year, make, model and two trims, all make-believe, in the order of metadata.csv."""
    trims = rng.choice(_TRIMS, 2, replace=False).tolist()
    return [str(rng.integers(2005, 2018)), str(rng.choice(_MAKERS)), str(rng.choice(_MODELS)), *trims]


def _jpeg(picture: Array) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _gif(mask: Array) -> bytes:
    """A palette GIF like Kaggle's: index 0 black, index 1 white."""
    image = Image.fromarray(mask)
    image.putpalette([0, 0, 0, 255, 255, 255])  # turns mode L into P
    file = io.BytesIO()
    image.save(file, "GIF")
    return file.getvalue()


def _run_lengths(mask: Array) -> str:
    """Row-major runs of ones in a (H, W) mask as "start length ...", counted from 1; "" when there are none."""
    edges = np.flatnonzero(np.diff(mask.ravel(), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(map(str, np.stack([starts + 1, ends - starts], axis=1).ravel().tolist()))
