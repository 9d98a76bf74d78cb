"""Task instance: the objects of an image, one by one, by a Mask R-CNN that brings its own losses."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from distseg.config import ModelConfig
from distseg.data.manifest import BadSample, Manifest
from distseg.data.stream import InstanceBatch, InstanceTrainBatch
from distseg.models.build import BuiltModel, build_instance_model
from distseg.records import Score
from distseg.tasks.exchange import Losses, Ranks
from distseg.tasks.instance_losses import LOSSES, torchvision_target
from distseg.tasks.instance_predictor import InstancePredictor
from distseg.tasks.instance_scoring import image_losses, measure_instances, metric_names
from distseg.tasks.scoring import Each

Inputs = list[tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""Images (3, H, W) float32 in [0, 1] of any sizes, each with its target."""


class InstanceTask:
    """See ``tasks/task.py`` for what the methods promise."""

    loss_names = LOSSES

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def build(self, cfg: ModelConfig, state: dict[str, torch.Tensor] | None = None) -> BuiltModel:
        return build_instance_model(cfg, len(self._manifest.classes), state)

    def predictor(self, network: nn.Module, built: BuiltModel, size: tuple[int, int] | None) -> InstancePredictor:
        return InstancePredictor(network, input_size=size)

    def inputs(self, batch: InstanceTrainBatch, device: torch.device) -> Inputs:
        return [
            (image.to(device, non_blocking=True).float() / 255, torchvision_target(targets, device))
            for image, targets in zip(batch.images, batch.targets, strict=True)
        ]

    def losses(
        self, trainer: InstancePredictor, inputs: Inputs, part: slice, autocast: AbstractContextManager[Any]
    ) -> Losses:
        """Means over what was sampled in all images together, so each image counts as their mean."""
        images, targets = zip(*inputs[part], strict=True)
        with autocast:
            found = trainer.losses(list(images), list(targets))
        named = torch.stack([found[name].float() for name in LOSSES])
        of_images = named.sum().expand(len(images))
        return Losses(of_images, named * len(images), lambda: of_images)

    def validation_errors(
        self, predictor: InstancePredictor, batches: Iterable[InstanceBatch], device: torch.device
    ) -> Iterator[torch.Tensor]:
        for batch in batches:
            for key, image, instances in zip(batch.keys, batch.images, batch.instances, strict=True):
                losses = image_losses(predictor, key, image.to(device), instances)
                yield torch.tensor([sum(losses)], device=device)

    def measure(
        self,
        predictor: InstancePredictor,
        batches: Iterable[InstanceBatch],
        device: torch.device,
        ranks: Ranks,
        each: Each | None = None,
    ) -> tuple[Score, list[BadSample]]:
        return measure_instances(predictor, batches, self._manifest, device, ranks.gather)

    def metric_names(self) -> list[str]:
        return metric_names()
