"""What a detector's file finds: as COCO's results, and measured on shards."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco

from distseg.data.manifest import ShardFolder
from distseg.data.stream import InstanceEvalBatches, batch_loader, open_named_split
from distseg.errors import InputError
from distseg.export.torchscript import load
from distseg.predict.segmenter import Recipe
from distseg.records import Score
from distseg.tasks.instance_scoring import measure_instances


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
