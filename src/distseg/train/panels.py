"""Pictures of what a network does while it trains: the first validation samples, a row each."""

from collections.abc import Iterable

import torch

from distseg.data.stream import Batch
from distseg.tasks.drawing import Pixels, comparison, stacked
from distseg.tasks.predictor import Predictor

_ROWS = 4


def panel(
    predictor: Predictor, batches: Iterable[Batch], ignore_label: int | None, device: torch.device
) -> Pixels | None:
    """(H, W, 3) uint8 RGB of the first validation samples: image, truth, prediction, and wrong pixels in red.

    None when no sample can be read.
    """
    rows: list[Pixels] = []
    for batch in batches:
        if not batch.keys:  # nothing of it could be read
            continue
        taken = batch.images[: _ROWS - len(rows)].to(device)
        with torch.inference_mode():
            predictions = predictor(taken).cpu().numpy()
        for image, truth, prediction in zip(taken.cpu(), batch.masks.numpy(), predictions, strict=False):
            rows.append(comparison(image.permute(1, 2, 0).numpy(), truth, prediction, ignore_label))
        if len(rows) == _ROWS:
            break
    return stacked(rows) if rows else None
