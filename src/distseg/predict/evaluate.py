"""An exported file, or a run's best checkpoint, measured on a split of shards."""

import time
from pathlib import Path
from typing import Any

import torch

from distseg import checkpoint
from distseg.config import RunConfig
from distseg.data.manifest import ShardFolder
from distseg.data.stream import EvalBatches, batch_loader, open_named_split
from distseg.errors import InputError
from distseg.export.build import restore_predictor
from distseg.export.torchscript import load
from distseg.records import BEST_CHECKPOINT, Score
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
    score = _score(loaded.module, folder, split, batch)
    return {
        "metrics": score.metrics,
        "samples": score.samples,
        "seconds": time.perf_counter() - started,
        "resolution": score.resolution,
        "config": loaded.manifest.config,
    }


def score_run(run: Path, folder: ShardFolder, split: str, batch: int = 16) -> Score:
    """The best checkpoint of a run's folder on a split's samples; InputError when one of them cannot be used."""
    tree = checkpoint.load(run / BEST_CHECKPOINT)
    cfg = RunConfig.model_validate(tree["config"])
    return _score(restore_predictor(cfg, tree, folder.manifest), folder, split, batch)


def _score(predict: torch.nn.Module, folder: ShardFolder, split: str, batch: int) -> Score:
    reader = open_named_split(folder, split)
    batches = EvalBatches(reader, batch=batch, rank=0, world_size=1)
    loader = batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False)
    with torch.inference_mode():
        score, bad = measure(predict, loader, folder.manifest, torch.device("cpu"), lambda sums: sums)
    if bad:
        raise InputError(f"{folder.root}: {len(bad)} samples cannot be used, first {bad[0].key}: {bad[0].reason}")
    return score
