"""Mask R-CNN: a step of our training loop and a detection, against torchvision's own reference loop in the same run.

    python benchmarks/instance.py
    python benchmarks/instance.py --architecture maskrcnn_resnet50_fpn --size 800 --batch 8 --loader-workers 8   # a GPU

Training: the same network from the same seed on the same batches, turn by turn in one process. Ours streams shards,
fits and augments; the reference (the loop of torchvision's references/detection/engine.py, written out) finds its
images and targets in memory and goes through torchvision's own transform. Both begin with the same loss; then roundings
grow, for which proposals are kept hangs on them.
Inference: uint8 image to boxes, labels, scores and masks at its own size by our predictor, and by torchvision's model
with its transform, on the same weights and images.
Prints one JSON line a figure: seconds (CPU time of this process; wall time on a GPU) and the median of the rounds'
ratios with its 95 % interval by the order statistics of the median. The claim is 1.03 at most.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from distseg.augment.keyed_random import key_seed
from distseg.config import RunConfig, with_overrides
from distseg.data.layouts import read_corpus
from distseg.data.manifest import ShardFolder
from distseg.data.pack import pack
from distseg.data.stream import InstanceEvalBatches, InstanceTrainBatch, open_split
from distseg.data.synthetic.scenes import write_scenes
from distseg.models.build import build_instance_model
from distseg.tasks.instance_predictor import InstancePredictor
from distseg.train import loop
from distseg.train.precision import autocast, resolve_precision
from distseg.train.run_folder import RunSpec
from distseg.train.state import TrainState
from distseg.train.step import train_step
from distseg.train.worker import LocalWorker, default_device

CLASSES = 4
BOUND = 1.03
InMemory = tuple[int, list[torch.Tensor], list[dict[str, torch.Tensor]]]
"""Step, images (3, H, W) float32 in [0, 1], targets."""


class Reference:
    """torchvision's ``train_one_epoch`` without its printing: to the device, losses, sum, backward, step."""

    def __init__(self, cfg: RunConfig, size: int, device: torch.device) -> None:
        torch.manual_seed(cfg.seed)
        self.network = build_instance_model(cfg.model, CLASSES).network
        own: Any = self.network.transform
        self.network.transform = GeneralizedRCNNTransform(size, size, own.image_mean, own.image_std)
        self.network = self.network.to(device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), lr=cfg.optim.lr, weight_decay=0.0)
        self._seed = cfg.seed
        self._device = device
        self._precision = resolve_precision(cfg.train.precision, device)

    def in_memory(self, batch: InstanceTrainBatch) -> InMemory:
        targets = [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks} for t in batch.targets]
        return batch.step, [image.float() / 255 for image in batch.images], targets

    def train(self, batches: list[InMemory]) -> list[float]:
        """The loss of each step."""
        found = []
        for step, images, targets in batches:
            torch.manual_seed(key_seed(self._seed, step, "rank 0"))  # the same proposals are sampled as in ours
            images = [image.to(self._device) for image in images]
            targets = [{name: value.to(self._device) for name, value in target.items()} for target in targets]
            with autocast(self._device, self._precision):
                losses: dict[str, torch.Tensor] = self.network(images, targets)
                loss = torch.stack(list(losses.values())).sum()
            found.append(loss.item())  # the reference looks at every loss, to stop at one that is not finite
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return found


class Turns:
    """Stands where the loop calls its step. Ours is timed from an epoch's first step to its last: whole turns of the
    loop, next batch and all, without what happens between epochs. Then it is the reference's turn.
    """

    def __init__(self, reference: Reference, steps_per_epoch: int, device: torch.device) -> None:
        self.pairs: list[tuple[float, float]] = []
        """Seconds of a step, ours and the reference's, an epoch each."""
        self.network: nn.Module | None = None
        self.first_losses: tuple[float, float] | None = None
        self._reference = reference
        self._steps = steps_per_epoch
        self._device = device
        self._batches: list[InstanceTrainBatch] = []
        self._start = 0.0

    def __call__(
        self, trainer: Any, task: Any, state: TrainState, batch: InstanceTrainBatch, *others: Any
    ) -> torch.Tensor:
        self.network = state.network
        self._batches.append(batch)
        if state.step % self._steps == 0:
            self._start = now(self._device)
        over = len(self._batches) == self._steps
        ours = now(self._device) - self._start if over else 0.0
        sums = train_step(trainer, task, state, batch, *others)
        if self.first_losses is None and len(self._batches) == 1:
            self._first = float(sums[0] / sums[1])
        if over:
            *timed, last = [self._reference.in_memory(each) for each in self._batches]
            start = now(self._device)
            losses = self._reference.train(timed)
            self.first_losses = self.first_losses or (self._first, losses[0])
            self.pairs.append((ours / len(timed), (now(self._device) - start) / len(timed)))
            self._reference.train([last])
            self._batches = []
        return sums


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def inference_pairs(
    ours: nn.Module, theirs: nn.Module, images: list[torch.Tensor], size: int, rounds: int, device: torch.device
) -> list[tuple[float, float]]:
    """Seconds an image, ours and torchvision's, a round each; both find the same number of objects."""
    predictor = InstancePredictor(ours, input_size=(size, size)).to(device).eval()
    theirs.eval()
    pairs, found = [], [0, 0]
    with torch.inference_mode():
        for turn in range(rounds + 1):
            start = now(device)
            for image in images:
                found[0] += len(predictor.detect([image.to(device)])[0]["labels"])
            middle = now(device)
            for image in images:
                one = theirs([image.to(device).float() / 255])[0]
                found[1] += len((one["masks"] > 0.5).to(torch.uint8))  # masks, as ours has them
            if turn:  # the first warms up
                pairs.append(((middle - start) / len(images), (now(device) - middle) / len(images)))
    assert found[0] == found[1] > 0, f"ours finds {found[0]} objects, torchvision {found[1]}"
    return pairs


def report(
    figure: str, pairs: list[tuple[float, float]], device: torch.device, options: dict[str, Any], **more: Any
) -> None:
    times = np.array(pairs)
    ratios = np.sort(times[:, 0] / times[:, 1])
    rounds = len(ratios)
    reach = int(np.ceil(0.98 * np.sqrt(rounds)))  # 1.96 * sqrt(rounds) / 2 places on either side of the median
    low, high = ratios[max(0, rounds // 2 - reach)], ratios[min(rounds - 1, rounds // 2 + reach)]
    ours_s, reference_s = np.median(times, axis=0)
    numbers = {"ours_s": ours_s, "reference_s": reference_s, "ratio": np.median(ratios), "low95": low, "high95": high}
    line = {
        "figure": figure,
        **{name: round(float(value), 4) for name, value in numbers.items()},
        "bound": BOUND,
        "held": bool(np.median(ratios) <= BOUND),
        **more,
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        **options,
    }
    print(json.dumps(line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="after one that warms up")
    parser.add_argument("--steps", type=int, default=4, help="a round")
    parser.add_argument("--size", type=int, default=160, help="pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--architecture", default="maskrcnn_resnet10_fpn")
    parser.add_argument("--loader-workers", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    device = default_device(0)
    cfg = with_overrides(
        RunConfig(),
        {
            "task": "instance",
            "data.workers": options.loader_workers,
            "data.tail": "drop",
            "data.input_size": options.size,
            "model.architecture": options.architecture,
            "optim.lr": 1e-3,
            "optim.weight_decay": 0.0,
            "optim.clip_norm": None,
            "schedule.name": "constant",
            "augment.policy": "none",
            "train.epochs": options.rounds + 1,
            "train.batch_global": options.batch,
            "train.precision": options.precision,
            "eval.metric": "mask_ap",
            "eval.every_epochs": options.rounds + 1,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        side = (options.size, options.size)
        write_scenes(Path(folder) / "raw", groups=2, views=options.steps * options.batch, size=side)
        shards = Path(folder) / "shards"
        corpus = read_corpus("coco", Path(folder) / "raw")
        pack(corpus, shards, size=None, val_fraction=0.5)
        torch.set_num_threads(cfg.train.threads)
        reference = Reference(cfg, options.size, device)
        turns = Turns(reference, options.steps, device)
        vars(loop)["train_step"] = turns
        loop.run(RunSpec(cfg, str(shards), Path(folder) / "run", trial_id="run"), LocalWorker(0, 1, device))
        assert turns.network is not None
        assert turns.first_losses is not None
        ours, theirs = turns.first_losses
        assert abs(ours - theirs) < 0.01 * theirs, f"first losses: ours {ours}, torchvision's {theirs}"
        report("instance_train_step", turns.pairs[1:], device, vars(options), first_losses=turns.first_losses)
        reader = open_split(ShardFolder.open(shards), training=False, fold=None)
        images = list(InstanceEvalBatches(reader, batch=4, rank=0, world_size=1)[0].images)
        for network in (turns.network, reference.network):
            network.roi_heads.score_thresh = 0.0  # as many objects as there may be
        pairs = inference_pairs(turns.network, reference.network, images, options.size, options.rounds, device)
        report("instance_inference", pairs, device, vars(options))


if __name__ == "__main__":
    main()
