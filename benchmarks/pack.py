"""Packing: how its rate compares with bare decoding, and that memory does not grow with the data set.

    DISTSEG_REAL_DATA=/path/to/data python benchmarks/pack.py [--rounds 5]

``pack_*``: images a second of one core (CPU time) from raw files to finished shards, over decoding the same images and
masks alone. ``memory``: the peak resident memory of a process that lists and packs 2,000 and 20,000 little images, and
what it was before (the interpreter and its imports).

Prints one JSON line a figure.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from distseg.data.layouts import carvana
from distseg.data.layouts.base import Corpus
from distseg.data.pack import pack
from distseg.data.raw_image import read_image
from distseg.data.synthetic.carvana import write_carvana


def show(figure: str, **values: float) -> None:
    print(json.dumps({"figure": figure, **{k: round(v, 3) for k, v in values.items()}, "load": os.getloadavg()[0]}))


def decode(corpus: Corpus) -> None:
    for sample in corpus.samples:
        assert sample.mask is not None
        read_image(sample.image)
        sample.mask.read()


def rates(name: str, raw: Path, work: Path, images: int, size: tuple[int, int] | None, rounds: int) -> None:
    whole = carvana.read(raw)
    samples = sorted(whole.samples, key=lambda sample: sample.key)[:images]
    corpus = Corpus("carvana", "binary", whole.classes, None, samples)
    ours, bare = [], []
    decode(corpus)
    for _ in range(rounds):
        started = time.process_time()
        pack(corpus, work / "out", size=size)
        packed = time.process_time()
        shutil.rmtree(work / "out")
        removed = time.process_time()
        decode(corpus)
        ours.append(images / (packed - started))
        bare.append(images / (time.process_time() - removed))
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    show(
        f"pack_{name}",
        images_per_s_core=statistics.median(ours),
        decoding_images_per_s_core=statistics.median(bare),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        rounds=rounds,
    )


def little_images(raw: Path, images: int) -> None:
    """Kaggle's folders with images of 32x32 pixels, ten views a car."""
    (raw / "train").mkdir(parents=True)
    (raw / "train_masks").mkdir()
    jpg = cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()
    png = cv2.imencode(".png", np.eye(32, dtype=np.uint8) * 255)[1].tobytes()
    for number in range(images):
        key = f"car{number // 10:05d}_{number % 10:02d}"
        (raw / "train" / f"{key}.jpg").write_bytes(jpg)
        (raw / "train_masks" / f"{key}_mask.png").write_bytes(png)


def peaks(raw: Path, out: Path, size: tuple[int, int]) -> tuple[float, float]:
    """MB of this process before packing, and at most from there on; to be run in a process of its own."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = resident_mb("VmRSS")
    pack(carvana.read(raw), out, size=size)
    return before, resident_mb("VmHWM")


def resident_mb(field: str) -> float:
    """``VmRSS``: now; ``VmHWM``: at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def memory(work: Path, counts: tuple[int, ...]) -> None:
    for images in counts:
        raw = work / f"raw{images}"
        little_images(raw, images)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, after = pool.apply(peaks, (raw, work / f"out{images}", (16, 16)))
        show("pack_memory", images=images, peak_mb=after, before_packing_mb=before, packing_mb=after - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=64, help="photographs a round")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        real = os.environ.get("DISTSEG_REAL_DATA")
        if real:
            raw = Path(real) / "carvana512"
            rates("carvana512_as_it_is", raw, work, options.images, None, options.rounds)
            rates("carvana512_to_256", raw, work, options.images, (256, 256), options.rounds)
        write_carvana(work / "raw", groups=4, views=4, size=(1918, 1280))
        rates("1918x1280_as_it_is", work / "raw", work, 16, None, options.rounds)
        rates("1918x1280_to_512", work / "raw", work, 16, (512, 512), options.rounds)
        memory(work, (2_000, 20_000))


if __name__ == "__main__":
    main()
