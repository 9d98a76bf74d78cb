import fcntl
import io
import json
import os
import socket
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from distseg.data import pack as pack_module
from distseg.data.appearing import appearing
from distseg.data.audit import _LookTask
from distseg.data.codec import decode_image, decode_mask
from distseg.data.info import class_counts_csv, info
from distseg.data.instances import instance_mask
from distseg.data.layouts import carvana
from distseg.data.layouts.base import Corpus, Instance, Labels, LayoutOptions, RawSample
from distseg.data.manifest import Manifest, SampleEntry, Shard, ShardFolder, index_path
from distseg.data.pack import pack
from distseg.data.pack_raw import PackJob, pack_raw
from distseg.data.stream import open_named_split, open_split
from distseg.data.verify import verify
from distseg.errors import DataError
from distseg.on_ray.pack import _on_node

CARS, VIEWS = 6, 4
SIZE = WIDTH, HEIGHT = 32, 24


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Six cars, four views each, 32x24: noise, and a mask of 12 columns (288 of 768 pixels)."""
    folder = tmp_path / "raw"
    (folder / "train").mkdir(parents=True)
    (folder / "train_masks").mkdir()
    noise = np.random.default_rng(0)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, 8:20] = 255
    for car in range(CARS):
        for view in range(1, VIEWS + 1):
            key = f"car{car}_{view:02d}"
            image = noise.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            cv2.imwrite(str(folder / "train" / f"{key}.jpg"), image)
            cv2.imwrite(str(folder / "train_masks" / f"{key}_mask.png"), mask)
    return folder


def pack_small(source: Path, out: Path, **changes: object) -> Manifest:
    arguments: dict = {"size": None, "val_fraction": 0.3, "samples_per_shard": 5} | changes
    return pack(carvana.read(source), out, **arguments)


def all_entries(folder: ShardFolder) -> list[tuple[Shard, SampleEntry]]:
    return [(shard, entry) for shard in folder.manifest.shards for entry in folder.entries(shard)]


def stored(folder: ShardFolder, shard: Shard, entry: SampleEntry, ending: str) -> bytes:
    member = entry.members[ending]
    return folder.shard_path(shard).read_bytes()[member.offset : member.offset + member.length]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves shards open
@pytest.mark.parametrize("encoding", ["png", "bits"])
def test_webdataset_opens_every_shard_and_sees_what_the_index_says(raw: Path, tmp_path: Path, encoding: str) -> None:
    import webdataset

    pack_small(raw, tmp_path / "out", mask_encoding=encoding)
    folder = ShardFolder.open(tmp_path / "out")
    for shard in folder.manifest.shards:
        dataset = webdataset.WebDataset(str(folder.shard_path(shard)), shardshuffle=False)
        theirs = [(sample["__key__"], sample["jpg"], sample[encoding]) for sample in dataset]
        ours = [
            (entry.key, stored(folder, shard, entry, "jpg"), stored(folder, shard, entry, encoding))
            for entry in folder.entries(shard)
        ]
        assert theirs == ours


def test_manifest_tells_what_is_stored(raw: Path, tmp_path: Path) -> None:
    manifest = pack_small(raw, tmp_path / "out", size=(16, 12), test_fraction=0.2, folds=2)
    folder = ShardFolder.open(tmp_path / "out")
    assert folder.manifest == manifest
    # of 24 samples: test 4.8 -> one car (4), val 7.2 -> two cars (8); at most 5 samples a shard
    assert manifest.samples == {"train": 12, "val": 8, "test": 4}
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [
        ("train-000000.tar", 5),
        ("train-000001.tar", 5),
        ("train-000002.tar", 2),
        ("val-000000.tar", 5),
        ("val-000001.tar", 3),
        ("test-000000.tar", 4),
    ]
    # a stored mask has 16x12 = 192 pixels, 6 of its 16 columns are car: 72
    assert manifest.class_pixels == {"background": 24 * 120, "car": 24 * 72}
    for shard, entry in all_entries(folder):
        place = manifest.groups[entry.group]
        assert (shard.split, entry.fold) == (*place.samples, place.fold)
        assert (entry.size, entry.original_size) == ((16, 12), SIZE)
        assert entry.source == f"{entry.key}.jpg"
        assert decode_image(stored(folder, shard, entry, "jpg")).shape == (12, 16, 3)
        mask = decode_mask(stored(folder, shard, entry, "png"), "png", 2)
        assert np.flatnonzero(mask[0]).tolist() == list(range(4, 10))
    assert len(all_entries(folder)) == 24
    assert Counter(place.fold for place in manifest.groups.values()) == {None: 1, 0: 3, 1: 2}
    assert verify(folder) == []
    assert info(folder) == {
        "samples": 24,
        "groups": 6,
        "splits": {"train": 12, "val": 8, "test": 4},
        "shards": 6,
        "bytes": sum(path.stat().st_size for path in folder.root.glob("*.tar")),
        "classes": ["background", "car"],
        "class_pixels": [2880, 1728],
        "data_digest": manifest.data_digest,
        "split_digest": manifest.split_digest,
        "split_leaky": False,
        "vanished_instances": 0,
        "bad": [],
    }
    assert class_counts_csv(folder) == "class,pixels,fraction\nbackground,2880,0.625000\ncar,1728,0.375000\n"


def test_a_jpeg_of_the_wanted_size_is_stored_byte_for_byte(raw: Path, tmp_path: Path) -> None:
    pack_small(raw, tmp_path / "out", size=SIZE)
    folder = ShardFolder.open(tmp_path / "out")
    for shard, entry in all_entries(folder):
        assert stored(folder, shard, entry, "jpg") == (raw / "train" / entry.source).read_bytes()


def test_exif_rotation_and_grey_are_taken_into_the_pixels(raw: Path, tmp_path: Path) -> None:
    shown = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    shown[:, : WIDTH // 2] = (255, 0, 0)  # as a viewer shows it: the left half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to see it": so it is stored turned the other way
    turned = Image.fromarray(np.rot90(shown, 1).copy())
    turned.save(raw / "train" / "car0_01.jpg", exif=exif, quality=95)
    Image.new("L", SIZE, 200).save(raw / "train" / "car0_02.jpg")
    pack_small(raw, tmp_path / "out")
    folder = ShardFolder.open(tmp_path / "out")
    images = {entry.key: (entry, stored(folder, shard, entry, "jpg")) for shard, entry in all_entries(folder)}
    entry, data = images["car0_01"]
    assert entry.size == entry.original_size == SIZE
    image = decode_image(data).astype(int)
    assert image[:, :12, 0].min() > 200
    assert image[:, 20:, 0].max() < 50
    with Image.open(io.BytesIO(images["car0_02"][1])) as grey:
        assert grey.mode == "RGB"


def test_the_same_bytes_for_any_number_of_workers_and_any_place(raw: Path, tmp_path: Path) -> None:
    one = pack_small(raw, tmp_path / "one", folds=3)
    moved = raw.rename(tmp_path / "elsewhere")
    seen: list[tuple[int, int]] = []
    two = pack_small(
        moved, tmp_path / "two", folds=3, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert one == two
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert seen[-1] == (24, 24)


def test_seed_mixes_groups_within_shards(raw: Path, tmp_path: Path) -> None:
    first = pack_small(raw, tmp_path / "a", seed=1, samples_per_shard=8)
    again = pack_small(raw, tmp_path / "b", seed=2, samples_per_shard=8)
    assert first.split_digest != again.split_digest
    folder = ShardFolder.open(tmp_path / "a")
    for shard in folder.manifest.shards:
        if shard.split == "train":
            assert len({entry.group for entry in folder.entries(shard)}) > 1


def test_digests_follow_what_they_name(raw: Path, tmp_path: Path) -> None:
    before = pack_small(raw, tmp_path / "before")
    smaller = pack_small(raw, tmp_path / "smaller", size=(16, 12))
    folds = pack_small(raw, tmp_path / "folds", folds=2)
    assert smaller.split_digest == before.split_digest
    assert smaller.data_digest != before.data_digest
    assert folds.data_digest == before.data_digest
    assert folds.split_digest != before.split_digest


@pytest.mark.parametrize("workers", [1, 2])
def test_all_bad_samples_are_counted_and_nothing_stays(raw: Path, tmp_path: Path, workers: int) -> None:
    image = raw / "train" / "car1_01.jpg"
    image.write_bytes(image.read_bytes()[:-60])
    Image.new("L", (WIDTH, HEIGHT - 1)).save(raw / "train_masks" / "car4_02_mask.png")
    (raw / "train_masks" / "car5_03_mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"sample 'car\d_0\d': .* \(and 2 more\); nothing was packed"):
        pack_small(raw, tmp_path / "out", workers=workers)
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train/car1_01.jpg", b"GIF89a", "image cannot be decoded"),
        ("train/car1_01.jpg", b"", "image cannot be decoded"),
        ("train_masks/car1_01_mask.png", b"", "mask cannot be decoded"),
    ],
)
def test_one_bad_sample_is_named(raw: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=f"sample 'car1_01': .*{message}"):
        pack_small(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_declare_too_many_pixels_are_not_decoded(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distseg.data.raw_image.MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(DataError, match="declares 32x24 pixels, more than 767"):
        pack_small(raw, tmp_path / "out")


class Constant:
    """A mask source whose label map has one label in its first pixel and 0 elsewhere."""

    def __init__(self, label: int) -> None:
        self.label = label

    def read(self) -> Labels:
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[0, 0] = self.label
        return labels


def corpus_of(raw: Path, label: int, key: str = "k") -> Corpus:
    image = raw / "train" / "car0_01.jpg"
    samples = [RawSample(f"{key}{number}", f"g{number}", image, Constant(label)) for number in range(2)]
    return Corpus("test", "multiclass", ("a", "b", "c"), 255, samples)


def test_two_classes_with_an_ignore_label_keep_it(raw: Path, tmp_path: Path) -> None:
    corpus = replace(corpus_of(raw, 255), classes=("a", "b"), task="binary")
    pack(corpus, tmp_path / "out", size=None, mask_encoding="fastest")
    folder = ShardFolder.open(tmp_path / "out")
    assert folder.manifest.mask_encoding == "png"
    for shard, entry in all_entries(folder):
        mask = decode_mask(stored(folder, shard, entry, "png"), "png", folder.manifest.levels)
        assert np.unique(mask).tolist() == [0, 255]
    assert verify(folder) == []


def test_the_fastest_encoding_is_measured_and_recorded(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Labels] = []

    def bits(masks: list[Labels]) -> str:
        timed.extend(masks)
        return "bits"

    monkeypatch.setattr(pack_module, "fastest_encoding", bits)
    manifest = pack_small(raw, tmp_path / "out", mask_encoding="fastest", size=(16, 12))
    assert manifest.mask_encoding == "bits"
    assert len(timed) == 12  # every second of 24
    assert timed[0].shape == (12, 16)
    assert verify(ShardFolder.open(tmp_path / "out")) == []


class Stripes:
    """Class `rare` in the top row, the others nowhere but for background."""

    def __init__(self, rare: int) -> None:
        self.rare = rare

    def read(self) -> Labels:
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[0] = self.rare
        return labels


def streets(raw: Path, rare: dict[int, int]) -> Corpus:
    """Twenty sequences of one frame; those named in `rare` show that class."""
    image = raw / "train" / "car0_01.jpg"
    samples = [RawSample(f"k{n:02d}", f"g{n:02d}", image, Stripes(rare.get(n, 0))) for n in range(20)]
    return Corpus("test", "multiclass", ("road", "sign", "bike"), None, samples)


@pytest.mark.parametrize("seed", range(5))
def test_rare_classes_stand_on_both_sides(raw: Path, tmp_path: Path, seed: int) -> None:
    corpus = streets(raw, {3: 1, 11: 1, 4: 2, 17: 2})
    manifest = pack(corpus, tmp_path / "out", size=None, val_fraction=0.5, seed=seed, folds=2)
    assert manifest.samples == {"train": 10, "val": 10, "test": 0}
    for groups in (("g03", "g11"), ("g04", "g17")):
        assert {split for group in groups for split in manifest.groups[group].samples} == {"train", "val"}
        assert {manifest.groups[group].fold for group in groups} == {0, 1}


def test_progress_counts_a_sample_twice_when_classes_are_counted_first(raw: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pack(streets(raw, {}), tmp_path / "out", size=None, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 40) for done in range(1, 41)]


def test_folds_of_a_shard_are_counted(raw: Path, tmp_path: Path) -> None:
    manifest = pack_small(raw, tmp_path / "out", folds=3, test_fraction=0.2)
    folder = ShardFolder.open(tmp_path / "out")
    for shard in manifest.shards:
        folds = Counter(entry.fold for entry in folder.entries(shard))
        assert shard.fold_samples == tuple(folds[fold] for fold in range(3))
    for fold in range(3):
        sides = [open_split(folder, training=training, fold=fold) for training in (True, False)]
        keys = [[reader.place(number)[1].key for number in range(len(reader))] for reader in sides]
        assert len(keys[0]) + len(keys[1]) == 20  # 24 less a car of 4 for testing
        assert not set(keys[0]) & set(keys[1])
        assert {reader.place(0)[1].fold == fold for reader in sides} == {True, False}


def with_given_split(corpus: Corpus, places: dict[str, str]) -> Corpus:
    """The split of each view's number."""
    return replace(corpus, samples=[replace(sample, given_split=places[sample.key[-1]]) for sample in corpus.samples])


def test_a_given_split_is_kept_and_said_to_be_leaky(raw: Path, tmp_path: Path) -> None:
    leaky = with_given_split(carvana.read(raw), {"1": "train", "2": "train", "3": "val", "4": "test"})
    manifest = pack(leaky, tmp_path / "leaky", size=None, given_split=True, folds=2)
    assert manifest.split_leaky
    assert manifest.samples == {"train": 12, "val": 6, "test": 6}
    folder = ShardFolder.open(tmp_path / "leaky")
    for shard, entry in all_entries(folder):
        assert shard.split == {"1": "train", "2": "train", "3": "val", "4": "test"}[entry.key[-1]]
        assert entry.fold == (None if shard.split == "test" else manifest.groups[entry.group].fold)
    assert manifest.groups["car0"].samples == {"train": 2, "val": 1, "test": 1}
    assert verify(folder) == []
    sound = carvana.read(raw)
    sound = replace(
        sound, samples=[replace(s, given_split="val" if s.group == "car2" else "train") for s in sound.samples]
    )
    manifest = pack(sound, tmp_path / "sound", size=None, given_split=True)
    assert not manifest.split_leaky
    assert manifest.samples == {"train": 20, "val": 4, "test": 0}


def test_a_given_split_must_name_every_sample(raw: Path, tmp_path: Path) -> None:
    corpus = carvana.read(raw)
    with pytest.raises(DataError, match="24 of 24 samples are in no split of layout carvana, first 'car0_01'"):
        pack(corpus, tmp_path / "out", size=None, given_split=True)


class Objects:
    """A crowd of class 1 in a box of 8x4 pixels, a single pixel of class 0, and what else is given."""

    def __init__(self, *more: Instance) -> None:
        self.more = more

    def read(self) -> tuple[Instance, ...]:
        box, dot = np.zeros((2, HEIGHT, WIDTH), np.uint8)
        box[4:8, 8:16] = 1
        dot[1, 2] = 1
        return Instance(1, run_lengths(box), True), Instance(0, run_lengths(dot), False), *self.more


def run_lengths(mask: Labels) -> str:
    return coco.encode(np.asfortranarray(mask))["counts"].decode()


def scenes(raw: Path, *more: Instance) -> Corpus:
    sources = [Objects(*more), *([Objects()] * 3)]
    samples = [
        RawSample(f"k{n}", f"g{n}", raw / "train" / f"car{n}_01.jpg", instances=source)
        for n, source in enumerate(sources)
    ]
    return Corpus("test", "instance", ("nut", "bolt"), None, samples)


def test_objects_are_stored_as_run_lengths(raw: Path, tmp_path: Path) -> None:
    manifest = pack(scenes(raw), tmp_path / "out", size=None, val_fraction=0.25)
    assert (manifest.task, manifest.mask_encoding, manifest.vanished_instances) == ("instance", "json", 0)
    assert manifest.class_pixels == {"nut": 4 * 1, "bolt": 4 * 32}
    folder = ShardFolder.open(tmp_path / "out")
    assert verify(folder) == []
    shard, entry = all_entries(folder)[0]
    tree = json.loads(stored(folder, shard, entry, "json"))
    assert tree["size"] == [HEIGHT, WIDTH]
    assert [(row["label"], row["crowd"]) for row in tree["instances"]] == [(1, True), (0, False)]
    reader = open_named_split(folder, "train")
    assert reader.read(0).instances == Objects().read()


@pytest.mark.parametrize("seed", range(5))
def test_two_classes_of_objects_stand_on_both_sides(raw: Path, tmp_path: Path, seed: int) -> None:
    """Unlike label maps, objects have no background class: with two there is something to stratify."""
    nuts, bolts = (Boxes(label) for label in range(2))
    image = raw / "train" / "car0_01.jpg"
    samples = [RawSample(f"k{n:02d}", f"g{n:02d}", image, instances=bolts if n in (3, 11) else nuts) for n in range(12)]
    corpus = Corpus("test", "instance", ("nut", "bolt"), None, samples)
    manifest = pack(corpus, tmp_path / "out", size=None, val_fraction=0.5, seed=seed)
    assert {split for group in ("g03", "g11") for split in manifest.groups[group].samples} == {"train", "val"}


class Boxes:
    """One object that fills the image."""

    def __init__(self, label: int) -> None:
        self.label = label

    def read(self) -> tuple[Instance, ...]:
        return (Instance(self.label, run_lengths(np.ones((HEIGHT, WIDTH), np.uint8)), False),)


def test_objects_shrink_with_their_image_and_vanish(raw: Path, tmp_path: Path) -> None:
    manifest = pack(scenes(raw), tmp_path / "out", size=(16, 12), val_fraction=0.25)
    assert manifest.vanished_instances == 4  # the dots: no new pixel has its centre there
    assert manifest.class_pixels == {"nut": 0, "bolt": 4 * 8}
    sample = open_named_split(ShardFolder.open(tmp_path / "out"), "train").read(0)
    assert sample.instances is not None
    [box] = sample.instances
    mask = instance_mask(box, (16, 12))
    assert np.argwhere(mask).min(axis=0).tolist() == [2, 4]
    assert int(mask.sum()) == 8


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        (Instance(2, run_lengths(np.ones((HEIGHT, WIDTH), np.uint8)), False), r"object 2: label 2 out of range 0\.\.1"),
        (Instance(0, run_lengths(np.ones((HEIGHT, 8), np.uint8)), False), "object 2: run lengths do not fill"),
        (Instance(0, "PPYo0o", False), "object 2: run lengths are no compressed COCO string"),
    ],
)
def test_objects_that_cannot_be_are_refused(raw: Path, tmp_path: Path, instance: Instance, reason: str) -> None:
    with pytest.raises(DataError, match=f"sample 'k0': {reason}"):
        pack(scenes(raw, instance), tmp_path / "out", size=None, val_fraction=0.25)


def test_labels_out_of_range_are_refused_and_the_ignore_label_is_counted(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"label 3 out of range 0\.\.2"):
        pack(corpus_of(raw, 3), tmp_path / "out", size=None)
    manifest = pack(corpus_of(raw, 255), tmp_path / "out", size=None)
    assert manifest.class_pixels == {"a": 2 * 767, "b": 0, "c": 0, "ignore": 2}
    with pytest.raises(DataError, match="'bits' holds labels 0 and 1 only"):
        pack(corpus_of(raw, 1), tmp_path / "bits", size=None, mask_encoding="bits")


@pytest.mark.parametrize("key", ["a.b", "a/b", "a b", "", "x" * 91])
def test_keys_that_a_tar_cannot_hold_are_refused(raw: Path, tmp_path: Path, key: str) -> None:
    corpus = corpus_of(raw, 0)
    samples = [replace(corpus.samples[0], key=key), corpus.samples[1]]
    with pytest.raises(DataError, match="want a name without dots"):
        pack(replace(corpus, samples=samples), tmp_path / "out", size=None)


def test_corpora_without_samples_or_with_equal_keys_are_refused(raw: Path, tmp_path: Path) -> None:
    corpus = corpus_of(raw, 0)
    with pytest.raises(DataError, match="no sample to pack"):
        pack(replace(corpus, samples=[]), tmp_path / "out", size=None)
    with pytest.raises(DataError, match="sample 'k0': 2 samples have this name"):
        pack(replace(corpus, samples=[corpus.samples[0]] * 2), tmp_path / "out", size=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_fraction": 0.7, "test_fraction": 0.3}, "their sum below 1"),
        ({"folds": 7}, "7 folds of 6 groups"),
        ({"folds": 6, "test_fraction": 0.1}, "6 folds of 5 groups"),  # one is set aside
        ({"given_split": True}, "24 of 24 samples are in no split of layout carvana"),
        ({"mask_encoding": "bits", "layout": "folders"}, "'bits' holds labels 0 and 1 only"),
    ],
)
def test_a_job_that_cannot_be_done_fails_before_anything_is_decoded(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("distseg.data.pack_raw.audit_scan", None)
    if "layout" in changes:
        (raw / "train").rename(raw / "images")
        for number, mask in enumerate(sorted((raw / "train_masks").iterdir())):
            Image.new("L", SIZE, number % 3).save(mask.with_name(mask.name.replace("_mask", "")))
            mask.unlink()
        (raw / "train_masks").rename(raw / "masks")
    job = PackJob(
        **{"layout": "carvana", "source": raw, "options": LayoutOptions(), "out": tmp_path / "out", "size": None}
        | changes
    )
    with pytest.raises(DataError, match=message):
        pack_raw(job, None, lambda label: nullcontext(None), warn=pytest.fail)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_raw_files_are_audited_and_packed_from_one_scan(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    scans: list[Path] = []
    monkeypatch.setattr(
        "distseg.data.pack_raw.scan_corpus",
        lambda layout, source, options: scans.append(source) or carvana.scan(source, options),
    )
    job = PackJob("carvana", raw, LayoutOptions(), tmp_path / "out", None, workers=workers)
    warned: list[str] = []
    manifest = pack_raw(job, None, lambda label: nullcontext(None), warned.append)
    assert scans == [raw]
    assert warned == []
    assert manifest == pack(carvana.read(raw), tmp_path / "again", size=None)


def test_a_node_that_does_not_see_the_raw_data_says_so(raw: Path) -> None:
    task = _LookTask(corpus_of(raw, 0).samples, corpus_of(raw, 0))
    assert len(_on_node(lambda task: task.samples, task)) == 2
    (raw / "train").rename(raw / "moved")
    with pytest.raises(DataError, match="raw/train: not seen by every node; put the raw data"):
        _on_node(lambda task: task.samples, task)


def test_a_folder_that_holds_anything_is_refused_and_untouched(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_small(raw, out)
    before = files(out)
    with pytest.raises(DataError, match="not empty"):
        pack_small(raw, out, size=(16, 12))
    assert files(out) == before
    with pytest.raises(DataError, match="is a file"):
        pack_small(raw, raw / "train" / "car0_01.jpg")
    empty = tmp_path / "empty"
    empty.mkdir()
    pack_small(raw, empty)
    assert verify(ShardFolder.open(empty)) == []


def test_what_a_killed_packing_left_is_removed_and_a_living_ones_kept(raw: Path, tmp_path: Path) -> None:
    """Whatever the host and the process id: another container may have both."""
    left, held, unlocked = (tmp_path / f".out.tmp-{socket.gethostname()}-{os.getpid()}-{n:08x}" for n in range(3))
    far_left, far_held = (tmp_path / f".out.tmp-far-away-1-{n:08x}" for n in range(2))
    others = [tmp_path / name for name in (".other.tmp-far-1-00000000", ".out.tmp-7", ".out.tmp-x")]
    for folder in [left, held, unlocked, far_left, far_held, *others]:
        folder.mkdir()
        (folder / "train-000000.tar").write_bytes(b"half")
        if folder != unlocked:
            (folder / ".lock").touch()
    with open(held / ".lock", "rb") as lock, open(far_held / ".lock", "rb") as far_lock:
        for file in (lock, far_lock):
            fcntl.flock(file, fcntl.LOCK_EX)
        pack_small(raw, tmp_path / "out")
    assert not left.exists()
    assert not far_left.exists()
    assert all(folder.exists() for folder in [held, unlocked, far_held, *others])
    assert not (tmp_path / "out" / ".lock").exists()


def test_two_packings_to_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    with appearing(tmp_path / "out") as first:
        with appearing(tmp_path / "out") as second:
            assert first.is_dir()
        assert first.is_dir()
        assert second != first
        (first / "shard").touch()
        (tmp_path / "out").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shard"]


def test_an_interrupted_packing_leaves_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pack_module, "_members", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack_small(raw, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"raw"}


def test_verify_names_the_sample_of_a_damaged_byte(raw: Path, tmp_path: Path) -> None:
    pack_small(raw, tmp_path / "out")
    folder = ShardFolder.open(tmp_path / "out")
    shard, entry = all_entries(folder)[7]
    path = folder.shard_path(shard)
    data = bytearray(path.read_bytes())
    data[entry.members["png"].offset + 20] ^= 1
    path.write_bytes(data)
    found = verify(folder)
    assert [(sample.shard, sample.key) for sample in found] == [(shard.name, "*"), (shard.name, entry.key)]
    assert "sha256" in found[0].reason
    assert "CRC" in found[1].reason


def test_verify_finds_files_that_are_missing_cut_or_changed(raw: Path, tmp_path: Path) -> None:
    pack_small(raw, tmp_path / "out")
    folder = ShardFolder.open(tmp_path / "out")
    gone, cut, changed, *_ = folder.manifest.shards
    folder.shard_path(gone).unlink()
    path = folder.shard_path(cut)
    path.write_bytes(path.read_bytes()[:600])
    index = index_path(folder.shard_path(changed))
    index.write_text(index.read_text().replace('"group":"car', '"group":"bus'))
    found = verify(folder)
    reasons = {
        shard.name: [sample.reason for sample in found if sample.shard == shard.name]
        for shard in folder.manifest.shards
    }
    assert "cannot be read" in reasons[gone.name][0]
    assert sum("shard ends after" in reason for reason in reasons[cut.name]) >= 4
    assert len(reasons[changed.name]) == 1
    assert "index.jsonl has sha256" in reasons[changed.name][0]
    assert len([sample for sample in found if sample.shard in (None, folder.manifest.shards[-1].name)]) == 0


def test_verify_computes_the_digests_again(raw: Path, tmp_path: Path) -> None:
    pack_small(raw, tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"data_digest": "0" * 64, "split_digest": "1" * 64}))
    reasons = [sample.reason for sample in verify(ShardFolder.open(tmp_path / "out"))]
    assert [reason.split()[0] for reason in reasons] == ["data_digest", "split_digest"]
