"""The whole state of a training run as one value, and its way to disk and back.

Random numbers need no place in it: each step seeds torch's generators from (seed, step, rank), and each sample's
augmentation from (seed, epoch, key), so the cursor alone decides them, with the level that ``course`` has for the step.
The schedule is a function of the step.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from distseg.augment import adaptive
from distseg.augment.adaptive import Course
from distseg.config import OptimConfig, RunConfig
from distseg.data.manifest import BadSample, Manifest
from distseg.errors import HomeError
from distseg.train.ema import Ema


@dataclass
class TrainState:
    """Everything that changes while a run trains."""

    network: nn.Module
    ema: Ema | None
    """The moving average of the network's weights, where one is kept."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Disabled (and without state) unless the run computes in fp16."""
    step: int = 0
    """The cursor: global batches consumed, over all epochs."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch; ``epochs.jsonl`` is written from it."""
    bad: dict[str, BadSample] = field(default_factory=dict)
    """Samples met so far that could not be used, by key, over all ranks."""
    loss_sum: float = 0.0
    loss_images: int = 0
    """Training loss of the epoch so far, summed over images and ranks, and those images."""
    loss_parts: dict[str, float] = field(default_factory=dict)
    """The same of the parts of the loss, where the task names some."""
    seconds: float = 0.0
    """Wall time of training so far."""
    cpu_seconds: float = 0.0
    """CPU time over all ranks."""
    gpu_seconds: float = 0.0
    """Wall time times GPUs held, over all ranks."""
    energy_wh: float = 0.0
    """Of the GPUs, or of the parts of them that are held, over all ranks."""
    stopped_early: bool = False
    course: Course | None = None
    """The augmentation level's, with policy ``adaptive``."""
    windows: list[tuple[int, float, float | None]] = field(default_factory=list)
    """(first step, level, signal) of the level's windows that began since the last row of the history."""
    gpu_memory_used_bytes: int = 0
    """Most memory in use on rank 0's GPU since this process began, by all that share it."""

    @classmethod
    def create(cls, cfg: RunConfig, network: nn.Module, device: torch.device, precision: str) -> "TrainState":
        """A fresh state around a network that is on its device already."""
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        ema = None if cfg.train.ema_decay is None else Ema(network, cfg.train.ema_decay)
        course = adaptive.start(cfg.augment.adaptive) if cfg.augment.policy == "adaptive" else None
        return cls(
            network=network, ema=ema, optimizer=build_optimizer(cfg.optim, network), scaler=scaler, course=course
        )

    def best(self, mode: str) -> dict[str, Any] | None:
        """The row of the best validated epoch, the first of equals; None before there is one. NaN is no score."""
        rows = [row for row in self.history if row["score"] is not None and math.isfinite(row["score"])]
        if not rows:
            return None
        sign = 1 if mode == "max" else -1
        return max(rows, key=lambda row: sign * row["score"])

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and exported."""
        return self.network if self.ema is None else self.ema.network

    def to_tree(self, cfg: RunConfig, manifest: Manifest) -> dict[str, Any]:
        """The state as tensors and plain values, with what it belongs to."""
        return {
            **identity(cfg, manifest),
            "network": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "history": self.history,
            "bad": [sample.model_dump() for sample in self.bad.values()],
            "loss_sum": self.loss_sum,
            "loss_images": self.loss_images,
            "loss_parts": self.loss_parts,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "gpu_seconds": self.gpu_seconds,
            "energy_wh": self.energy_wh,
            "stopped_early": self.stopped_early,
            "course": None if self.course is None else asdict(self.course),
            "windows": self.windows,
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
        if self.ema is not None:
            self.ema.network.load_state_dict(tree["ema"])
        self.optimizer.load_state_dict(tree["optimizer"])
        self.scaler.load_state_dict(tree["scaler"])
        self.step = tree["step"]
        self.history = tree["history"]
        self.bad = {sample["key"]: BadSample.model_validate(sample) for sample in tree["bad"]}
        self.loss_sum, self.loss_images = tree["loss_sum"], tree["loss_images"]
        self.loss_parts = tree["loss_parts"]
        self.seconds, self.cpu_seconds, self.gpu_seconds = tree["seconds"], tree["cpu_seconds"], tree["gpu_seconds"]
        self.energy_wh = tree["energy_wh"]
        self.stopped_early = tree["stopped_early"]
        self.course = None if tree["course"] is None else Course(**tree["course"])
        self.windows = tree["windows"]


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
