"""Pictures of what a detector does: image, true objects and found ones, side by side, a row a sample."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from distseg.data.codec import Pixels, resize_image, resize_labels
from distseg.data.instances import instance_mask
from distseg.data.sizes import fitted
from distseg.data.stream import InstanceBatch
from distseg.tasks.instance_drawing import draw_instances
from distseg.tasks.instance_predictor import InstancePredictor

_ROWS = 4
_SIDE = 320
_SCORE_MIN = 0.5


def instance_panel(
    predictor: InstancePredictor, batches: Iterable[InstanceBatch], classes: Sequence[str], device: torch.device
) -> Pixels | None:
    """(H, W, 3) uint8 RGB of the first validation samples: image, truth, and what is found with a score from 0.5 up.

    None when no sample can be read.
    """
    rows: list[Pixels] = []
    for batch in batches:
        for image, instances in zip(batch.images, batch.instances, strict=True):
            with torch.inference_mode():
                found = predictor.detect([image.to(device)])[0]
            size = image.shape[2], image.shape[1]
            shown = fitted(*size, _SIDE, _SIDE)
            picture = resize_image(image.permute(1, 2, 0).numpy(), shown)
            sure = found["scores"] >= _SCORE_MIN
            truth = [resize_labels(instance_mask(one, size), shown) for one in instances]
            masks = [resize_labels(mask, shown) for mask in found["masks"][sure].cpu().numpy()]
            cells = [
                picture,
                draw_instances(picture, truth, [one.label for one in instances], classes),
                draw_instances(picture, masks, found["labels"][sure].tolist(), classes, found["scores"][sure].tolist()),
            ]
            rows.append(np.concatenate([np.pad(cell, ((0, 4), (0, 4), (0, 0))) for cell in cells], axis=1))
            if len(rows) == _ROWS:
                return _stacked(rows)
    return _stacked(rows) if rows else None


def _stacked(rows: Sequence[Pixels]) -> Pixels:
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
