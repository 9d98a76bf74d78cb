"""Submissions: how near to the model's own rate, how far from the usual script, and whether memory stays flat.

    python benchmarks/inference.py [--images 24] [--rounds 3] [--memory-images 1000,20000] [--threads 2]

All figures are of the same run, in turns, at 1918x1280, with random weights, whose masks are busier than trained ones:

``model_alone``: the exported file on batches of decoded images that lie in memory, as ``submission`` makes them.
``submission``: files to a finished csv, by ``write_submission`` and its decoders (started before).
``plain_script``: what people write: for each image PIL, a bicubic resize to the network's size, the same eager network
on it, the logits resized back, a threshold, run lengths by the usual concatenate form.

Two networks: ``small`` (mobilenetv3-small-0.75, narrow decoder, 128x128), where the work around the network decides,
and ``resnet34`` (U-Net, 512x512), where the network does. On a CPU that cannot meet both targets at once: decoding one
JPEG takes as long as the small network, and the large one is most of the plain script, too. A GPU takes either away.

``runtimes``: milliseconds of one full-size image, resizes included, eager, TorchScript and ONNX Runtime (where
installed), and on a GPU, where there is one, in float32 and bfloat16. ``memory``: peak of one process after 20,000
small images against that after 1,000. ``estimate``: 100,064 images from the rates measured here.

Prints one JSON line a figure. ``cpu_ratio`` is what a machine whose cores are all busy would show: images a second of
CPU time, decoders included; other work on the machine disturbs it little.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from distseg.config import ModelConfig
from distseg.data.processes import keep_memory
from distseg.data.synthetic.carvana import write_carvana
from distseg.export.torchscript import load, save, to_torchscript
from distseg.models.build import build_model
from distseg.predict.decode import Decoders
from distseg.predict.images import list_images, read_image
from distseg.predict.pipeline import Pipeline
from distseg.predict.row_format import RowFormat
from distseg.predict.segmenter import Recipe, Segmenter, batch_size
from distseg.predict.submission import EncodeRows, write_submission
from distseg.records import ExportManifest
from distseg.tasks.predictor import Predictor

Pixels = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 1918, 1280
KAGGLE_IMAGES = 100_064
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "small": (
        {"architecture": "unet", "encoder": "tu-mobilenetv3_small_075", "decoder_channels": (64, 48, 32, 24, 16)},
        128,
    ),
    "resnet34": ({"architecture": "unet", "encoder": "resnet34"}, 512),
}


def build(name: str) -> Predictor:
    torch.manual_seed(0)
    changes, size = NETWORKS[name]
    built = build_model(ModelConfig.model_validate(changes), 1)
    return Predictor(
        built.network, input_size=(size, size), divisor=built.divisor, mean=built.mean, std=built.std
    ).eval()


def photographs(work: Path, count: int) -> list[Path]:
    """Files of full size; a few photographs under many names, for painting one takes longer than predicting it."""
    write_carvana(work / "raw", groups=1, views=4, size=(WIDTH, HEIGHT))
    few, folder = list_images(work / "raw/train"), work / "images"
    folder.mkdir()
    for number in range(count):
        os.link(few[number % len(few)], folder / f"{number:04}.jpg")
    return list_images(folder)


class PlainScript:
    """One image after the other, as in the predict.py of many U-Net repositories."""

    def __init__(self, predictor: Predictor, images: Sequence[Path], out: Path) -> None:
        self.predictor, self.images, self.out = predictor, images, out

    def __call__(self) -> int:
        network, size = self.predictor.network, (self.predictor.width, self.predictor.height)
        mean = (self.predictor.mean / 255).view(3, 1, 1)
        std = (self.predictor.std / 255).view(3, 1, 1)
        with open(self.out, "w") as file:
            file.write("img,rle_mask\n")
            for path in self.images:
                image = Image.open(path).convert("RGB")
                small = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
                tensor = torch.from_numpy(small.transpose(2, 0, 1) / 255.0).float()
                with torch.no_grad():
                    logits = network(((tensor - mean) / std).unsqueeze(0))
                    full = F.interpolate(logits, size=(image.height, image.width), mode="bilinear")
                    mask = (torch.sigmoid(full)[0, 0] > 0.5).numpy()
                file.write(f"{path.name},{usual_encode(mask)}\n")
        return len(self.images)


def usual_encode(mask: npt.NDArray[np.bool_]) -> str:
    pixels = np.concatenate([[0], mask.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


class ModelAlone:
    """Batches in memory, laid out and composed as a submission's."""

    def __init__(self, segmenter: Segmenter, images: Sequence[Path]) -> None:
        pixels = [read_image(path) for path in images]
        each = batch_size(HEIGHT, WIDTH, 1)
        stacks = [np.stack(pixels[first : first + each]) for first in range(0, len(pixels), each)]
        self.segmenter = segmenter
        self.batches = [torch.from_numpy(stack).permute(0, 3, 1, 2) for stack in stacks]

    def __call__(self) -> int:
        for batch in self.batches:
            self.segmenter.labels(batch.to(self.segmenter.device)).cpu()
        return sum(len(batch) for batch in self.batches)


class Submission:
    """The whole way, without the start of the decoders and the loading of the file."""

    def __init__(self, segmenter: Segmenter, decoders: Decoders, images: Sequence[Path], out: Path) -> None:
        self.pipeline = Pipeline(segmenter, EncodeRows(RowFormat()), decoders)
        self.images, self.out = images, out

    def __call__(self) -> int:
        return write_submission(self.pipeline, self.images, self.out)


def rate(run: Callable[[], int]) -> tuple[float, float]:
    """Images a second of wall time, and a second of CPU time, decoders included."""
    started, cpu = time.perf_counter(), cpu_seconds()
    images = run()
    return images / (time.perf_counter() - started), images / (cpu_seconds() - cpu)


def cpu_seconds() -> float:
    """Used so far by this process and its living children."""
    total, ticks = time.process_time(), os.sysconf("SC_CLK_TCK")
    for child in multiprocessing.active_children():
        used = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        total += sum(map(int, used)) / ticks
    return total


def compare(name: str, images: Sequence[Path], work: Path, rounds: int, decoders: Decoders) -> float:
    """Prints a network's rates and ratios; the submission's images a second."""
    predictor = build(name)
    path = work / f"{name}.ts"
    save(to_torchscript(predictor), ExportManifest.bare(("background", "car")), path)
    segmenter = Segmenter.open(Recipe(models=(path,)))
    contenders = {
        "model_alone": ModelAlone(segmenter, images),
        "submission": Submission(segmenter, decoders, images, work / "ours.csv"),
        "plain_script": PlainScript(predictor, images, work / "plain.csv"),
    }
    for run in contenders.values():
        run()  # the first calls of TorchScript compile
    rates: dict[str, list[tuple[float, float]]] = {key: [] for key in contenders}
    for _ in range(rounds):
        for key, run in contenders.items():
            rates[key].append(rate(run))
    for key, values in rates.items():
        wall, cpu = (statistics.median(each) for each in zip(*values, strict=True))
        show(f"{name}_{key}", images_per_s=wall, images_per_cpu_s=cpu)
    for baseline, target in (("model_alone", 0.9), ("plain_script", 5.0)):
        pairs = list(zip(rates["submission"], rates[baseline], strict=True))
        ratios = sorted(ours[0] / theirs[0] for ours, theirs in pairs)
        show(
            f"{name}_submission_over_{baseline}",
            ratio=statistics.median(ratios),
            least=ratios[0],
            greatest=ratios[-1],
            cpu_ratio=statistics.median(ours[1] / theirs[1] for ours, theirs in pairs),
            target=target,
            held=ratios[0] >= target,
        )
    return statistics.median(wall for wall, _ in rates["submission"])


def runtimes(name: str, images: Sequence[Path], work: Path, rounds: int) -> None:
    """Milliseconds of one full-size image in each runtime that is there."""
    predictor = build(name)
    pixels = torch.from_numpy(read_image(images[0]))[None].permute(0, 3, 1, 2)
    script = load(work / f"{name}.ts").module
    runs: dict[str, Callable[[], Any]] = {"eager": lambda: predictor(pixels), "torchscript": lambda: script(pixels)}
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        runs["onnxruntime"] = onnx_run(predictor, pixels)
    if torch.cuda.is_available():
        on_gpu, gpu_pixels = load(work / f"{name}.ts", "cuda").module, pixels.cuda()

        def bf16() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                on_gpu(gpu_pixels).cpu()

        runs |= {"gpu_fp32": lambda: on_gpu(gpu_pixels).cpu(), "gpu_bf16": bf16}
    with torch.inference_mode():
        for run in runs.values():
            run(), run()
        taken: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(max(3, rounds)):
            for key, run in runs.items():
                started = time.perf_counter()
                run()
                taken[key].append(1e3 * (time.perf_counter() - started))
    for key, values in taken.items():
        times_eager = statistics.median(taken["eager"]) / statistics.median(values)
        show(f"{name}_runtime_{key}", ms_per_image=statistics.median(values), speed_over_eager=times_eager)


def onnx_run(predictor: Predictor, pixels: torch.Tensor) -> Callable[[], Any]:
    import onnxruntime

    from distseg.export.portable import onnx_file, to_program

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        onnx_file(to_program(predictor), predictor).content(ExportManifest.bare(("background", "car"))),
        options,
        providers=["CPUExecutionProvider"],
    )
    given = {session.get_inputs()[0].name: np.ascontiguousarray(pixels.numpy())}
    return lambda: session.run(None, given)


def memory(counts: Sequence[int], work: Path) -> None:
    """Peak memory of a process that writes a submission of so many small images, for each count."""
    peaks = []
    for count in counts:
        command = [sys.executable, __file__, "--measure-memory", str(count), "--work", str(work)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(json.loads(done.stdout)["peak_bytes"])
        show("memory", images=count, peak_mb=peaks[-1] / 1e6)
    more = (peaks[-1] - peaks[0]) / (counts[-1] - counts[0])
    growth = peaks[-1] / peaks[0] - 1
    show("memory_growth", bytes_per_image=more, growth=growth, target=0.05, held=growth <= 0.05)


def measure_memory(count: int, work: Path) -> None:
    """One JSON line: the peak of this process."""
    folder = work / f"{count}-images"
    folder.mkdir()
    cv2.imwrite(str(work / "one.jpg"), np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    for number in range(count):
        os.link(work / "one.jpg", folder / f"{number:06}.jpg")
    segmenter = Segmenter.open(Recipe(models=(work / "small.ts",), device="cpu"))
    with Decoders(1) as decoders:
        Submission(segmenter, decoders, list_images(folder), work / f"{count}.csv")()
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def estimates(name: str, images_per_s: float) -> None:
    """Hours for Kaggle's test set at the measured rate; what was not measured here is not given."""
    hours = KAGGLE_IMAGES / images_per_s / 3600
    if torch.cuda.is_available():
        show(f"{name}_estimate_one_gpu", hours=hours, extrapolated=True)
        show(f"{name}_estimate_eight_gpus", hours=hours / 8, extrapolated=True, assumes="--workers 8 at eight times it")
        return
    threads = torch.get_num_threads()
    show(f"{name}_estimate_{threads}_cores", hours=hours, extrapolated=True)
    show(f"{name}_estimate_gpus", hours=None, note="no GPU here; run this script on one")


def show(figure: str, **values: Any) -> None:
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
    print(json.dumps({"figure": figure, **rounded, "load": round(os.getloadavg()[0], 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="full-size images a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default="small,resnet34")
    parser.add_argument("--memory-images", default="1000,20000", help="two counts of small images; '' leaves it out")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch; and decoders")
    parser.add_argument("--measure-memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    if options.measure_memory:
        measure_memory(options.measure_memory, options.work)
        return
    with tempfile.TemporaryDirectory() as folder, Decoders(options.threads) as decoders:
        work = Path(folder)
        if options.memory_images:
            save(to_torchscript(build("small")), ExportManifest.bare(("background", "car")), work / "small.ts")
            memory([int(count) for count in options.memory_images.split(",")], work)
        if not options.networks:
            return
        images = photographs(work, options.images)
        for name in options.networks.split(","):
            estimates(name, compare(name, images, work, options.rounds, decoders))
            runtimes(name, images, work, options.rounds)


if __name__ == "__main__":
    main()
