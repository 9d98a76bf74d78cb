"""Images a second of one core, shards to uint8 batches, against what it could be and what people use.

    DISTSEG_REAL_DATA=/path/to/data python benchmarks/loader.py [--rounds 7]

Each contender turns the same images and masks into batches, one process, no augmentation, in turns; the figure is CPU
time (so other work on the machine disturbs it little). ``bare``: only decoding the very bytes of our shards, from
memory. ``webdataset``: the library's pipeline on shards with 8-bit PNG masks, as one writes them first. ``folder``: a
map-style dataset over the raw files with PIL, in the manner of plain U-Net repositories. ``in_a_loader_process``: the
same work in a process of torch's DataLoader, batches handed over included. ``resume``: seconds from nothing to a batch
of an epoch of a million samples, the manifest read included. ``header``: what it costs to look at a JPEG's declared
size before it is decoded.

Prints one JSON line a figure, with the median of the rounds' ratios and its 95 % interval by the order statistics of
the median; ``held``: the whole interval is at the target or above.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from webdataset.autodecode import imagehandler

from distseg.data.codec import _jpeg_size, decode_image, decode_mask
from distseg.data.layouts import carvana
from distseg.data.layouts.base import Corpus
from distseg.data.manifest import MANIFEST_FILE, ShardFolder, index_path
from distseg.data.order import EpochPlan
from distseg.data.pack import pack
from distseg.data.processes import start_helper
from distseg.data.stream import Batch, PlannedBatches, ShardReader, TrainBatches, batch_loader, open_named_split
from distseg.data.synthetic.carvana import write_carvana

Pixels = npt.NDArray[np.uint8]
TARGETS = {"bare": 0.8, "webdataset": 1.8, "folder": 5.0}


def no_augmentation(
    image: Pixels, masks: tuple[Pixels, ...], epoch: int, key: str, level: float
) -> tuple[Pixels, tuple[Pixels, ...]]:
    return image, masks


class Ours:
    """Batches of one epoch, as training reads them."""

    def __init__(self, shards: Path, batch: int) -> None:
        reader = open_named_split(ShardFolder.open(shards), "train", window=8)
        self.plan = EpochPlan(reader.shard_sizes, batch, seed=0, window=8, tail="drop")
        size = reader.place(0)[1].size
        self.batches = TrainBatches(reader, self.plan, size=size, augment=no_augmentation, rank=0, world_size=1)

    def __call__(self) -> int:
        images = 0
        for step in range(self.plan.steps):
            images += len(self.batches[step].keys)
        return images


class Timed(PlannedBatches):
    """Batches that tell, in the place of their groups, the CPU seconds of the process that made them."""

    def __init__(self, batches: TrainBatches) -> None:
        self.batches = batches
        self.batch_bytes = batches.batch_bytes

    def into(self, memory: torch.Tensor, item: int) -> Batch:
        return replace(self.batches.into(memory, item), groups=(str(time.process_time()),))


def loader_process(ours: Ours, images: int) -> float:
    """Images per second of CPU time of a loader process, the handing over included, start-up not."""
    batch = len(ours.batches[0].keys)
    steps = range(images // batch)
    loader = batch_loader(Timed(ours.batches), steps, workers=1, prefetch=2, pin=False)
    clock = [float(arrived.groups[0]) for arrived in loader]
    warm = len(clock) // 4
    return batch * (len(clock) - 1 - warm) / (clock[-1] - clock[warm])


class Bare:
    """The bytes of our shards, decoded and thrown away."""

    def __init__(self, shards: Path) -> None:
        folder = ShardFolder.open(shards)
        self.pairs = []
        for shard in folder.manifest.shards:
            tar = folder.shard_path(shard).read_bytes()
            for entry in folder.entries(shard):
                places = (entry.members[ending] for ending in ("jpg", "png"))
                self.pairs.append(tuple(tar[place.offset :][: place.length] for place in places))

    def __call__(self) -> int:
        for jpg, png in self.pairs:
            decode_image(jpg)
            decode_mask(png, "png", 2)
        return len(self.pairs)


class UsualWebDataset:
    """Shards with 8-bit PNG masks of 0 and 255 through the library: tar reader, decoders, tuples, batches."""

    def __init__(self, corpus: Corpus, folder: Path, batch: int) -> None:
        folder.mkdir()
        self.samples, self.batch = len(corpus.samples), batch
        self.url = str(folder / "train-000000.tar")
        with webdataset.TarWriter(self.url) as writer:
            for sample in corpus.samples:
                assert sample.mask is not None
                mask = cv2.imencode(".png", sample.mask.read() * 255)[1].tobytes()
                writer.write({"__key__": sample.key, "jpg": sample.image.read_bytes(), "png": mask})

    def __call__(self) -> int:
        image, mask = imagehandler("rgb8"), imagehandler("l8")  # not .decode(): that would unpickle what it finds
        pipeline = (
            webdataset.WebDataset(self.url, shardshuffle=False)
            .to_tuple("jpg", "png")
            .map_tuple(lambda data: image("x.jpg", data), lambda data: mask("x.png", data) > 0)
            .batched(self.batch)
        )
        return sum(len(torch.from_numpy(images)) for images, _ in pipeline)


class PilFolder(Dataset[dict[str, torch.Tensor]]):
    """One image and its mask from their files: PIL, float32 in 0..1, class indices by comparing with each value."""

    def __init__(self, corpus: Corpus, masks: Path) -> None:
        self.pairs = [(sample.image, next(masks.glob(f"{sample.key}_mask.*"))) for sample in corpus.samples]
        self.values = [0, 255]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        image_path, mask_path = self.pairs[number]
        image, mask = Image.open(image_path), Image.open(mask_path).convert("L")
        assert image.size == mask.size
        pixels = np.asarray(image.resize(image.size, resample=Image.Resampling.BICUBIC)).transpose((2, 0, 1))
        grey = np.asarray(mask.resize(image.size, resample=Image.Resampling.NEAREST))
        labels = np.zeros(grey.shape, dtype=np.int64)
        for label, value in enumerate(self.values):
            labels[grey == value] = label
        return {
            "image": torch.as_tensor((pixels / 255.0).copy()).float().contiguous(),
            "mask": torch.as_tensor(labels.copy()).long().contiguous(),
        }


class Folder:
    """The folder dataset in torch's own loader, in this process."""

    def __init__(self, corpus: Corpus, masks: Path, batch: int, images: int) -> None:
        subset = Corpus(corpus.layout, corpus.task, corpus.classes, None, corpus.samples[:images])
        self.loader = DataLoader(PilFolder(subset, masks), batch_size=batch, shuffle=True, num_workers=0)

    def __call__(self) -> int:
        return sum(len(batch["image"]) for batch in self.loader)


def rate(contender: Callable[[], int]) -> float:
    """Images per second of CPU time."""
    started = time.process_time()
    images = contender()
    return images / (time.process_time() - started)


def compare(name: str, contenders: dict[str, Callable[[], int]], rounds: int) -> None:
    for contender in contenders.values():
        contender()
    rates: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, run in contenders.items():
            rates[contender].append(rate(run))
    for baseline, target in TARGETS.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[baseline], strict=True)]
        low, high = interval95(ratios)
        show(
            f"loader_{name}_over_{baseline}",
            images_per_s_core=statistics.median(rates["ours"]),
            baseline_images_per_s_core=statistics.median(rates[baseline]),
            ratio=statistics.median(ratios),
            low95=low,
            high95=high,
            target=target,
            held=low >= target,
            rounds=rounds,
        )


def interval95(values: list[float]) -> tuple[float, float]:
    """Of the median; of fewer than eight values, the least and the greatest."""
    ordered, middle = sorted(values), len(values) // 2
    reach = math.ceil(0.98 * math.sqrt(len(values)))  # 1.96 * sqrt(n) / 2 places on either side of the median
    return ordered[max(0, middle - reach)], ordered[min(len(values) - 1, middle + reach)]


def show(figure: str, **values: float) -> None:
    rounded = {name: value if isinstance(value, bool) else round(value, 4) for name, value in values.items()}
    print(json.dumps({"figure": figure, **rounded, "load": os.getloadavg()[0]}))


def carvana_case(raw: Path, name: str, work: Path, images: int, batch: int, rounds: int) -> None:
    whole = carvana.read(raw)
    samples = sorted(whole.samples, key=lambda sample: sample.key)[:images]
    corpus = Corpus("carvana", "binary", whole.classes, None, samples)
    shards = work / f"{name}-shards"
    pack(corpus, shards, size=None, val_fraction=0)
    contenders = {
        "ours": Ours(shards, batch),
        "bare": Bare(shards),
        "webdataset": UsualWebDataset(corpus, work / f"{name}-usual", batch),
        "folder": Folder(corpus, raw / "train_masks", batch, images // 2),
    }
    compare(name, contenders, rounds)
    ours = contenders["ours"]
    assert isinstance(ours, Ours)
    pairs = [(loader_process(ours, 12 * images), rate(ours)) for _ in range(min(rounds, 3))]
    ratios = [one / other for one, other in pairs]
    show(
        f"loader_{name}_in_a_loader_process",
        images_per_s_core=statistics.median(one for one, _ in pairs),
        over_in_this_process=statistics.median(ratios),
        least=min(ratios),
        greatest=max(ratios),
    )
    jpegs = [jpg for jpg, _ in contenders["bare"].pairs]  # type: ignore[attr-defined]
    shares = []
    for _ in range(rounds):
        looked = 1 / rate(lambda: [_jpeg_size(jpg) for jpg in jpegs for _ in range(10)].__len__())
        shares.append(looked * rate(lambda: [decode_image(jpg) for jpg in jpegs].__len__()))
    show(f"header_{name}", share_of_decoding=statistics.median(shares), target=0.02, rounds=rounds)


def resume_case(work: Path, samples: int, batch: int) -> None:
    """An epoch of so many samples, made of one shard under many names."""
    per_shard = 256
    write_carvana(work / "few", groups=16, views=per_shard // 16, size=(64, 64))
    pack(carvana.read(work / "few"), work / "one", size=None, val_fraction=0)
    root = work / "million"
    root.mkdir()
    tree = json.loads((work / "one" / MANIFEST_FILE).read_text())
    [shard] = tree["shards"]
    names = [f"train-{number:06d}.tar" for number in range(-(-samples // per_shard))]
    for name in names:
        os.link(work / "one" / shard["name"], root / name)
        os.link(index_path(work / "one" / shard["name"]), index_path(root / name))
    tree["shards"] = [{**shard, "name": name} for name in names]
    tree["groups"] = {f"car{number}": {"samples": {"train": 16}, "fold": None} for number in range(samples // 16)}
    (root / MANIFEST_FILE).write_text(json.dumps(tree))
    steps = per_shard * len(names) // batch
    for place, step in (("start", 0), ("middle", steps // 2), ("end", steps - 1)):
        started, cpu = time.perf_counter(), time.process_time()
        folder = ShardFolder.open(root)
        reader = ShardReader(folder, folder.manifest.shards, window=8)
        plan = EpochPlan(reader.shard_sizes, batch, seed=hash_seed(place), window=8, tail="drop")
        batches = TrainBatches(reader, plan, size=(64, 64), augment=no_augmentation, rank=0, world_size=1)
        assert len(batches[step].keys) == batch
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        show(f"resume_{place}", step=step, seconds=seconds, cpu_seconds=cpu_seconds, target=1.0)


def hash_seed(text: str) -> int:
    """Another seed for each measurement, so that none finds the order of the last one."""
    return hashlib.sha256(text.encode()).digest()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=128, help="real photographs a round")
    parser.add_argument("--samples", type=int, default=1_000_000, help="of the epoch to resume in")
    options = parser.parse_args()
    start_helper()  # as in a loader process
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        real = os.environ.get("DISTSEG_REAL_DATA")
        if real:
            carvana_case(Path(real) / "carvana512", "carvana512", work, options.images, 16, options.rounds)
        write_carvana(work / "raw", groups=6, views=4, size=(1918, 1280))
        carvana_case(work / "raw", "1918x1280", work, 24, 8, options.rounds)
        resume_case(work, options.samples, 16)


if __name__ == "__main__":
    main()
