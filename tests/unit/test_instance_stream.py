"""Task instance through the same stream: exact epochs, the same on any number of ranks, bad samples replaced."""

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from distseg.data.layouts.base import Corpus, Instance, RawSample
from distseg.data.manifest import ShardFolder
from distseg.data.order import EpochPlan
from distseg.data.pack import pack
from distseg.data.sizes import fitted
from distseg.data.stream import (
    Augment,
    InstanceEvalBatches,
    InstanceTrainBatch,
    InstanceTrainBatches,
    batch_loader,
    open_named_split,
    open_split,
)


class Columns:
    """One object: the first columns of the image, as many as its number (compressed run lengths `0`, then the rest)."""

    def __init__(self, number: int, size: tuple[int, int]) -> None:
        from pycocotools import mask as coco

        width, height = size
        mask = np.zeros((height, width), np.uint8)
        mask[:, :number] = 1
        self.instance = Instance(number % 2, coco.encode(np.asfortranarray(mask))["counts"].decode(), False)

    def read(self) -> tuple[Instance, ...]:
        return (self.instance,)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Nine photographs of nine sizes, two of them to validate on."""
    samples = []
    for number in range(1, 10):
        size = (20 + number, 40 - number)
        cv2.imwrite(str(tmp_path / f"p{number}.jpg"), np.full((size[1], size[0], 3), number * 20, np.uint8))
        samples.append(
            RawSample(f"p{number}", f"g{number}", tmp_path / f"p{number}.jpg", instances=Columns(number, size))
        )
    corpus = Corpus("coco", "instance", ("nut", "bolt"), None, samples)
    pack(corpus, tmp_path / "shards", size=None, samples_per_shard=3)
    return tmp_path / "shards"


def untouched(image: Any, masks: Any, epoch: int, key: str, level: float) -> tuple[Any, Any]:
    return image, masks


def training(
    root: Path, rank: int = 0, ranks: int = 1, size: tuple[int, int] = (60, 60), augment: Augment = untouched
) -> InstanceTrainBatches:
    reader = open_split(ShardFolder.open(root), training=True, fold=None)
    plan = EpochPlan(reader.shard_sizes, 4, seed=0, window=2, tail="wrap")
    return InstanceTrainBatches(reader, plan, size=size, augment=augment, rank=rank, world_size=ranks)


def test_images_are_fitted_with_their_objects(shards: Path) -> None:
    batch = training(shards)[0]
    assert isinstance(batch, InstanceTrainBatch)
    assert len(batch.keys) == len(batch.images) == len(batch.targets) == 4
    for key, image, targets in zip(batch.keys, batch.images, batch.targets, strict=True):
        number = int(key[1:])
        width, height = fitted(20 + number, 40 - number, 60, 60)
        assert max(width, height) == 60
        assert image.shape == (3, height, width)
        assert image.dtype == torch.uint8
        assert abs(int(image.float().mean()) - number * 20) <= 2
        assert targets.masks.shape == (1, height, width)
        assert targets.labels.tolist() == [number % 2]
        left, top, right, bottom = targets.boxes[0].tolist()
        assert (left, top, bottom) == (0, 0, height)
        assert abs(right - number * width / (20 + number)) <= 1
        assert targets.masks.sum() == right * height


def test_an_augmentation_that_leaves_nothing_of_an_object_drops_it(shards: Path) -> None:
    def to_the_right(image: Any, masks: Any, epoch: int, key: str, level: float) -> tuple[Any, Any]:
        return image, tuple(np.zeros_like(mask) for mask in masks)

    batch = training(shards, augment=to_the_right)[0]
    assert [len(targets.labels) for targets in batch.targets] == [0] * 4


def test_measured_as_stored(shards: Path) -> None:
    reader = open_split(ShardFolder.open(shards), training=False, fold=None)
    batch = InstanceEvalBatches(reader, batch=9, rank=0, world_size=1)[0]
    for key, image, instances in zip(batch.keys, batch.images, batch.instances, strict=True):
        size = (20 + int(key[1:]), 40 - int(key[1:]))
        assert image.shape == (3, size[1], size[0])
        assert instances == Columns(int(key[1:]), size).read()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_global_batches_of_one(shards: Path, ranks: int) -> None:
    alone = training(shards)
    shares = [training(shards, rank, ranks) for rank in range(ranks)]
    for step in range(4):
        keys = tuple(key for share in shares for key in share[step].keys)
        assert keys == alone[step].keys


def test_validation_sees_each_once_on_any_ranks(shards: Path) -> None:
    reader = open_named_split(ShardFolder.open(shards), "train")
    for ranks in (1, 2, 3):
        seen: list[str] = []
        for rank in range(ranks):
            batches = InstanceEvalBatches(reader, batch=2, rank=rank, world_size=ranks)
            for batch in batch_loader(batches, range(len(batches)), workers=0, prefetch=1, pin=False):
                seen += batch.keys
        assert sorted(seen) == sorted(reader.place(position)[1].key for position in range(len(reader)))


def test_bad_objects_are_replaced_and_reported(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [key for step in range(2) for key in training(shards)[step].keys]
    folder = ShardFolder.open(shards)
    victim = good[1]
    shard, entry = next((s, e) for s in folder.manifest.shards for e in folder.entries(s) if e.key == victim)
    member = entry.members["json"]
    path = folder.shard_path(shard)
    data = bytearray(path.read_bytes())
    text = bytes(data[member.offset : member.offset + member.length]).replace(b'"label":', b'"lable":')
    data[member.offset : member.offset + member.length] = text
    path.write_bytes(data)
    batch = training(shards)[0]
    assert batch.keys == (good[0], good[2], *good[2:4])
    [bad] = batch.bad
    assert (bad.shard, bad.key, bad.reason) == (shard.name, victim, ".json: bytes differ from those packed (CRC)")
    monkeypatch.setattr("zlib.crc32", lambda part, crc32=zlib.crc32: member.crc32 if part == text else crc32(part))
    [bad] = training(shards)[0].bad
    assert bad.reason == "objects cannot be decoded: want JSON of size and instances"
