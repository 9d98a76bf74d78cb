"""Shards to batches: one global order with exact pixels, resuming by seeking, and samples that cannot be used."""

import errno
import hashlib
import itertools
import json
import os
import pickle
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from distseg.augment.keyed_random import KeyedAugment
from distseg.augment.policies import Augmenter
from distseg.config import AugmentConfig
from distseg.data.codec import encode_mask
from distseg.data.layouts import carvana
from distseg.data.layouts.base import Corpus, Labels, RawSample
from distseg.data.manifest import MANIFEST_FILE, BadSample, Member, SampleEntry, ShardFolder, index_path
from distseg.data.order import EpochPlan
from distseg.data.pack import pack
from distseg.data.stream import (
    Batch,
    EvalBatches,
    ShardReader,
    TrainBatches,
    batch_loader,
    open_named_split,
    open_split,
)
from distseg.data.synthetic.carvana import write_carvana
from distseg.errors import BadSampleError, DataError
from distseg.tasks.scoring import measure

SIZE = WIDTH, HEIGHT = 64, 64
CARS, VIEWS, PER_SHARD = 4, 5, 4


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cars x five views: 15 training samples in shards of 4, 4, 4, 3; 5 of validation in shards of 4 and 1."""
    root = tmp_path_factory.mktemp("stream")
    write_carvana(root / "raw", groups=CARS, views=VIEWS, size=SIZE)
    pack(
        carvana.read(root / "raw"),
        root / "shards",
        size=SIZE,
        val_fraction=0.25,
        folds=3,
        samples_per_shard=PER_SHARD,
    )
    return root / "shards"


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    """The shards once more, to be damaged."""
    return Path(shutil.copytree(shards, tmp_path / "shards"))


class LabelMap:
    """Eleven classes in upright bands, with a corner of void (255)."""

    def read(self) -> Labels:
        bands = (np.arange(WIDTH) * 11 // WIDTH).astype(np.uint8)
        labels = np.tile(bands, (HEIGHT, 1))
        labels[:8, :8] = 255
        return labels


@pytest.fixture(scope="session")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples of eleven classes and an ignore label."""
    root = tmp_path_factory.mktemp("many")
    samples = []
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(root / f"frame{number}.png"), image)
        samples.append(RawSample(f"frame{number}", f"drive{number // 2}", root / f"frame{number}.png", LabelMap()))
    corpus = Corpus("folders", "multiclass", tuple(f"class {label}" for label in range(11)), 255, samples)
    pack(corpus, root / "shards", size=None, val_fraction=0.4)
    return root / "shards"


def plan_of(reader: ShardReader, **changes: object) -> EpochPlan:
    fields: dict = {"batch_global": 6, "seed": 3, "window": 2, "tail": "wrap"} | changes
    return EpochPlan(reader.shard_sizes, **fields)


def training(root: Path, policy: str = "all", *, rank: int = 0, ranks: int = 1, **changes: object) -> TrainBatches:
    reader = open_split(ShardFolder.open(root), training=True, fold=None, window=2)
    augment = KeyedAugment(Augmenter(AugmentConfig(policy=policy), SIZE), seed=3)
    return TrainBatches(reader, plan_of(reader, **changes), size=SIZE, augment=augment, rank=rank, world_size=ranks)


def validation(root: Path, *, rank: int = 0, ranks: int = 1, batch: int = 2) -> list[Batch]:
    reader = open_split(ShardFolder.open(root), training=False, fold=None)
    batches = EvalBatches(reader, batch=batch, rank=rank, world_size=ranks)
    return list(batch_loader(batches, range(len(batches)), workers=0, prefetch=2, pin=False))


def joined(parts: Sequence[Batch]) -> tuple[tuple[str, ...], torch.Tensor, torch.Tensor]:
    """The ranks' shares of one global batch side by side."""
    keys = tuple(itertools.chain.from_iterable(part.keys for part in parts))
    return keys, torch.cat([part.images for part in parts]), torch.cat([part.masks for part in parts])


def assert_same(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    (keys, images, masks), (other_keys, other_images, other_masks) = joined(one), joined(other)
    assert keys == other_keys
    assert torch.equal(images, other_images)
    assert torch.equal(masks, other_masks)


def keys_of(root: Path, split: str) -> list[str]:
    folder = ShardFolder.open(root)
    return [e.key for shard in folder.manifest.shards if shard.split == split for e in folder.entries(shard)]


# The order and the pixels


def test_the_fixture_is_what_the_tests_count_on(shards: Path) -> None:
    assert open_named_split(ShardFolder.open(shards), "train").shard_sizes == (4, 4, 4, 3)
    assert open_named_split(ShardFolder.open(shards), "val").shard_sizes == (4, 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_ranks_share_the_global_batches_of_one(shards: Path, ranks: int) -> None:
    alone = training(shards)
    shares = [training(shards, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in (0, 1, 2, 4):  # steps 0 to 2 are epoch 0, its tail included; 4 is in epoch 1
        assert_same([alone[step]], [share[step] for share in shares])
        assert [len(share[step].keys) for share in shares] == [len(share[0].keys) for share in shares]


def test_loader_processes_change_nothing(shards: Path) -> None:
    """The second of two ranks with two loader processes (five seconds each to start, so no more of them here)."""
    steps = range(1, 6)
    here = training(shards, rank=1, ranks=2)
    loader = batch_loader(training(shards, rank=1, ranks=2), steps, workers=2, prefetch=2, pin=False)
    for step, batch in zip(steps, loader, strict=True):
        assert batch.step == step
        assert_same([here[step]], [batch])
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tail", ["wrap", "drop"])
def test_an_epoch_holds_each_training_sample_once_but_for_the_stated_tail(shards: Path, tail: str) -> None:
    batches = training(shards, "none", tail=tail)
    wanted = sorted(keys_of(shards, "train"))
    for epoch in range(2):
        steps = 3 if tail == "wrap" else 2  # 15 samples in batches of 6: 2 whole ones and 3 samples
        seen = [key for step in range(epoch * steps, (epoch + 1) * steps) for key in batches[step].keys]
        if tail == "wrap":
            assert sorted(seen[:15]) == wanted
            assert seen[15:] == seen[:3]
        else:
            assert len(set(seen)) == len(seen) == 12
            assert set(seen) < set(wanted)


def test_epochs_differ_in_order_and_pixels(shards: Path) -> None:
    batches = training(shards)
    one, other = joined([batches[step] for step in range(3)]), joined([batches[step] for step in range(3, 6)])
    assert one[0] != other[0]
    pixels = [dict(zip(keys[:15], images[:15].numpy(), strict=True)) for keys, images, _ in (one, other)]
    same = [key for key in pixels[0] if np.array_equal(pixels[0][key], pixels[1][key])]
    assert len(same) <= 3  # untouched in both epochs by chance: (1/2)^4 of those squared


def test_resuming_is_starting_at_another_step(shards: Path) -> None:
    def run(first: int) -> list[Batch]:
        return list(batch_loader(training(shards), range(first, 7), workers=0, prefetch=2, pin=False))

    whole = run(0)
    for first in range(1, 7):
        for batch, again in zip(whole[first:], run(first), strict=True):
            assert batch.step == again.step
            assert_same([batch], [again])


def test_a_training_batch_is_what_was_packed(shards: Path) -> None:
    folder = ShardFolder.open(shards)
    reader = open_named_split(folder, "train")
    stored = {reader.place(number)[1].key: reader.read(number) for number in range(len(reader))}
    batch = training(shards, "none")[0]
    assert batch.images.shape == (6, 3, HEIGHT, WIDTH)
    assert batch.masks.shape == (6, HEIGHT, WIDTH)
    assert batch.images.dtype == batch.masks.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for number, key in enumerate(batch.keys):
        np.testing.assert_array_equal(batch.images[number].permute(1, 2, 0).numpy(), stored[key].image)
        np.testing.assert_array_equal(batch.masks[number].numpy(), stored[key].mask)
        assert batch.groups[number] == stored[key].entry.group
        assert key.startswith(batch.groups[number])


def test_another_input_size_resizes_before_augmenting(shards: Path) -> None:
    reader = open_split(ShardFolder.open(shards), training=True, fold=None)
    size = (48, 32)
    batches = TrainBatches(
        reader,
        plan_of(reader),
        size=size,
        augment=KeyedAugment(Augmenter(AugmentConfig(policy="all"), size), 0),
        rank=0,
        world_size=1,
    )
    assert batches[0].images.shape == (6, 3, 32, 48)
    assert batches[0].masks.shape == (6, 32, 48)
    assert set(batches[0].masks.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("window", [1, 2])
def test_a_reader_keeps_no_more_files_open_than_it_reads_in_turns(shards: Path, window: int) -> None:
    reader = open_named_split(ShardFolder.open(shards), "train", window)
    before = len(os.listdir("/proc/self/fd"))
    for position in (0, 4, 8, 12):  # the first sample of each of the four shards
        reader.read(position)
    assert len(os.listdir("/proc/self/fd")) == before + window + 1


# Validation


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_validation_sees_each_sample_once(shards: Path, ranks: int) -> None:
    batches = [batch for rank in range(ranks) for batch in validation(shards, rank=rank, ranks=ranks)]
    assert sorted(key for batch in batches for key in batch.keys) == sorted(keys_of(shards, "val"))
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_validation_groups_samples_of_one_stored_size(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    (folder / "train").mkdir(parents=True)
    (folder / "train_masks").mkdir()
    for number in range(8):
        height, width = (32, 40) if number % 3 else (24, 16)
        cv2.imwrite(str(folder / "train" / f"c{number // 2}_{number:02d}.jpg"), np.zeros((height, width, 3), np.uint8))
        mask = np.zeros((height, width), np.uint8)
        mask[:3] = 255
        cv2.imwrite(str(folder / "train_masks" / f"c{number // 2}_{number:02d}_mask.png"), mask)
    pack(carvana.read(folder), tmp_path / "shards", size=None, val_fraction=0.7)
    batches = validation(tmp_path / "shards", batch=3)
    assert sorted(key for batch in batches for key in batch.keys) == sorted(keys_of(tmp_path / "shards", "val"))
    assert len({tuple(batch.images.shape[2:]) for batch in batches}) == 2
    assert all(batch.masks.shape == (len(batch.keys), *batch.images.shape[2:]) for batch in batches)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_a_fold_takes_the_place_of_the_split(shards: Path, fold: int) -> None:
    folder = ShardFolder.open(shards)
    sides = []
    for is_training in (True, False):
        reader = open_split(folder, training=is_training, fold=fold)
        sides.append([reader.place(number)[1] for number in range(len(reader))])
    inside, outside = sides
    assert {entry.fold for entry in outside} == {fold}
    assert fold not in {entry.fold for entry in inside}
    everything = sorted(keys_of(shards, "train") + keys_of(shards, "val"))
    assert sorted(entry.key for entry in inside + outside) == everything
    assert {entry.group for entry in inside}.isdisjoint(entry.group for entry in outside)


def test_a_fold_that_was_not_packed_is_refused(shards: Path) -> None:
    with pytest.raises(DataError, match=r"data\.fold=3: .* has folds 0\.\.2; pack with '--folds K'"):
        open_split(ShardFolder.open(shards), training=True, fold=3)


def test_a_split_without_samples_is_refused(shards: Path) -> None:
    with pytest.raises(DataError, match="no sample in split 'test'"):
        open_named_split(ShardFolder.open(shards), "test")


def test_labels_of_many_classes_and_the_ignore_label_come_through(many_classes: Path) -> None:
    batches = validation(many_classes)
    for batch in batches:
        for mask in batch.masks:
            np.testing.assert_array_equal(mask.numpy(), LabelMap().read())
    assert sum(len(batch.keys) for batch in batches) == len(keys_of(many_classes, "val"))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_score_is_the_same_for_any_number_of_ranks(shards: Path, ranks: int) -> None:
    """Everything called car: per image Dice is 2 p / (1 + p) and IoU p, where p is the car's part of the picture."""
    manifest = ShardFolder.open(shards).manifest
    sent: list[torch.Tensor] = []

    def reduce(part: torch.Tensor) -> torch.Tensor:  # on the last rank, the sum over all
        sent.append(part.clone())
        return torch.stack(sent).sum(dim=0)

    for rank in range(ranks):
        score, bad = measure(
            lambda images: torch.ones_like(images[:, 0]),
            validation(shards, rank=rank, ranks=ranks),
            manifest,
            torch.device("cpu"),
            reduce,
        )
    reader = open_named_split(ShardFolder.open(shards), "val")
    parts = np.array([reader.read(number).mask.mean() for number in range(len(reader))])
    assert score.metrics["dice_mean_per_image"] == pytest.approx(np.mean(2 * parts / (1 + parts)))
    assert score.metrics["iou_mean_per_image"] == pytest.approx(np.mean(parts))
    assert score.metrics["pixel_accuracy"] == pytest.approx(np.mean(parts))
    assert (score.samples, score.resolution, bad) == (5, SIZE, [])
    assert {group: row["images"] for group, row in score.groups.items()} == {
        group: place.samples["val"] for group, place in manifest.groups.items() if "val" in place.samples
    }


# Samples that cannot be used


def rewrite_entry(root: Path, key: str, change: Callable[[SampleEntry], SampleEntry]) -> None:
    """Changes a line of an index and, in the manifest, what is said of that index."""
    folder = ShardFolder.open(root)
    for shard in folder.manifest.shards:
        entries = folder.entries(shard)
        if key in {entry.key for entry in entries}:
            path = index_path(folder.shard_path(shard))
            path.write_text("".join((change(e) if e.key == key else e).model_dump_json() + "\n" for e in entries))
            tree = json.loads((root / MANIFEST_FILE).read_text())
            for row in tree["shards"]:
                if row["name"] == shard.name:
                    row["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
                    row["bytes"] = folder.shard_path(shard).stat().st_size
            (root / MANIFEST_FILE).write_text(json.dumps(tree))


def replace_member(root: Path, key: str, ending: str, data: bytes) -> None:
    """Other bytes with the right CRC, appended to the tar: the index points there."""
    tar = tar_of(root, key)
    offset = tar.stat().st_size
    with open(tar, "ab") as file:
        file.write(data)
    member = Member(offset=offset, length=len(data), crc32=zlib.crc32(data))
    rewrite_entry(root, key, lambda e: e.model_copy(update={"members": e.members | {ending: member}}))


def move_member(root: Path, key: str, **place: int) -> None:
    """Another place of the mask in the index."""

    def move(entry: SampleEntry) -> SampleEntry:
        member = entry.members["png"].model_copy(update=place)
        return entry.model_copy(update={"members": entry.members | {"png": member}})

    rewrite_entry(root, key, move)


def tar_of(root: Path, key: str) -> Path:
    folder = ShardFolder.open(root)
    return next(
        folder.shard_path(shard)
        for shard in folder.manifest.shards
        if key in {entry.key for entry in folder.entries(shard)}
    )


def entry_of(root: Path, key: str) -> SampleEntry:
    folder = ShardFolder.open(root)
    return next(e for shard in folder.manifest.shards for e in folder.entries(shard) if e.key == key)


def flip_a_byte(root: Path, key: str) -> None:
    member = entry_of(root, key).members["jpg"]
    with open(tar_of(root, key), "r+b") as file:
        file.seek(member.offset + member.length // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def png(height: int, width: int) -> bytes:
    return encode_mask(np.zeros((height, width), np.uint8), "png", 2)


DAMAGES: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "flipped byte": (flip_a_byte, r"\.jpg: bytes differ from those packed \(CRC\)"),
    "garbage image": (lambda root, key: replace_member(root, key, "jpg", b"\xff\xd8 no picture"), "image cannot be"),
    "empty image": (lambda root, key: replace_member(root, key, "jpg", b""), "image cannot be"),
    "garbage mask": (lambda root, key: replace_member(root, key, "png", b"\x89PNG no picture"), "mask cannot be"),
    "wrong-sized mask": (
        lambda root, key: replace_member(root, key, "png", png(32, 48)),
        "mask is 48x32, image is 64x64",
    ),
    "wrong-sized image": (
        lambda root, key: replace_member(
            root, key, "jpg", cv2.imencode(".jpg", np.zeros((32, 48, 3), np.uint8))[1].tobytes()
        ),
        "image is 48x32, index says 64x64",
    ),
    "missing member": (
        lambda root, key: rewrite_entry(
            root, key, lambda e: e.model_copy(update={"members": {"jpg": e.members["jpg"]}})
        ),
        r"no \.png member",
    ),
    "member as long as the world": (
        lambda root, key: move_member(root, key, offset=512, length=10**15),
        r"\.png: index places it beyond the end of the shard",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_sample_is_replaced_by_the_next_of_the_epochs_list(copy: Path, shards: Path, damage: str) -> None:
    good = training(shards, "none")
    walk = [key for step in range(3) for key in good[step].keys]
    victim, successor = walk[2], walk[3]
    spoil, reason = DAMAGES[damage]
    spoil(copy, victim)
    batch = training(copy, "none")[0]
    assert batch.keys == (*walk[:2], successor, *walk[3:6])
    [bad] = batch.bad
    assert (bad.shard, bad.key) == (tar_of(copy, victim).name, victim)
    assert_matches(bad, reason)
    # with two ranks it is the same, and only the rank whose sample it is reports it
    shares = [training(copy, "none", rank=rank, ranks=2)[0] for rank in range(2)]
    assert_same([batch], shares)
    assert [len(share.bad) for share in shares] == [1, 0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_validation_leaves_a_bad_sample_out_and_says_so(copy: Path, damage: str) -> None:
    keys = keys_of(copy, "val")
    spoil, reason = DAMAGES[damage]
    spoil(copy, keys[1])
    batches = validation(copy)
    assert [key for batch in batches for key in batch.keys] == [keys[0], *keys[2:]]
    [bad] = [bad for batch in batches for bad in batch.bad]
    assert (bad.shard, bad.key) == (tar_of(copy, keys[1]).name, keys[1])
    assert_matches(bad, reason)


def assert_matches(bad: BadSample, reason: str) -> None:
    with pytest.raises(BadSampleError, match=reason):
        raise BadSampleError(bad.reason)
    assert "\n" not in bad.reason


def test_two_bad_samples_in_a_row_are_both_reported(copy: Path, shards: Path) -> None:
    walk = [key for step in range(3) for key in training(shards, "none")[step].keys]
    for key in walk[2:4]:
        flip_a_byte(copy, key)
    batch = training(copy, "none")[0]
    assert batch.keys == (*walk[:2], walk[4], walk[4], *walk[4:6])
    assert {bad.key for bad in batch.bad} == set(walk[2:4])


def test_the_last_sample_of_an_epoch_is_replaced_by_its_first(copy: Path, shards: Path) -> None:
    walk = [key for step in range(3) for key in training(shards, "none", batch_global=5)[step].keys]
    flip_a_byte(copy, walk[-1])
    assert training(copy, "none", batch_global=5)[2].keys == (*walk[10:14], walk[0])


def test_a_label_out_of_range_is_bad(many_classes: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(many_classes, tmp_path / "shards"))
    key = keys_of(root, "val")[0]
    labels = LabelMap().read()
    labels[20, 20] = 11
    replace_member(root, key, "png", encode_mask(labels, "png", 11))
    [bad] = [bad for batch in validation(root) for bad in batch.bad]
    assert (bad.key, bad.reason) == (key, "label 11 out of range 0..10")


def test_nothing_is_unpickled(copy: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "done"),)

    one, other, third = keys_of(copy, "val")[:3]
    replace_member(copy, one, "pyd", pickle.dumps(Harmful()))  # webdataset's ending for pickles: never looked at
    replace_member(copy, other, "jpg", pickle.dumps(Harmful()))
    replace_member(copy, third, "png", pickle.dumps(Harmful()))
    batches = validation(copy)
    assert one in [key for batch in batches for key in batch.keys]
    assert {bad.key for batch in batches for bad in batch.bad} == {other, third}
    assert not (tmp_path / "done").exists()


def test_a_truncated_shard_costs_the_samples_behind_the_cut(copy: Path) -> None:
    folder = ShardFolder.open(copy)
    shard = folder.manifest.shards[0]
    entries = folder.entries(shard)
    with open(folder.shard_path(shard), "r+b") as file:
        file.truncate(entries[2].members["jpg"].offset + 10)
    batches = [training(copy, "none")[step] for step in range(3)]
    bad = {bad.key: bad for batch in batches for bad in batch.bad}
    assert set(bad) == {entry.key for entry in entries[2:]}
    assert all("shard ends after" in sample.reason and sample.shard == shard.name for sample in bad.values())
    assert {key for batch in batches for key in batch.keys} == set(keys_of(copy, "train")) - set(bad)
    assert [len(batch.keys) for batch in batches] == [6, 6, 6]


def test_a_batch_with_no_good_sample_is_empty_in_validation(copy: Path) -> None:
    for key in keys_of(copy, "val"):
        flip_a_byte(copy, key)
    batches = validation(copy)
    assert [batch.keys for batch in batches] == [()] * len(batches)
    assert sum(len(batch.bad) for batch in batches) == 5


def test_training_on_nothing_but_bad_samples_ends_at_once(copy: Path) -> None:
    for key in keys_of(copy, "train"):
        flip_a_byte(copy, key)
    started = time.monotonic()
    with pytest.raises(
        DataError, match=r"^15 samples in a row cannot be used; last: shard train-0.*CRC.*distseg data verify"
    ):
        training(copy, "none")[0]
    assert time.monotonic() - started < 5


def test_a_read_that_the_disk_refuses_costs_one_sample(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, pread, calls = training(shards, "none")[0], os.pread, itertools.count()

    def once_broken(*given: int) -> bytes:
        if next(calls) == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(*given)

    monkeypatch.setattr(os, "pread", once_broken)
    batch = training(shards, "none")[0]
    (bad,) = batch.bad
    assert (bad.key, bad.reason) == (usual.keys[0], "cannot be read (Input/output error)")
    assert batch.keys == (usual.keys[1], *usual.keys[1:])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_gone_is_one_clear_line(copy: Path, workers: int) -> None:
    (copy / "train-000001.tar").unlink()
    started = time.monotonic()
    with pytest.raises(DataError, match=r"train-000001\.tar: cannot be read") as caught:
        list(batch_loader(training(copy), range(3), workers=workers, prefetch=2, pin=False))
    assert time.monotonic() - started < 30
    assert "\n" not in str(caught.value)


# Folders that are not what they should be


def test_a_manifest_that_is_missing_foreign_or_torn(copy: Path, tmp_path: Path) -> None:
    path = copy / MANIFEST_FILE
    text = path.read_text()
    for content, message in [
        (text[: len(text) // 2], "damaged manifest"),
        ("[]", "format version None"),
        (text.replace('"format_version": 1', '"format_version": 2'), "format version 2, want 1"),
        (text.replace('"samples"', '"sample"', 1), "damaged manifest"),
        ("\ufeff{}", "format version None"),
    ]:
        path.write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            ShardFolder.open(copy)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="damaged manifest"):
        ShardFolder.open(copy)
    path.unlink()
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read .*make shards with 'distseg data pack'"):
        ShardFolder.open(copy)
    for place in (copy / "train-000000.tar", tmp_path / "nowhere"):
        with pytest.raises(DataError, match="manifest"):
            ShardFolder.open(place)


def test_an_index_that_is_missing_short_or_changed_is_refused(copy: Path) -> None:
    path = copy / "train-000000.index.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    text = "".join(lines)
    group = json.loads(lines[0])["group"]
    for content in ("".join(lines[:-1]), text[:-40], text.replace(group, "somebody", 1), "\x00" * 100):
        path.write_text(content)
        with pytest.raises(DataError, match=r"train-000000\.index\.jsonl: .*pack the data again") as caught:
            open_split(ShardFolder.open(copy), training=True, fold=None).place(0)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(DataError, match=r"train-000000\.index\.jsonl: cannot be read"):
        open_split(ShardFolder.open(copy), training=True, fold=None).place(0)


def test_an_index_that_points_before_its_shard_is_refused(copy: Path) -> None:
    move_member(copy, keys_of(copy, "train")[0], offset=-512)
    with pytest.raises(DataError, match=r"train-000000\.index\.jsonl: cannot be read"):
        open_split(ShardFolder.open(copy), training=True, fold=None).place(0)
