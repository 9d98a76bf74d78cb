"""A step of our training loop, streaming shards, against a bare torch loop over tensors already in memory.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --size 512 --batch 16 --width 64 --loader-workers 8      # on a GPU

Both train the same network from the same seed on the same batches with as many threads, turn by turn in one process:
each epoch of ours is followed by the bare loop over the batches that ours has just seen, and both end with the same
weights.
Prints one JSON line: seconds of a step (CPU time of this process; wall time on a GPU) and the median of the rounds'
ratios with its 95 % interval by the order statistics of the median. The claim is 1.02 at most.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from distseg.config import RunConfig, with_overrides
from distseg.data.layouts import read_corpus
from distseg.data.pack import pack
from distseg.data.stream import Batch
from distseg.data.synthetic.carvana import write_carvana
from distseg.models.build import build_model
from distseg.train import loop
from distseg.train.precision import autocast, resolve_precision
from distseg.train.run_folder import RunSpec
from distseg.train.state import TrainState
from distseg.train.step import train_step
from distseg.train.worker import LocalWorker, default_device

VIEWS = 16


class Bare:
    """What a user would write: normalised batches in the device's memory, one loss, one optimizer, no more."""

    def __init__(self, cfg: RunConfig, device: torch.device) -> None:
        torch.manual_seed(cfg.seed)
        built = build_model(cfg.model, 1)
        self.network = built.network.to(device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=cfg.optim.lr, weight_decay=0.0)
        self._mean, self._std = (
            torch.tensor(colours, device=device).view(1, 3, 1, 1) for colours in (built.mean, built.std)
        )
        self._device = device
        self._precision = resolve_precision(cfg.train.precision, device)

    def in_memory(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images = (batch.images.to(self._device).float() - 255 * self._mean) / (255 * self._std)
        return images, batch.masks.to(self._device).float().unsqueeze(1)

    def train(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for images, masks in batches:
            with autocast(self._device, self._precision):
                logits = self.network(images)
            loss = F.binary_cross_entropy_with_logits(logits.float(), masks)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)


class Turns:
    """Stands where the loop calls its step. Ours is timed from an epoch's first step to its last: whole turns of the
    loop, next batch and all, without what happens between epochs. Then it is the bare loop's turn.
    """

    def __init__(self, bare: Bare, steps_per_epoch: int, device: torch.device) -> None:
        self.pairs: list[tuple[float, float]] = []
        """Seconds of a step, ours and bare, an epoch each."""
        self.network: nn.Module | None = None
        self.bare = bare
        self._steps = steps_per_epoch
        self._device = device
        self._batches: list[Batch] = []
        self._start = 0.0

    def __call__(self, trainer: Any, task: Any, state: TrainState, batch: Batch, *others: Any) -> torch.Tensor:
        self.network = state.network
        self._batches.append(batch)
        if state.step % self._steps == 0:
            self._start = self._now()
        over = len(self._batches) == self._steps
        ours = self._now() - self._start if over else 0.0
        sums = train_step(trainer, task, state, batch, *others)
        if over:
            *timed, last = [self.bare.in_memory(each) for each in self._batches]
            start = self._now()
            self.bare.train(timed)
            self.pairs.append((ours / len(timed), (self._now() - start) / len(timed)))
            self.bare.train([last])
            self._batches = []
        return sums

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return time.perf_counter()
        return time.process_time()


def make_shards(folder: Path, size: int, samples: int) -> Path:
    """Synthetic cars: at least so many samples to train on."""
    groups = -(-samples // VIEWS) + 1
    write_carvana(folder / "raw", groups=groups, views=VIEWS, size=(size, size))
    pack(read_corpus("carvana", folder / "raw"), folder / "shards", size=(size, size), val_fraction=1 / groups)
    return folder / "shards"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="after one that warms up")
    parser.add_argument("--steps", type=int, default=10, help="a round")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=8, help="of the classic U-Net")
    parser.add_argument("--loader-workers", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    device = default_device(0)
    cfg = with_overrides(
        RunConfig(),
        {
            "data.workers": options.loader_workers,
            "data.tail": "drop",
            "model.width": options.width,
            "loss.name": "bce",
            "optim.weight_decay": 0.0,
            "optim.clip_norm": None,
            "schedule.name": "constant",
            "augment.policy": "none",
            "train.epochs": options.rounds + 1,
            "train.batch_global": options.batch,
            "train.precision": options.precision,
            "eval.every_epochs": options.rounds + 1,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), options.size, options.steps * options.batch)
        torch.set_num_threads(cfg.train.threads)
        samples = VIEWS * (-(-options.steps * options.batch // VIEWS))
        turns = Turns(Bare(cfg, device), samples // options.batch, device)
        vars(loop)["train_step"] = turns
        spec = RunSpec(cfg, str(shards), Path(folder) / "run", trial_id="run")
        loop.run(spec, LocalWorker(0, 1, device))
    assert turns.network is not None
    theirs = dict(turns.bare.network.named_parameters())
    difference = max((value - theirs[name]).abs().max().item() for name, value in turns.network.named_parameters())
    report(turns.pairs[1:], device, difference, vars(options))


def report(pairs: list[tuple[float, float]], device: torch.device, difference: float, options: dict[str, Any]) -> None:
    times = np.array(pairs)
    ratios = np.sort(times[:, 0] / times[:, 1])
    rounds = len(ratios)
    reach = int(np.ceil(0.98 * np.sqrt(rounds)))  # 1.96 * sqrt(rounds) / 2 places on either side of the median
    low, high = ratios[max(0, rounds // 2 - reach)], ratios[min(rounds - 1, rounds // 2 + reach)]
    ours_s, bare_s = np.median(times, axis=0)
    numbers = {"ours_s": ours_s, "bare_s": bare_s, "ratio": np.median(ratios), "low95": low, "high95": high}
    line = {
        "figure": "train_step",
        **{name: round(float(value), 4) for name, value in numbers.items()},
        "bound": 1.02,
        "held": bool(np.median(ratios) <= 1.02),
        "weights_differ_by": difference,
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        **options,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
