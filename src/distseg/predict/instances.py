"""What a detector's file finds: as COCO's results, and measured on shards."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco

from distseg import atomic
from distseg.data.codec import Pixels
from distseg.data.manifest import ShardFolder
from distseg.data.stream import InstanceEvalBatches, batch_loader, open_named_split
from distseg.errors import DataError, InputError
from distseg.export.torchscript import load
from distseg.predict.decode import Unreadable
from distseg.predict.images import read_image
from distseg.predict.inputs import Job
from distseg.predict.pictures import jpeg
from distseg.predict.segmenter import Recipe
from distseg.records import Score
from distseg.tasks.instance_drawing import draw_instances
from distseg.tasks.instance_scoring import measure_instances

RESULTS = "results.json"
SCORE_SHOWN = 0.5


def coco_results(
    found: dict[str, torch.Tensor], image_id: int | str, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """The objects of one image, as an exported file returns them -> entries of a COCO results file, by falling score.

    Each ``{"image_id", "category_id", "bbox": [x, y, width, height], "score", "segmentation": {"size": [height, width],
    "counts": compressed run lengths}}``; coordinates in pixels. ``category_ids``: by class index; None: the class index
    and 1, as COCO counts.
    """
    runs = [coco.encode(np.asfortranarray(mask)) for mask in found["masks"].cpu().numpy()]
    results = []
    for label, score, box, run in zip(
        found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), runs, strict=True
    ):
        left, top, right, bottom = box
        results.append(
            {
                "image_id": image_id,
                "category_id": label + 1 if category_ids is None else category_ids[label],
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
                "segmentation": {"size": list(run["size"]), "counts": run["counts"].decode()},
            }
        )
    return results


@dataclass(frozen=True)
class ObjectsFound:
    """What was found in some images, in COCO's terms."""

    images: list[dict[str, Any]]
    """``id`` and ``file_name`` of those that could be read."""
    categories: list[dict[str, Any]]
    """``id`` and ``name`` of the file's classes."""
    results: list[dict[str, Any]]
    """As `coco_results`, of all images."""
    files: list[str]
    """Names of what was written."""
    unreadable: list[Unreadable]


def predict_objects(
    model: Path, jobs: Sequence[Job], out: Path, *, device: str | None, advance: Callable[[int, int], None]
) -> ObjectsFound:
    """Draws what a detector's file finds with a score from 0.5 up into ``out/NAME.overlay.jpg``.

    ``out/results.json`` holds all that it finds as a COCO results file, whose image ids count the images from 1.
    ``advance`` is told (done, all) after each image. InputError when a file to be written is one of the images.
    """
    loaded = load(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    where = next(loaded.module.parameters()).device
    classes = loaded.manifest.classes
    inputs = {job.path.resolve() for job in jobs}
    for job in jobs:
        if (out / _overlay_name(job)).resolve() in inputs:
            raise InputError(f"--out {out}: {_overlay_name(job)} would replace an image; give another folder")
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    found = ObjectsFound([], categories, [], [], [])
    for number, job in enumerate(jobs, 1):
        try:
            pixels = read_image(job.path)
        except DataError as error:
            found.unreadable.append(Unreadable(job.path, str(error)))
        else:
            with torch.inference_mode():
                image = torch.from_numpy(pixels).permute(2, 0, 1).to(where)
                objects = {name: value.cpu() for name, value in loaded.module.detect([image])[0].items()}
            found.images.append({"id": number, "file_name": str(job.path)})
            found.results.extend(coco_results(objects, number))
            with atomic.replacing(out / _overlay_name(job)) as file:
                file.write(jpeg(drawn(pixels, objects, classes)))
            found.files.append(_overlay_name(job))
        advance(number, len(jobs))
    atomic.write_text(out / RESULTS, json.dumps(found.results) + "\n")
    found.files.append(RESULTS)
    return found


def drawn(
    pixels: Pixels, objects: dict[str, torch.Tensor], classes: Sequence[str], score_min: float = SCORE_SHOWN
) -> Pixels:
    """Image (H, W, 3) uint8 RGB with those objects drawn in, of a file's answer, that have this score at least."""
    sure = objects["scores"] >= score_min
    masks = list(objects["masks"][sure].cpu().numpy())
    return draw_instances(pixels, masks, objects["labels"][sure].tolist(), classes, objects["scores"][sure].tolist())


def _overlay_name(job: Job) -> str:
    return f"{job.name}.overlay.jpg"


def evaluate_instances(recipe: Recipe, folder: ShardFolder, split: str) -> dict[str, Any]:
    """``evaluate --json`` of task instance: AP and losses of one file on a split's samples.

    InputError when the file is not of these classes, and when more is asked for than one file, as it is.
    """
    started = time.perf_counter()
    path, *others = recipe.models
    if others or recipe.tta or recipe.tile is not None:
        raise InputError(f"{path}: objects are found by one file as it is; drop other files, --tta and --tile")
    loaded = load(path, recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    known = folder.manifest
    if (loaded.manifest.task, loaded.manifest.classes) != ("instance", known.classes):
        raise InputError(
            f"{path}: task {loaded.manifest.task} with classes {', '.join(loaded.manifest.classes)}, {folder.root} has "
            f"instance with {', '.join(known.classes)}; evaluate on shards of the same task and classes"
        )
    device = next(loaded.module.parameters()).device
    score = score_detector(loaded.module, folder, split, device)
    return {
        "metrics": score.metrics,
        "samples": score.samples,
        "seconds": time.perf_counter() - started,
        "resolution": score.resolution,
        "config": loaded.manifest.config,
    }


def score_detector(predictor: Any, folder: ShardFolder, split: str, device: torch.device) -> Score:
    """An `InstancePredictor` or the file of one on a split's samples; InputError when one of them cannot be used."""
    batches = InstanceEvalBatches(open_named_split(folder, split), batch=1, rank=0, world_size=1)
    loader = batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False)
    with torch.inference_mode():
        score, bad = measure_instances(predictor, loader, folder.manifest, device, lambda value: [value])
    if bad:
        raise InputError(f"{folder.root}: {len(bad)} samples cannot be used, first {bad[0].key}: {bad[0].reason}")
    return score
