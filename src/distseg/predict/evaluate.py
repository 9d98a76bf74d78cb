"""Exported files, or a run's best checkpoint, measured on shards, here or in parts on other machines."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distseg import checkpoint
from distseg.config import RunConfig
from distseg.data.cache import ShardCache
from distseg.data.manifest import BadSample, ShardFolder
from distseg.data.stream import Batch, EvalBatches, batch_loader, open_named_split
from distseg.errors import InputError
from distseg.export.build import restore_predictor
from distseg.export.torchscript import manifest_in
from distseg.metrics import confusion
from distseg.predict.instances import evaluate_instances, score_detector
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.records import BEST_CHECKPOINT, Score
from distseg.scores import Sums, dice_and_iou
from distseg.tasks.drawing import Pixels, comparison, stacked, titled
from distseg.tasks.scoring import measure

_BATCH = 16


@dataclass(frozen=True)
class Part:
    """Samples ``number``, ``number + of``, ... of the split."""

    number: int
    of: int


@dataclass(frozen=True)
class Counted:
    """What was found on a part."""

    sums: Sums
    """(groups, width), to be added up."""
    bad: tuple[BadSample, ...]
    dices: tuple[tuple[float, str], ...]
    """Of each sample its Dice (of several classes the mean over those present) and its key."""


Elsewhere = Callable[[Sequence[Part]], Iterable[Counted]]
"""Counts parts on other machines, each with an Evaluator; in the parts' order."""


class Evaluator:
    """Counts parts of a split with an ensemble."""

    def __init__(self, recipe: Recipe, data: Path | str, split: str, cache: ShardCache | None = None) -> None:
        """InputError when the files do not fit together, or have other classes than the shards."""
        self._segmenter = Segmenter.open(recipe)
        self._folder = ShardFolder.open(data, cache)
        manifest, known = self._segmenter.manifest, self._folder.manifest
        # a foreign file does not name its classes: they are taken by number
        alike = recipe.foreign and len(manifest.classes) == len(known.classes)
        if manifest.classes != known.classes and not alike:
            raise InputError(
                f"{recipe.models[0]}: has classes {', '.join(manifest.classes)}, {self._folder.root} has "
                f"{', '.join(known.classes)}; evaluate on shards of the same classes"
            )
        self._reader = open_named_split(self._folder, split)

    def __len__(self) -> int:
        return len(self._reader)

    def __call__(self, part: Part) -> Counted:
        batches = EvalBatches(self._reader, batch=_BATCH, rank=part.number, world_size=part.of)
        loader = batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False)
        watch = _Watch(self._segmenter.labels, self._folder)
        parts: list[torch.Tensor] = []

        def keep(sums: torch.Tensor) -> torch.Tensor:
            parts.append(sums)
            return sums

        _, bad = measure(watch.predict, watch.seen(loader), self._folder.manifest, self._segmenter.device, keep)
        return Counted(parts[0].numpy(), tuple(bad), tuple(watch.dices))

    def result(self, parts: Iterable[Counted]) -> dict[str, Any]:
        """metrics, samples, resolution and config, of all parts together; InputError when a sample cannot be used."""
        parts = list(parts)
        total = torch.from_numpy(sum(part.sums for part in parts))
        manifest = self._folder.manifest
        score, _ = measure(self._segmenter.labels, (), manifest, self._segmenter.device, lambda _: total)
        if bad := [each for part in parts for each in part.bad]:
            raise InputError(
                f"{self._folder.root}: {len(bad)} samples cannot be used, first {bad[0].key}: {bad[0].reason}"
            )
        return {
            "metrics": score.metrics,
            "samples": score.samples,
            "resolution": score.resolution,
            "config": self._segmenter.manifest.config,
        }

    def panel(self, dices: Sequence[tuple[float, str]]) -> Pixels:
        """(H, W, 3) uint8 RGB: best, median and worst of these samples, as `comparison` draws them."""
        ranked = sorted(dices, reverse=True)
        shown = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
        places = {self._reader.place(place)[1].key: place for place in range(len(self._reader))}
        rows = []
        for name, (dice, key) in shown.items():
            sample = self._reader.read(places[key])
            assert sample.mask is not None
            images = torch.from_numpy(sample.image)[None].permute(0, 3, 1, 2).to(self._segmenter.device)
            prediction = self._segmenter.labels(images)[0].cpu().numpy()
            row = comparison(sample.image, sample.mask, prediction, self._folder.manifest.ignore_label)
            rows.append(titled(row, f"{name}: {key}  Dice {dice:.4f}   image | truth | prediction | error"))
        return stacked(rows)


class _Watch:
    """Looks on while a model is measured, and keeps the Dice of every sample."""

    def __init__(self, labels: Callable[[torch.Tensor], torch.Tensor], folder: ShardFolder) -> None:
        self._labels = labels
        self._manifest = folder.manifest
        self._batch: Batch
        self.dices: list[tuple[float, str]] = []

    def seen(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for self._batch in batches:
            yield self._batch

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        found = self._labels(images)
        classes = len(self._manifest.classes)
        truth = self._batch.masks.to(found.device)
        counts = confusion(found, truth, classes, self._manifest.ignore_label).cpu().numpy().astype(np.float64)
        dice, _ = dice_and_iou(counts)
        for rates, key in zip(dice[:, 1:] if classes == 2 else dice, self._batch.keys, strict=True):
            rates = rates[~np.isnan(rates)]
            self.dices.append((float(rates.mean()) if rates.size else 1.0, key))
        return found


def evaluate(
    model: Path | Recipe,
    folder: ShardFolder,
    split: str,
    *,
    elsewhere: Elsewhere | None = None,
    parts: int = 1,
    cache: ShardCache | None = None,
    panel: Callable[[Pixels], None] | None = None,
) -> dict[str, Any]:
    """``evaluate --json``: metrics, samples, seconds, resolution and config of one or several files on a split.

    ``elsewhere`` counts so many ``parts`` on other machines, which see the same files. ``panel`` takes the picture of
    the best, the median and the worst sample.
    """
    started = time.perf_counter()
    recipe = model if isinstance(model, Recipe) else Recipe(models=(model,))
    if folder.manifest.task == "instance":
        if elsewhere is not None or panel is not None:
            raise InputError(f"{folder.root}: data of task instance; objects are measured here, without --panel")
        return evaluate_instances(recipe, folder, split)
    evaluator = Evaluator(recipe, folder.root, split, cache)
    tasks = [Part(number, parts) for number in range(min(parts, len(evaluator)))]
    tasks = [Part(task.number, len(tasks)) for task in tasks]
    counted = list(map(evaluator, tasks) if elsewhere is None else elsewhere(tasks))
    result = evaluator.result(counted)
    if panel is not None:
        panel(evaluator.panel([dice for part in counted for dice in part.dices]))
    return {**result, "seconds": time.perf_counter() - started}


def seen_in_training(recipe: Recipe, split: str) -> list[Path]:
    """Files whose training saw samples of this split: those of a fold, which spans train and val, and of ``train``."""
    found = []
    for path in recipe.models:
        manifest = manifest_in(path)
        if manifest is None:
            continue  # a foreign file: nobody knows
        fold = manifest.config.get("data", {}).get("fold")
        if split == "train" or (split == "val" and fold is not None):
            found.append(path)
    return found


def score_run(run: Path, folder: ShardFolder, split: str) -> Score:
    """The best checkpoint of a run's folder on a split's samples; InputError when one of them cannot be used."""
    tree = checkpoint.load(run / BEST_CHECKPOINT)
    predictor = restore_predictor(RunConfig.model_validate(tree["config"]), tree, folder.manifest)
    if folder.manifest.task == "instance":
        return score_detector(predictor, folder, split, torch.device("cpu"))
    batches = EvalBatches(open_named_split(folder, split), batch=_BATCH, rank=0, world_size=1)
    loader = batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False)
    with torch.inference_mode():
        score, bad = measure(predictor, loader, folder.manifest, torch.device("cpu"), lambda sums: sums)
    if bad:
        raise InputError(f"{folder.root}: {len(bad)} samples cannot be used, first {bad[0].key}: {bad[0].reason}")
    return score
