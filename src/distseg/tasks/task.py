"""What the one loop asks of a task."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from distseg.config import ModelConfig, RunConfig
from distseg.data.manifest import BadSample, Manifest
from distseg.models.build import BuiltModel
from distseg.records import Score
from distseg.tasks.check import check_task
from distseg.tasks.dense import DenseTask
from distseg.tasks.exchange import Losses, Ranks
from distseg.tasks.scoring import Each


class Task(Protocol):
    """Network, losses, decoding and metrics of a kind of segmentation."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Parts of the loss that are logged one by one, beside their sum; none where it has no parts."""
        ...

    def build(self, cfg: ModelConfig, state: dict[str, torch.Tensor] | None = None) -> BuiltModel:
        """The network with its starting weights; ``state``: of the checkpoint that is loaded next, if there is one."""
        ...

    def predictor(self, network: nn.Module, built: BuiltModel, size: tuple[int, int] | None) -> Any:
        """All that is around the network, for images seen at ``size`` (width, height)."""
        ...

    def inputs(self, batch: Any, device: torch.device) -> Any:
        """A training batch on its way to a device."""
        ...

    def losses(self, trainer: Any, inputs: Any, part: slice, autocast: AbstractContextManager[Any]) -> Losses:
        """Of the images of a part of a batch, computed by the predictor around what is trained."""
        ...

    def validation_errors(self, predictor: Any, batches: Iterable[Any], device: torch.device) -> Iterator[torch.Tensor]:
        """What the augmentation level follows, (n,) at a time, of this rank's validation images."""
        ...

    def measure(
        self, predictor: Any, batches: Iterable[Any], device: torch.device, ranks: Ranks, each: Each | None = None
    ) -> tuple[Score, list[BadSample]]:
        """The score over all ranks, the same on each, and the samples that this rank had to leave out.

        ``each`` looks on where images have a Dice each.
        """
        ...

    def metric_names(self) -> list[str]:
        """Metrics that may choose the best checkpoint."""
        ...


def task_of(cfg: RunConfig, manifest: Manifest) -> Task:
    """The task of a config; ConfigError when the data are of another."""
    check_task(cfg.task, manifest)
    if cfg.task != "instance":
        return DenseTask(cfg, manifest)
    from distseg.tasks.instance import InstanceTask  # here: it takes torchvision, which takes four seconds

    return InstanceTask(manifest)
