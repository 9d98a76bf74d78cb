"""An exported file measured on shards."""

import time
from pathlib import Path
from typing import Any

import torch

from distseg.data.manifest import ShardFolder
from distseg.data.stream import EvalBatches, batch_loader, open_named_split
from distseg.errors import InputError
from distseg.export.torchscript import load
from distseg.predict.instances import evaluate_instances
from distseg.tasks.scoring import measure


def evaluate(model: Path, folder: ShardFolder, split: str, batch: int = 16) -> dict[str, Any]:
    """``evaluate --json``: metrics, samples, seconds, resolution and config of a file on a split's samples."""
    started = time.perf_counter()
    loaded = load(model)
    if loaded.manifest.classes != folder.manifest.classes:
        raise InputError(
            f"{model}: has classes {', '.join(loaded.manifest.classes)}, {folder.root} has "
            f"{', '.join(folder.manifest.classes)}; evaluate on shards of the same classes"
        )
    if loaded.manifest.task == "instance":
        return evaluate_instances(loaded, folder, split)
    reader = open_named_split(folder, split)
    batches = EvalBatches(reader, batch=batch, rank=0, world_size=1)
    loader = batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False)
    with torch.inference_mode():
        score, bad = measure(loaded.module, loader, folder.manifest, torch.device("cpu"), lambda sums: sums)
    if bad:
        raise InputError(f"{folder.root}: {len(bad)} samples cannot be used, first {bad[0].key}: {bad[0].reason}")
    return {
        "metrics": score.metrics,
        "samples": score.samples,
        "seconds": time.perf_counter() - started,
        "resolution": score.resolution,
        "config": loaded.manifest.config,
    }
