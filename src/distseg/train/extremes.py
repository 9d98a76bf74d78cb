"""Where a run does best and worst: the validation images of highest, median and lowest Dice, drawn for ``best.pt``."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from distseg import atomic
from distseg.data.stream import Batch, EvalBatches
from distseg.errors import BadSampleError
from distseg.records import EXTREMES_FILE, EXTREMES_PICTURE
from distseg.scores import Sums, values
from distseg.tasks.drawing import comparison, stacked, write_png
from distseg.tasks.predictor import Predictor


@dataclass(frozen=True, order=True)
class _Image:
    dice: float
    key: str
    batch: int


class Extremes:
    """The Dice of every image of one validation, of this rank's share: an even sample of the split."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._images: list[_Image] = []

    def take_in(self, batch: Batch, sums: Sums) -> None:
        """The images of a batch and their rows of sums (B, width(classes))."""
        dices = values(sums, self._classes)["dice_mean_per_image"]
        for key, dice in zip(batch.keys, dices.tolist(), strict=True):
            self._images.append(_Image(dice, key, batch.step))

    def draw(
        self, folder: Path, predictor: Predictor, batches: EvalBatches, ignore_label: int | None, device: torch.device
    ) -> None:
        """``panels/best_median_worst.png``: three rows of image, truth, prediction, wrong pixels in red.

        Which images they are stands in the ``.json`` beside it.
        Leaves the predictor in eval mode. Nothing is drawn when there were no images.
        """
        ranked = sorted(self._images, reverse=True)
        if not ranked:
            return
        predictor.eval()
        rows, told = [], []
        for name, image in {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}.items():
            try:
                sample = batches.sample(image.batch, image.key)
            except BadSampleError:  # it could be read a moment ago: its shard's copy is being renewed
                continue
            assert sample.mask is not None
            pixels = torch.from_numpy(sample.image).permute(2, 0, 1)[None].to(device)
            with torch.inference_mode():
                prediction = predictor(pixels)[0].cpu().numpy()
            rows.append(comparison(sample.image, sample.mask, prediction, ignore_label))
            told.append({"which": name, "key": image.key, "dice": image.dice})
        if rows:
            write_png(stacked(rows), folder / EXTREMES_PICTURE)
            atomic.write_text(folder / EXTREMES_FILE, json.dumps({"images": len(ranked), "rows": told}) + "\n")
