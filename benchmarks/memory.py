"""Whether a training run's memory is flat: resident memory of the process and its loaders after each of 20 epochs.

    python benchmarks/memory.py
    python benchmarks/memory.py --epochs 40 --loader-workers 2

The run trains, validates, draws a panel, writes TensorBoard and checkpoints in every epoch. Prints one JSON line: MiB
after each epoch (of the GPU too, where there is one), and how much the median of the last five is above that of epochs
6 to 10. The claim is 2 % at most.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from train_step import make_shards

from distseg.config import RunConfig, with_overrides
from distseg.train import loop
from distseg.train.run_folder import RunSpec
from distseg.train.worker import LocalWorker, default_device

MIB = 2**20


class Weighed(LocalWorker):
    """Notes what is held after every epoch."""

    def __init__(self) -> None:
        super().__init__(0, 1, default_device(0))
        self.resident: list[float] = []
        self.on_gpu: list[float] = []

    def report(self, epoch: dict[str, Any]) -> None:
        self.resident.append(sum(map(resident_bytes, [os.getpid(), *children()])) / MIB)
        if self.device.type == "cuda":
            self.on_gpu.append(torch.cuda.memory_reserved(self.device) / MIB)


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def resident_bytes(pid: int) -> int:
    """Of one process, without the pages that it shares with others."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--samples", type=int, default=64, help="to train on")
    parser.add_argument("--loader-workers", type=int, default=1)
    options = parser.parse_args()
    changes = {
        "data.workers": options.loader_workers,
        "model.width": 8,
        "train.epochs": options.epochs,
        "train.batch_global": 8,
        "train.ema_decay": 0.99,
        "eval.panels_every_epochs": 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), options.size, options.samples)
        worker = Weighed()
        cfg = with_overrides(RunConfig(), changes)
        loop.run(RunSpec(cfg, str(shards), Path(folder) / "run", trial_id="run"), worker)
    growth = statistics.median(worker.resident[-5:]) / statistics.median(worker.resident[5:10])
    line = {
        "figure": "memory_mib",
        "resident": [round(value) for value in worker.resident],
        "on_gpu": [round(value) for value in worker.on_gpu],
        "growth": round(growth, 4),
        "bound": 1.02,
        "held": growth <= 1.02,
        "torch": torch.__version__,
        **vars(options),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
