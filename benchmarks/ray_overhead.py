"""What Ray Train costs: a step beside torchrun's, and the start of a two-worker run beside a stock TorchTrainer's.

    python benchmarks/ray_overhead.py
    python benchmarks/ray_overhead.py --only step --rounds 11
    python benchmarks/ray_overhead.py --only start --starts 5

Step: two groups of two workers train the same run at the same time, one under torchrun and one under Ray Train, and
take turns epoch by epoch, so both meet the same machine, with the same environment. Timed is the CPU time of both
workers from an epoch's first step to its last; the wall time beside it. The claim is a ratio of 1.02 at most.
Start: in turns, each from a new driver process and with a Ray of its own, a run on two workers as ``distseg train``
launches it, and what a user would write: the same network on the same pictures through torch's DataLoader and
torchvision's transforms, by ``TorchTrainer`` with Ray's defaults. Wall seconds, part by part, to the end of the first
step, and the CPU seconds of all processes by then. The claim is a ratio of the wall time of 0.75 at most.
Prints one JSON line a figure, with the median of the rounds' ratios and its 95 % interval by the order statistics of
the median.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distseg.config import RunConfig, with_overrides
from distseg.data.layouts import read_corpus
from distseg.data.pack import pack
from distseg.data.synthetic.carvana import write_carvana
from distseg.train import loop
from distseg.train.run_folder import RunSpec
from distseg.train.state import TrainState
from distseg.train.step import train_step
from distseg.train.worker import Worker, local_worker

WORKERS = 2
SIDES = ("torchrun", "ray")
POLL_S = 0.005
PARTS = ("ray_s", "workers_s", "ready_s", "first_step_s")
"""Until Ray is up, until the workers' function is called, until its first step, until that is done."""


def spec_of(folder: Path, name: str, epochs: int) -> RunSpec:
    cfg = with_overrides(
        RunConfig(),
        {
            "model.width": 8,
            "augment.policy": "none",
            "train.epochs": epochs,
            "train.batch_global": 8,
            "train.precision": "fp32",
            "eval.every_epochs": epochs,
        },
    )
    return RunSpec(cfg, str(folder / "shards"), folder / "runs" / name, trial_id=name)


def make_shards(folder: Path, size: int, steps: int) -> None:
    """As many samples to train on as make so many steps of eight, and eight to validate."""
    write_carvana(folder / "raw", groups=steps + 1, views=8, size=(size, size))
    pack(read_corpus("carvana", folder / "raw"), folder / "shards", size=(size, size), val_fraction=1 / (steps + 1))


def median_and_interval(ratios: list[float]) -> dict[str, float]:
    ordered = np.sort(ratios)
    count = len(ordered)
    reach = int(np.ceil(0.98 * np.sqrt(count)))  # 1.96 * sqrt(rounds) / 2 places on either side of the median
    low, high = ordered[max(0, count // 2 - reach)], ordered[min(count - 1, count // 2 + reach)]
    found = {"ratio": np.median(ordered), "low95": low, "high95": high}
    return {name: round(float(value), 4) for name, value in found.items()}


# A step


class Turns:
    """Stands where the loop calls its step: waits for its side's turn at an epoch's start, gives it on at its end."""

    def __init__(self, folder: Path, side: str, rank: int, steps_per_epoch: int) -> None:
        self._turn = folder / "turn"
        self._side = side
        self._rank = rank
        self._steps = steps_per_epoch
        self._start = (0.0, 0.0)
        self.times: list[tuple[float, float]] = []
        """CPU and wall seconds of a step, an epoch each."""

    def __call__(self, trainer: Any, task: Any, state: TrainState, *others: Any) -> torch.Tensor:
        rest = state.step % self._steps
        if rest == 0:
            mine = f"{state.step // self._steps} {self._side}"
            while self._turn.read_text() != mine:
                time.sleep(POLL_S)
            self._start = time.process_time(), time.perf_counter()
        if rest == self._steps - 1:
            spent = time.process_time() - self._start[0], time.perf_counter() - self._start[1]
            self.times.append((spent[0] / rest, spent[1] / rest))
        sums = train_step(trainer, task, state, *others)
        if rest == self._steps - 1 and self._rank == 0:
            epoch, other = state.step // self._steps, SIDES[1 - SIDES.index(self._side)]
            aside = self._turn.with_suffix(f".{self._side}")
            aside.write_text(f"{epoch + SIDES.index(self._side)} {other}")  # torchrun begins each epoch
            aside.replace(self._turn)
        return sums


def train_in_turns(spec: RunSpec, worker: Worker, folder: Path, side: str, steps: int) -> None:
    turns = Turns(folder, side, worker.rank, steps)
    vars(loop)["train_step"] = turns
    loop.run(spec, worker)
    (folder / f"{side}-{worker.rank}.json").write_text(json.dumps(turns.times))


def compare_steps(rounds: int, size: int, steps: int) -> None:
    from distseg.on_ray.session import ENVIRONMENT

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder, size, steps)
        (folder / "turn").write_text(f"0 {SIDES[0]}")
        words = ["--side", "torchrun", "--folder", name, "--rounds", str(rounds), "--steps", str(steps)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
        # without what our Ray sets for its workers, the allocator's gain would hide Ray's cost
        process = subprocess.Popen([*torchrun, __file__, *words], stdout=sys.stderr, env=os.environ | ENVIRONMENT)
        try:
            fit_on_ray(
                spec_of(folder, "ray", rounds + 1),
                folder,
                lambda spec, worker: train_in_turns(spec, worker, folder, "ray", steps),
            )
            if process.wait() != 0:
                raise SystemExit(f"torchrun ended with {process.returncode}")
        finally:
            process.kill()
        # (side, rank, round, CPU or wall); the first round warms up
        times = np.array(
            [[json.loads((folder / f"{side}-{rank}.json").read_text()) for rank in range(WORKERS)] for side in SIDES]
        )[:, :, 1:]
    cpu_s, wall_s = times[..., 0].sum(axis=1), times[..., 1].max(axis=1)
    for figure, (without, with_ray), bound in (("ray_step_cpu", cpu_s, 1.02), ("ray_step_wall", wall_s, None)):
        found = median_and_interval(list(with_ray / without))
        line = {
            "figure": figure,
            "torchrun_s": round(float(np.median(without)), 5),
            "ray_s": round(float(np.median(with_ray)), 5),
            **found,
            **({} if bound is None else {"bound": bound, "held": found["ratio"] <= bound}),
            "rounds": rounds,
            "steps": steps,
            "size": size,
            "workers": WORKERS,
        }
        print(json.dumps(line), flush=True)


def fit_on_ray(spec: RunSpec, folder: Path, train: Callable[[RunSpec, Worker], None]) -> None:
    """Our own way to Ray Train, with another function in its workers."""
    from distseg.on_ray import train as on_ray
    from distseg.on_ray.session import session

    on_ray._train_worker = lambda spec: train(spec, on_ray.TrainWorker())
    with session(cpus=WORKERS, one_run=True) as own:
        on_ray.fit(spec, storage=folder / "ray", workers=WORKERS, cpus_per_worker=1, gpus_per_worker=0, own_ray=own)


# A start


def cpu_seconds(folder: Path) -> float:
    """Used so far by the driver and all that it started."""
    processes: dict[int, tuple[int, int]] = {}  # of all on this machine, the parent and clock ticks used
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        processes[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {int((folder / "driver.pid").read_text())}
    while below := {pid for pid, (parent, _) in processes.items() if parent in ours} - ours:
        ours |= below
    return sum(processes[pid][1] for pid in ours) / os.sysconf("SC_CLK_TCK")


def mark_and_train(spec: RunSpec, worker: Worker, folder: Path) -> None:
    """Rank 0 writes down when it was called, when its first step began, and when that was over."""
    marks = [time.time()]

    def marked(*given: Any) -> torch.Tensor:
        begun = time.time()
        sums = train_step(*given)
        if len(marks) == 1:
            marks.extend([begun, time.time(), cpu_seconds(folder)])
        return sums

    vars(loop)["train_step"] = marked
    loop.run(spec, worker)
    if worker.rank == 0:
        (folder / "marks.json").write_text(json.dumps(marks))


def start_ours(folder: Path) -> list[float]:
    begun = time.time()
    from distseg.on_ray import train as on_ray
    from distseg.on_ray.session import session

    on_ray._train_worker = lambda spec: mark_and_train(spec, on_ray.TrainWorker(), folder)
    with session(cpus=WORKERS, one_run=True) as own:
        up = time.time()
        spec = spec_of(folder, "run", 1)
        on_ray.fit(spec, storage=folder / "ray", workers=WORKERS, cpus_per_worker=1, gpus_per_worker=0, own_ray=own)
    return [begun, up]


def start_stock(folder: Path) -> list[float]:
    begun = time.time()
    import ray
    import ray.train.torch

    ray.init(address="local", num_cpus=WORKERS, log_to_driver=False)
    up = time.time()
    ray.train.torch.TorchTrainer(
        plain_worker,
        train_loop_config={"folder": str(folder)},
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS),
        run_config=ray.train.RunConfig(storage_path=str(folder / "ray")),
    ).fit()
    ray.shutdown()
    return [begun, up]


def plain_worker(config: dict[str, Any]) -> None:
    """One epoch as Ray's own examples write it, without anything of ours but the network's layers."""
    marks = [time.time()]
    import ray.train
    import ray.train.torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from distseg.models.unet import ClassicUNet

    folder = Path(config["folder"])

    class Cars(Dataset[tuple[torch.Tensor, torch.Tensor]]):
        def __init__(self) -> None:
            self.pictures = sorted((folder / "raw/train").glob("*.jpg"))[:16]
            steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
            self.transform = v2.Compose([*steps, v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

        def __len__(self) -> int:
            return len(self.pictures)

        def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
            picture = self.pictures[number]
            mask = np.array(Image.open(folder / f"raw/train_masks/{picture.stem}_mask.gif").convert("L")) > 0
            return self.transform(Image.open(picture).convert("RGB")), torch.from_numpy(mask).float().unsqueeze(0)

    loader = ray.train.torch.prepare_data_loader(DataLoader(Cars(), batch_size=8 // WORKERS, shuffle=True))
    network = ray.train.torch.prepare_model(ClassicUNet(1, 8))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for images, masks in loader:
        if len(marks) == 1:
            marks.append(time.time())
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(images), masks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if len(marks) == 2:
            marks.extend([time.time(), cpu_seconds(folder)])
    ray.train.report({"loss": loss.item()})
    if ray.train.get_context().get_world_rank() == 0:
        (folder / "marks.json").write_text(json.dumps(marks))


def one_start(side: str, folder: Path) -> None:
    """Prints the parts of one start, in seconds; the imports of the driver belong to the first."""
    (folder / "driver.pid").write_text(str(os.getpid()))
    moments = (start_ours if side == "ours" else start_stock)(folder)
    *marks, cpu_s = json.loads((folder / "marks.json").read_text())
    print(json.dumps(dict(zip(PARTS, np.diff(moments + marks).tolist(), strict=True)) | {"cpu_s": cpu_s}))


def compare_starts(starts: int, size: int) -> None:
    parts: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
    with tempfile.TemporaryDirectory() as name:
        make_shards(Path(name), size, steps=2)
        for number in range(starts):
            for side in ("ours", "stock") if number % 2 else ("stock", "ours"):
                folder = Path(name) / f"{side}-{number}"
                folder.mkdir()
                for part in ("raw", "shards"):
                    (folder / part).symlink_to(Path(name) / part)
                words = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
                done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                parts[side].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{side}: {parts[side][-1]}", file=sys.stderr)
    totals = {side: np.array([sum(each[part] for part in PARTS) for each in found]) for side, found in parts.items()}
    cpu = {side: np.array([each["cpu_s"] for each in found]) for side, found in parts.items()}
    found = median_and_interval(list(totals["ours"] / totals["stock"]))
    line: dict[str, Any] = {"figure": "ray_start"}
    for side, each in parts.items():
        line[side] = {part: round(float(np.median([one[part] for one in each])), 2) for part in PARTS}
        line[side] |= {
            "total_s": round(float(np.median(totals[side])), 2),
            "cpu_s": round(float(np.median(cpu[side])), 2),
        }
    line["cpu_ratio"] = round(float(np.median(cpu["ours"] / cpu["stock"])), 4)
    line |= {**found, "bound": 0.75, "held": found["ratio"] <= 0.75, "starts": starts, "workers": WORKERS}
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("step", "start"))
    parser.add_argument("--rounds", type=int, default=21, help="of steps, after one that warms up")
    parser.add_argument("--steps", type=int, default=10, help="a round")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--starts", type=int, default=3, help="of each side")
    parser.add_argument("--side", choices=(*SIDES, "ours", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # nothing of this machine's own Ray; `make bench` says the same
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    if options.side in ("ours", "stock"):
        one_start(options.side, options.folder)
    elif options.side:
        with local_worker() as worker:
            spec = spec_of(options.folder, "torchrun", options.rounds + 1)
            train_in_turns(spec, worker, options.folder, "torchrun", options.steps)
    else:
        if options.only != "start":
            compare_steps(options.rounds, options.size, options.steps)
        if options.only != "step":
            compare_starts(options.starts, options.size)


if __name__ == "__main__":
    main()
