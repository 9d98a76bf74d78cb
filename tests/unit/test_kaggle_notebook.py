"""The notebook's one file: short, without distseg, and the same bytes as ``distseg submission``."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from models import RedIsObject, exported

from distseg.predict.decode import Decoders
from distseg.predict.images import list_images
from distseg.predict.pipeline import Pipeline
from distseg.predict.row_format import RowFormat
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.predict.submission import EncodeRows, write_submission

NOTEBOOK = Path(__file__).resolve().parents[2] / "jobs/kaggle_notebook.py"
RUNS = """
import contextlib, io, json, runpy, sys
sys.modules["distseg"] = None
ends = []
for words in json.loads(sys.argv[2]):
    sys.argv = [sys.argv[1], *words]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        ends.append(None)
    except SystemExit as end:
        ends.append(end.code)
    sys.argv = [sys.argv[0], sys.argv[0]]
print(json.dumps(ends))
"""
"""Several runs of the notebook in one new process, since importing torch takes longer than all of them."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shapes in turns, more than a chunk; JPEGs, a PNG, one name with a comma."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for number in range(21):
        size = ((60, 40), (41, 67))[number % 3 == 0]
        pixels = cv2.resize(draw.integers(0, 256, (5, 6, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
        name = f"{number:02}.jpg" if number % 4 else f"{number:02}, x.png"
        cv2.imwrite(str(folder / name), pixels)
    return folder


def test_it_fits_a_cell() -> None:
    assert len(NOTEBOOK.read_text().splitlines()) <= 150


def test_the_same_bytes_and_what_it_refuses(images: Path, tmp_path: Path) -> None:
    names = [path.name for path in list_images(images)]
    sample = tmp_path / "sample.csv"
    sample.write_text("id,mask\n" + "".join(f'"{name}",1 1\n' for name in reversed(names)))
    (tmp_path / "absent.csv").write_text("img,rle_mask\nabsent.jpg,\n")
    one, two = (exported(RedIsObject(100 + 40 * number), tmp_path / f"{number}.ts") for number in range(2))
    three = exported(RedIsObject(), tmp_path / "three.ts", ("sky", "road", "car"))
    broken = shutil.copytree(images, tmp_path / "broken") / "zz.jpg"  # in the second chunk
    broken.write_bytes(b"no picture")
    (tmp_path / "older.csv").write_text("older")
    column_major = RowFormat(columns=("id", "mask"), order="column-major", first=0)
    of_ours = [
        (Recipe(models=(one,)), RowFormat(), None),
        (Recipe(models=(one, two), tta=True), column_major, sample),
    ]
    for number, (recipe, rows, given) in enumerate(of_ours):
        encode = Pipeline(Segmenter.open(recipe), EncodeRows(rows), Decoders(0))
        write_submission(encode, list_images(images), tmp_path / f"ours{number}.csv", format=rows, sample=given)
    runs = [
        [one, "--out", tmp_path / "theirs0.csv"],
        [
            one,
            two,
            "--tta",
            "--order",
            "column-major",
            "--first",
            0,
            "--sample",
            sample,
            "--out",
            tmp_path / "theirs1.csv",
        ],
        [three, "--out", tmp_path / "refused.csv"],
        [one, "--sample", tmp_path / "absent.csv", "--out", tmp_path / "refused.csv"],
        [one, "--out", tmp_path],
        [one, "--out", tmp_path / "older.csv", "--images", broken.parent],
    ]
    words = json.dumps([[str(word) for word in ("--images", images, *run)] for run in runs])
    done = subprocess.run([sys.executable, "-c", RUNS, NOTEBOOK, words], check=True, capture_output=True, text=True)
    ends = json.loads(done.stdout)
    assert ends[:2] == [None, None]
    assert ends[2] == f"{three}: a model of task multiclass, want binary"
    assert ends[3].startswith(f"{tmp_path / 'absent.csv'}: not the images of {images}: 00, x.png, 01.jpg")
    assert not (tmp_path / "refused.csv").exists()
    assert ends[4] == 2
    assert f"--out {tmp_path}: is a folder" in done.stderr
    assert ends[5] == f"{broken}: cannot be decoded"
    assert (tmp_path / "older.csv").read_text() == "older"  # never a part of the rows under the final name
    for number in range(2):
        ours, theirs = ((tmp_path / f"{whose}{number}.csv").read_bytes() for whose in ("ours", "theirs"))
        assert theirs == ours
        assert ours.count(b"\n") == 22
