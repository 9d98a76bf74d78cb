"""Loader processes: their batches stay as they were, and of a killed training no process, file or memory stays."""

import itertools
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import assert_same_end, final, spec_of, worker

from distseg.augment.keyed_random import KeyedAugment
from distseg.augment.policies import Augmenter, Pixels
from distseg.config import AugmentConfig
from distseg.data.layouts import read_corpus
from distseg.data.manifest import ShardFolder
from distseg.data.order import EpochPlan
from distseg.data.pack import pack
from distseg.data.stream import Augment, Batch, EvalBatches, TrainBatches, batch_loader, open_named_split
from distseg.data.synthetic.carvana import write_carvana
from distseg.train.loop import run

# three loader processes on two cores
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

READER = """
import sys, time
from distseg.data.manifest import ShardFolder
from distseg.data.order import EpochPlan
from distseg.data.stream import TrainBatches, batch_loader, open_named_split

def augment(image, masks, epoch, key, level):
    return image, masks

if __name__ == "__main__":
    reader = open_named_split(ShardFolder.open(sys.argv[1]), "train")
    plan = EpochPlan(reader.shard_sizes, 4, seed=0, window=8, tail="wrap")
    batches = TrainBatches(reader, plan, size=(64, 64), augment=augment, rank=0, world_size=1)
    for batch in batch_loader(batches, range(10**9), workers=2, prefetch=4, pin=False):
        if batch.step == 20:
            print("reading", flush=True)
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    write_carvana(root / "raw", groups=4, views=4, size=(64, 64))
    pack(read_corpus("carvana", root / "raw"), root / "shards", size=None, samples_per_shard=4)
    return root / "shards"


def test_batches_that_are_kept_stay_as_they_were(shards: Path) -> None:
    """Loader processes write into the same shared memory again and again."""
    reader = open_named_split(ShardFolder.open(shards), "train")
    batches = EvalBatches(reader, batch=2, rank=0, world_size=1)
    items = [*range(len(batches))] * 6
    here = [batches[item] for item in items]
    loader = batch_loader(batches, items, workers=2, prefetch=1, pin=False)
    for _ in range(2):
        kept = list(loader)
        assert len(kept) == len(items) == 36
        for one, other in zip(kept, here, strict=True):
            assert one.keys == other.keys
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.masks, other.masks)
            assert one.images.is_contiguous(memory_format=torch.channels_last)


STEPS = 6  # 12 samples in batches of 5, the last one filled up: 3 steps an epoch, two epochs


def training(
    root: Path, rank: int, ranks: int, workers: int, steps: Sequence[int], augment: Augment | None = None
) -> list[Batch]:
    """Batches whose augmentation level rises from step to step."""
    reader = open_named_split(ShardFolder.open(root), "train", window=2)
    plan = EpochPlan(reader.shard_sizes, 5, seed=3, window=2, tail="wrap")
    augment = augment or KeyedAugment(Augmenter(AugmentConfig(policy="adaptive"), (64, 64)), seed=3)
    batches = TrainBatches(reader, plan, size=(64, 64), augment=augment, rank=rank, world_size=ranks)
    items = [(step, 0.5 + 0.1 * step) for step in steps]
    return list(batch_loader(batches, items, workers=workers, prefetch=1, pin=False))


class OfOnePicture:
    """Augments the same picture for every sample: pixels tell augmentations apart, whatever the samples show."""

    def __init__(self, policy: str) -> None:
        self._augment = KeyedAugment(Augmenter(AugmentConfig(policy=policy), (64, 64)), seed=3)

    def __call__(
        self, image: Pixels, masks: tuple[Pixels, ...], epoch: int, key: str, level: float
    ) -> tuple[Pixels, tuple[Pixels, ...]]:
        picture = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)
        return self._augment(np.dstack([picture, picture.T, picture[::-1]]), masks, epoch, key, level)


@pytest.mark.parametrize("workers", [0, 3])
def test_augmentations_are_distinct_over_workers_and_epochs(shards: Path, workers: int) -> None:
    """Albumentations by itself draws the same stream in each of N processes: only 1 / N of them would differ."""
    batches = training(shards, 0, 1, workers, range(STEPS), OfOnePicture("nine"))
    # 12 samples and 3 that fill up the tail, in each of two epochs; the latter are augmented as before
    seen = {
        (number // 3, key, image.numpy().tobytes())
        for number, batch in enumerate(batches)
        for key, image in zip(batch.keys, batch.images, strict=True)
    }
    assert len(seen) == 24
    assert len({pixels for _, _, pixels in seen}) == 24


def validation(root: Path, rank: int, ranks: int, workers: int) -> list[Batch]:
    reader = open_named_split(ShardFolder.open(root), "val")
    batches = EvalBatches(reader, batch=2, rank=rank, world_size=ranks)
    return list(batch_loader(batches, range(len(batches)), workers=workers, prefetch=1, pin=False))


def by_key(batches: Sequence[Batch]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of each sample, image and mask; a sample that comes twice fails."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for batch in batches:
        for key, image, mask in zip(batch.keys, batch.images, batch.masks, strict=True):
            assert key not in found
            found[key] = image, mask
    return found


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (1, 3), (2, 0), (2, 2)])
def test_ranks_and_loader_processes_change_no_batch(shards: Path, ranks: int, workers: int) -> None:
    """Compared with one rank that computes its batches itself, from the start and from a step in the middle."""
    alone = training(shards, 0, 1, 0, range(STEPS))
    assert [batch.step for batch in alone] == [*range(STEPS)]
    for first in (0, 2):  # step 2 is the last one of epoch 0
        steps = range(first, STEPS)
        shares = [training(shards, rank, ranks, workers, steps) for rank in range(ranks)]
        for wanted, *parts in zip(alone[first:], *shares, strict=True):
            assert {part.step for part in parts} == {wanted.step}
            assert tuple(itertools.chain.from_iterable(part.keys for part in parts)) == wanted.keys
            assert torch.equal(torch.cat([part.images for part in parts]), wanted.images)
            assert torch.equal(torch.cat([part.masks for part in parts]), wanted.masks)
    wanted_validation = by_key(validation(shards, 0, 1, 0))
    got = by_key([batch for rank in range(ranks) for batch in validation(shards, rank, ranks, workers)])
    assert got.keys() == wanted_validation.keys()
    assert len(got) == 4
    for key, (image, mask) in wanted_validation.items():
        assert torch.equal(got[key][0], image)
        assert torch.equal(got[key][1], mask)


def test_an_adaptive_run_does_not_depend_on_how_far_loader_processes_read_ahead(shards: Path, tmp_path: Path) -> None:
    """Windows of two steps; two processes of four batches each would read eight steps ahead, and are held to two."""
    ends = []
    for workers in (0, 2):
        changes = {
            "data.workers": workers,
            "data.prefetch": 4,
            "data.input_size": [32, 32],
            "augment.policy": "adaptive",
            "augment.adaptive.start": 0.5,
            "augment.adaptive.window_images": 6,
            "augment.adaptive.target": 0.98,
            "augment.adaptive.dead_band": 0.0,
            "augment.adaptive.speed": 40.0,
        }
        spec = spec_of(tmp_path / str(workers), shards, changes)
        run(spec, worker())
        ends.append(final(spec))
    assert_same_end(*ends)
    assert ends[0]["course"] == ends[1]["course"]
    assert len({row["augment_level"] for row in ends[0]["history"]}) > 1


def marked(mark: str) -> dict[int, str]:
    """Processes that inherited the mark in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_nothing_stays_of_a_killed_training(shards: Path, tmp_path: Path, delay_s: float) -> None:
    script = tmp_path / "reader.py"
    script.write_text(READER)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    mark = f"mark-{secrets.token_hex(8)}"
    environment = {**os.environ, "DISTSEG_TEST_MARK": mark, "TMPDIR": str(scratch)}
    before = shared_memory()
    command = [sys.executable, "-W", "ignore", str(script), str(shards)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        time.sleep(delay_s)
        assert len(marked(mark)) >= 4  # itself, the fork server, two loader processes
        reader.send_signal(signal.SIGKILL)
        reader.wait()
        deadline = time.monotonic() + 15
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert marked(mark) == {}
    assert list(scratch.iterdir()) == []
    assert {name for name in shared_memory() - before if name.startswith(("torch_", "sem.mp-"))} == set()
