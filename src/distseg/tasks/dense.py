"""The dense tasks: a label for every pixel. Binary has one logit (object or background), multi-class one a class."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from distseg.config import LossConfig, ModelConfig, RunConfig
from distseg.data.manifest import BadSample, Manifest
from distseg.data.stream import Batch
from distseg.losses import build_loss, median_frequency_weights
from distseg.models.build import BuiltModel, build_model
from distseg.records import Score
from distseg.scores import metrics_of, width
from distseg.tasks.exchange import Losses, Ranks
from distseg.tasks.predictor import Predictor
from distseg.tasks.scoring import Each, measure


class DenseTask:
    """Channels and loss; decoding stands in ``tasks/predictor.py``, metrics in ``metrics.py``.

    See ``tasks/task.py`` for what the methods promise.
    """

    loss_names: tuple[str, ...] = ()

    def __init__(self, cfg: RunConfig, manifest: Manifest) -> None:
        """The data are of the config's task (``check_task``)."""
        classes = len(manifest.classes)
        self._manifest = manifest
        self.channels_out = channels_out(cfg.task, classes)
        weights = None
        if cfg.loss.class_weights == "median_frequency":
            pixels = torch.tensor([manifest.class_pixels[name] for name in manifest.classes])
            weights = median_frequency_weights(pixels)
        self._loss = build_loss(cfg.loss, manifest.ignore_label, weights)
        self._soft_dice_error = (
            build_loss(LossConfig(name="dice"), manifest.ignore_label)
            if cfg.augment.adaptive.error == "soft_dice"
            else None
        )

    def loss(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H, W) of any float type, masks (B, H, W) uint8 -> (B,) float32."""
        return self._loss(logits.float(), masks)

    def errors(self, logits: torch.Tensor, masks: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        """What the augmentation level follows, of each image (B,) float32: its loss, or 1 - its soft Dice."""
        return losses if self._soft_dice_error is None else self._soft_dice_error(logits.float(), masks)

    def build(self, cfg: ModelConfig, state: dict[str, torch.Tensor] | None = None) -> BuiltModel:
        return build_model(cfg, self.channels_out)

    def predictor(self, network: nn.Module, built: BuiltModel, size: tuple[int, int] | None) -> Predictor:
        return Predictor(network, input_size=size, divisor=built.divisor, mean=built.mean, std=built.std)

    def inputs(self, batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return batch.images.to(device, non_blocking=True), batch.masks.to(device, non_blocking=True)

    def losses(
        self,
        trainer: Predictor,
        inputs: tuple[torch.Tensor, torch.Tensor],
        part: slice,
        autocast: AbstractContextManager[Any],
    ) -> Losses:
        images, masks = inputs[0][part], inputs[1][part]
        with autocast:
            logits = trainer.network_logits(images)
        losses = self.loss(logits, masks)
        return Losses(losses, losses.new_zeros(0), lambda: self.errors(logits, masks, losses))

    def validation_errors(
        self, predictor: Predictor, batches: Iterable[Batch], device: torch.device
    ) -> Iterator[torch.Tensor]:
        for batch in batches:
            if batch.keys:
                images, masks = self.inputs(batch, device)
                logits = predictor.logits(images)
                yield self.errors(logits, masks, self.loss(logits, masks))

    def measure(
        self,
        predictor: Predictor,
        batches: Iterable[Batch],
        device: torch.device,
        ranks: Ranks,
        each: Each | None = None,
    ) -> tuple[Score, list[BadSample]]:
        return measure(predictor, batches, self._manifest, device, ranks.reduce, each)

    def metric_names(self) -> list[str]:
        classes = self._manifest.classes
        nothing = metrics_of(np.zeros(width(len(classes))), classes)  # all metrics that there are, by name
        return [name for name, value in nothing.items() if isinstance(value, float)]


def channels_out(task: str, classes: int) -> int:
    """Logits per pixel."""
    return 1 if task == "binary" else classes
