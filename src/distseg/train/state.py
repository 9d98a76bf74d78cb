"""The whole state of a training run as one value, and its way to disk and back.

Random numbers need no place in it: each step seeds torch's generators from (seed, step, rank), and each sample's
augmentation from (seed, epoch, key), so the cursor alone decides them. The schedule is a function of the step.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from distseg.config import OptimConfig, RunConfig
from distseg.data.manifest import BadSample, Manifest
from distseg.errors import HomeError


@dataclass
class TrainState:
    """Everything that changes while a run trains."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Disabled (and without state) unless the run computes in fp16."""
    step: int = 0
    """The cursor: global batches consumed, over all epochs."""
    best: float | None = None
    best_epoch: int | None = None
    best_metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch; ``epochs.jsonl`` is written from it."""
    bad: dict[str, BadSample] = field(default_factory=dict)
    """Samples met so far that could not be used, by key, over all ranks."""
    loss_sum: float = 0.0
    loss_images: int = 0
    """Training loss of the epoch so far, summed over images and ranks, and those images."""
    seconds: float = 0.0
    """Wall time of training so far."""
    cpu_seconds: float = 0.0
    """CPU time over all ranks."""

    @classmethod
    def create(cls, cfg: RunConfig, network: nn.Module, device: torch.device, precision: str) -> "TrainState":
        """A fresh state around a network that is on its device already."""
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        return cls(network=network, optimizer=build_optimizer(cfg.optim, network), scaler=scaler)

    def to_tree(self, cfg: RunConfig, manifest: Manifest) -> dict[str, Any]:
        """The state as tensors and plain values, with what it belongs to."""
        return {
            **identity(cfg, manifest),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_metrics": self.best_metrics,
            "history": self.history,
            "bad": [sample.model_dump() for sample in self.bad.values()],
            "loss_sum": self.loss_sum,
            "loss_images": self.loss_images,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    def restore(self, tree: dict[str, Any], cfg: RunConfig, manifest: Manifest, source: str) -> None:
        """Takes over a saved state; HomeError when it belongs to another config or other data."""
        for name, wanted in identity(cfg, manifest).items():
            if tree.get(name) != wanted:
                what = name.replace("_", " ")
                raise HomeError(
                    f"{source}: belongs to another {what}{_first_difference(tree.get(name), wanted)}; "
                    "resume with the same config and data, or start a new run"
                )
        self.network.load_state_dict(tree["network"])
        self.optimizer.load_state_dict(tree["optimizer"])
        self.scaler.load_state_dict(tree["scaler"])
        self.step = tree["step"]
        self.best, self.best_epoch, self.best_metrics = tree["best"], tree["best_epoch"], tree["best_metrics"]
        self.history = tree["history"]
        self.bad = {sample["key"]: BadSample.model_validate(sample) for sample in tree["bad"]}
        self.loss_sum, self.loss_images = tree["loss_sum"], tree["loss_images"]
        self.seconds, self.cpu_seconds = tree["seconds"], tree["cpu_seconds"]


def identity(cfg: RunConfig, manifest: Manifest) -> dict[str, Any]:
    """What must be equal for a checkpoint to be resumed."""
    return {"config": cfg.model_dump(mode="json"), "data_digest": manifest.data_digest}


def build_optimizer(cfg: OptimConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Weight decay on matrices and filters only, not on biases and normalisation."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if cfg.name == "sgd":
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=0.9, nesterov=True)
    return (torch.optim.AdamW if cfg.name == "adamw" else torch.optim.Adam)(groups, lr=cfg.lr)


def _first_difference(got: Any, wanted: Any, path: str = "") -> str:
    if isinstance(got, dict) and isinstance(wanted, dict):
        for name in sorted({*got, *wanted}):
            if got.get(name) != wanted.get(name):
                return _first_difference(got.get(name), wanted.get(name), f"{path}.{name}" if path else name)
    return f" ({path + ': ' if path else ''}saved {got}, now {wanted})"
