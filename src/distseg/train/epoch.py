"""From what single ranks gathered to what all of them know: sums over ranks, the epoch's row, when to stop."""

import itertools
import math
import time

import torch

from distseg.config import RunConfig
from distseg.data.manifest import BadSample
from distseg.data.order import EpochPlan
from distseg.errors import TrainingError
from distseg.records import Score
from distseg.train.levels import add_errors
from distseg.train.state import TrainState
from distseg.train.telemetry import GpuMeter
from distseg.train.worker import Worker, gather_objects, reduce_sum


class Since:
    """What this rank gathered since the ranks last added up."""

    def __init__(self, worker: Worker, meter: GpuMeter, gpus: float, loss_names: tuple[str, ...]) -> None:
        """``gpus``: what this rank holds of its GPU, where it has one; ``loss_names``: as `Task.loss_names`."""
        self.loss_names = loss_names
        self.device = worker.device
        self.meter = meter
        self.gpus = gpus if worker.device.type == "cuda" else 0.0
        self.start()

    def start(self) -> None:
        """Begins anew."""
        self.losses = torch.zeros(2 + len(self.loss_names), dtype=torch.float64, device=self.device)
        """Sum over images, images, and sums over images of the parts of the loss."""
        self.error_units = torch.zeros((), dtype=torch.float64, device=self.device)
        """Sum over images of what the augmentation level follows."""
        self.bad: list[BadSample] = []
        self.wall = time.perf_counter()
        self.cpu = time.process_time()
        self.energy_wh = self.meter.energy_wh()

    def add(self, sums: torch.Tensor) -> None:
        """What ``train_step`` returns."""
        self.losses += sums[:-1]
        self.error_units += sums[-1]


def take_in(since: Since, state: TrainState, cfg: RunConfig, samples: int) -> None:
    """Adds up over ranks what they gathered, and fails on all of them together when the run cannot go on."""
    seconds = time.perf_counter() - since.wall
    energy_of_part = (since.meter.energy_wh() - since.energy_wh) * min(1.0, since.gpus)  # it computes on one at most
    spent = [time.process_time() - since.cpu, seconds * since.gpus, energy_of_part]
    own = torch.cat(
        [since.losses, since.error_units[None], torch.tensor(spent, dtype=torch.float64, device=since.device)]
    )
    loss_sum, images, *parts, units, cpu_seconds, gpu_seconds, energy_wh = reduce_sum(own).tolist()
    if not math.isfinite(loss_sum):
        raise TrainingError(
            f"loss is {loss_sum} by step {state.step}; the last checkpoint is from before; "
            f"lower optim.lr (now {cfg.optim.lr}) or set train.precision=fp32"
        )
    state.loss_sum += loss_sum
    state.loss_images += int(images)
    for name, value in zip(since.loss_names, parts, strict=True):
        state.loss_parts[name] = state.loss_parts.get(name, 0.0) + value
    add_errors(state, units)
    state.cpu_seconds += cpu_seconds
    state.gpu_seconds += gpu_seconds
    state.energy_wh += energy_wh
    state.seconds += seconds
    for sample in itertools.chain.from_iterable(gather_objects(since.bad)):
        state.bad.setdefault(sample.key, sample)
    if len(state.bad) > cfg.data.bad_fraction_max * samples:
        first = next(iter(state.bad.values()))
        raise TrainingError(
            f"{len(state.bad)} of {samples} samples cannot be used, more than data.bad_fraction_max="
            f"{cfg.data.bad_fraction_max}; first: shard {first.shard}, sample {first.key}: {first.reason}; "
            "look at all of them with 'distseg data verify'"
        )
    since.start()


def close_epoch(state: TrainState, cfg: RunConfig, plan: EpochPlan, score: Score | None, world_size: int) -> bool:
    """Adds the epoch's row to the history; True when it is the best so far. ``score``: None when not validated."""
    seconds = state.seconds - (state.history[-1]["seconds"] if state.history else 0.0)
    row = {
        "epoch": state.step // plan.steps,
        "step": state.step,
        "images_seen": state.step * plan.batch_global,
        "surplus": plan.surplus,  # samples seen twice in this epoch, or left out of it (negative)
        "loss": state.loss_sum / state.loss_images,
        "losses": {name: value / state.loss_images for name, value in state.loss_parts.items()},
        "lr": state.optimizer.param_groups[0]["lr"],
        "metrics": score.metrics if score else {},
        "intervals": score.intervals if score else {},
        "score": score.metrics[cfg.eval.metric] if score else None,
        "samples": score.samples if score else 0,
        "seconds": state.seconds,
        "images_per_s": state.loss_images / seconds,
        "bad_samples": len(state.bad),
        "world_size": world_size,
        "augment_level": None if state.course is None else state.course.level,  # in force when the epoch ended
        "augment_windows": state.windows,
    }
    state.history.append(row)
    state.windows = []
    state.loss_sum, state.loss_images, state.loss_parts = 0.0, 0, {}
    best = state.best(cfg.eval.mode)
    patience = cfg.train.patience_epochs
    if patience is not None and score is not None and best is not None:  # an epoch that was not validated tells nothing
        state.stopped_early = row["epoch"] < cfg.train.epochs and row["epoch"] - best["epoch"] >= patience
    return best is row


def validation_due(cfg: RunConfig, epoch: int) -> bool:
    """Whether this epoch (1-based) is validated: every so many, and the last."""
    return epoch % cfg.eval.every_epochs == 0 or epoch == cfg.train.epochs
