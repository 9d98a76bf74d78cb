"""Kaggle's Carvana data set in miniature: make-believe cars on a turntable, in the real set's folders and formats.

Each car and each view has its own generator, seeded by (seed, car, view): asking for more cars changes none of the
others, and the same arguments give the same files to the byte.
"""

import csv
import hashlib
import io
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from distseg.data.synthetic.car import Array, random_car
from distseg.data.synthetic.studio import photograph, random_studio
from distseg.errors import InputError

_VIEWS_IN_A_TURN = 16
_MIN_SIDE_PX = 64
_JPEG_QUALITY = 92
_MAKERS = ("Aldora", "Brisk", "Cavano", "Dunmore", "Estrel", "Fenwick")
_MODELS = ("Comet", "Heron", "Lark", "Mesa", "Otter", "Quill", "Tarn", "Vesper")
_TRIMS = ("Base", "Sport", "Touring", "Limited")


def write_carvana(out: Path, *, groups: int = 12, views: int = 16, size: tuple[int, int], seed: int = 0) -> None:
    """Writes `groups` cars x `views` photographs of `size` (width, height in pixels), with masks and run lengths.

    `out` appears complete or not at all; an `out` that holds anything is refused with InputError and left as it is.
    """
    _check(out, groups, views, size)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.parent / f".{out.name}.tmp-{os.getpid()}"
    try:
        (aside / "train").mkdir(parents=True)
        (aside / "train_masks").mkdir()
        with (
            open(aside / "train_masks.csv", "w", newline="") as rle_file,
            open(aside / "metadata.csv", "w", newline="") as metadata_file,
        ):
            runs = csv.writer(rle_file, lineterminator="\n")
            metadata = csv.writer(metadata_file, lineterminator="\n")
            runs.writerow(["img", "rle_mask"])
            metadata.writerow(["id", "year", "make", "model", "trim1", "trim2"])
            for group in range(groups):
                car_id, about, masks = _write_car(aside, group, views, size, seed)
                metadata.writerow([car_id, *about])
                runs.writerows([f"{name}.jpg", _run_lengths(mask)] for name, mask in masks)
        aside.replace(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
