"""A predictor measured on batches: counts per group, added over ranks, divided once."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from distseg.data.manifest import BadSample, Manifest
from distseg.data.stream import Batch
from distseg.metrics import image_sums
from distseg.records import Score
from distseg.scores import Sums, group_values, intervals, metrics_of, width

Each = Callable[[Batch, Sums], None]
"""Is shown a batch and its images' rows of sums (B, width(classes)), see metrics.py."""

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""Sum of a float64 tensor over all ranks, on each of them."""


def measure(
    predict: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[Batch],
    manifest: Manifest,
    device: torch.device,
    reduce: Reduce,
    each: Each | None = None,
) -> tuple[Score, list[BadSample]]:
    """Scores ``predict`` (uint8 (B, 3, H, W) -> labels uint8 (B, H, W)) on this rank's batches of a split.

    Returns the score over all ranks, the same on each, and the bad samples that this rank left out.
    """
    classes = len(manifest.classes)
    groups = {group: row for row, group in enumerate(manifest.groups)}
    sums = np.zeros((len(groups), width(classes)))
    bad: list[BadSample] = []
    for batch in batches:
        bad += batch.bad
        if not batch.keys:
            continue
        predictions = predict(batch.images.to(device, non_blocking=True))
        masks = batch.masks.to(device, non_blocking=True)
        rows = image_sums(predictions, masks, classes, manifest.ignore_label)
        if each is not None:
            each(batch, rows)
        np.add.at(sums, [groups[group] for group in batch.groups], rows)
    total = reduce(torch.from_numpy(sums)).cpu().numpy()
    measured = {group: total[row] for group, row in groups.items() if total[row, classes * classes] > 0}
    score = Score(
        metrics=metrics_of(total.sum(axis=0), manifest.classes),
        intervals=intervals(np.array(list(measured.values())), classes),
        groups=group_values(measured, classes),
        samples=int(total[:, classes * classes].sum()),
        resolution=manifest.size,
    )
    return score, bad
