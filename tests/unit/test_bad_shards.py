"""A corpus of broken shards: each costs its own samples and no more, the same ones on every rank, and is named."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from distseg.data.codec import encode_mask
from distseg.data.layouts.base import Corpus, Labels, RawSample
from distseg.data.manifest import MANIFEST_FILE, Member, ShardFolder, index_path
from distseg.data.order import EpochPlan
from distseg.data.pack import pack
from distseg.data.stream import EvalBatches, TrainBatches, open_named_split
from distseg.data.verify import verify
from distseg.errors import DataError

SIZE = WIDTH, HEIGHT = 48, 32
CLASSES = tuple(f"class {label}" for label in range(11))
PER_SHARD = 6


class Bands:
    """Eleven classes in upright bands with a corner of void (255)."""

    def read(self) -> Labels:
        labels = np.tile((np.arange(WIDTH) * 11 // WIDTH).astype(np.uint8), (HEIGHT, 1))
        labels[:4, :4] = 255
        return labels


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen samples in three training shards."""
    root = tmp_path_factory.mktemp("bad")
    samples = []
    for number in range(3 * PER_SHARD):
        image = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(root / f"f{number:02d}.jpg"), image)
        samples.append(RawSample(f"f{number:02d}", f"drive{number // 3}", root / f"f{number:02d}.jpg", Bands()))
    corpus = Corpus("folders", "multiclass", CLASSES, 255, samples)
    pack(corpus, root / "shards", size=None, val_fraction=0, samples_per_shard=PER_SHARD)
    return root / "shards"


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "shards"))


Members = list[tuple[tarfile.TarInfo, bytes]]


def rebuild(root: Path, key: str, change: Callable[[Members], Members]) -> None:
    """Writes a shard again with other members, index and manifest to match: what a careless packer would make."""
    folder = ShardFolder.open(root)
    shard = next(s for s in folder.manifest.shards if key in {e.key for e in folder.entries(s)})
    path = folder.shard_path(shard)
    with tarfile.open(path) as tar:
        members = [(info, (tar.extractfile(info) or io.BytesIO()).read()) for info in tar]
    entries = {entry.key: entry for entry in folder.entries(shard)}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in change(members):
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    found: dict[str, dict[str, Member]] = {}
    with tarfile.open(path) as tar:
        for info in tar:
            stem, _, ending = info.name.rpartition(".")
            data = (tar.extractfile(info) or io.BytesIO()).read() if info.isreg() else b""
            found.setdefault(stem, {})[ending] = Member(
                offset=info.offset_data, length=info.size, crc32=zlib.crc32(data)
            )
    lines = []
    for stem, places in found.items():
        entry = entries.get(stem) or entries.get(key)
        if entry is not None and not stem.startswith(".") and {"jpg", "png"} & places.keys():
            known = {ending: place for ending, place in places.items() if ending in ("jpg", "png")}
            lines.append(entry.model_copy(update={"key": stem, "members": known}).model_dump_json() + "\n")
    index = index_path(path)
    index.write_text("".join(lines))
    tree = json.loads((root / MANIFEST_FILE).read_text())
    for row in tree["shards"]:
        if row["name"] == shard.name:
            row["bytes"] = path.stat().st_size
            row["sha256"], row["index_sha256"] = (
                hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, index)
            )
    (root / MANIFEST_FILE).write_text(json.dumps(tree))


def instead(ending: str, data: Callable[[bytes], bytes]) -> Callable[[Path, str], None]:
    """Another content for one member."""

    def damage(root: Path, key: str) -> None:
        def change(members: Members) -> Members:
            return [(info, data(old) if info.name == f"{key}.{ending}" else old) for info, old in members]

        rebuild(root, key, change)

    return damage


def in_place(ending: str, offset: int, data: bytes | None) -> Callable[[Path, str], None]:
    """Other bytes from a place counted from a member's start, all else as it was; None cuts the shard off there."""

    def damage(root: Path, key: str) -> None:
        folder = ShardFolder.open(root)
        for shard in folder.manifest.shards:
            for entry in folder.entries(shard):
                if entry.key == key:
                    with open(folder.shard_path(shard), "r+b") as file:
                        file.seek(entry.members[ending].offset + offset)
                        if data is None:
                            file.truncate()
                        else:
                            file.write(data)

    return damage


def without_mask(root: Path, key: str) -> None:
    rebuild(root, key, lambda members: [one for one in members if one[0].name != f"{key}.png"])


def with_a_dotted_key(root: Path, key: str) -> None:
    def change(members: Members) -> Members:
        for info, _ in members:
            info.name = info.name.replace(f"{key}.", f"{key}.left.")
        return members

    rebuild(root, key, change)


def mask_is_a_link(root: Path, key: str) -> None:
    def change(members: Members) -> Members:
        for info, _ in members:
            if info.name == f"{key}.png":
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        return members

    rebuild(root, key, change)


def with_another(name: str, data: bytes) -> Callable[[Path, str], None]:
    """One more member behind the sample's own."""

    def damage(root: Path, key: str) -> None:
        def change(members: Members) -> Members:
            last = max(number for number, (info, _) in enumerate(members) if info.name.startswith(f"{key}."))
            other = tarfile.TarInfo(name.format(key=key))
            return [*members[: last + 1], (other, data), *members[last + 1 :]]

        rebuild(root, key, change)

    return damage


def claiming(width: int, height: int) -> Callable[[bytes], bytes]:
    """A JPEG or PNG whose header declares another size."""

    def change(data: bytes) -> bytes:
        if data.startswith(b"\xff\xd8"):
            at = data.index(b"\xff\xc0") + 5
            return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]
        return data[:16] + struct.pack(">II", width, height) + data[24:]

    return change


def with_label(label: int) -> Callable[[bytes], bytes]:
    labels = Bands().read()
    labels[9, 9] = label
    return lambda _: encode_mask(labels, "png", 12)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


TRAP = Path(tempfile.gettempdir()) / "distseg-test-unpickled"


@dataclass(frozen=True)
class Case:
    damage: Callable[[Path, str], None]
    reason: str | None
    """What training says of the sample; None: it reads its members by the index and is not harmed."""
    found: str
    """What ``verify`` says, too."""
    whole_shard: bool = False
    """``verify`` says it of the shard, not of the sample."""


CASES = {
    "damaged header in the middle": Case(in_place("jpg", -400, b"7" * 40), None, "damaged tar header"),
    "flipped payload byte": Case(in_place("jpg", 200, b"\0\0\0\0"), r"\.jpg: bytes differ", r"\.jpg: bytes differ"),
    "missing member": Case(without_mask, r"no \.png member", r"no \.png member"),
    "dotted key": Case(with_a_dotted_key, "its key holds a dot", "its key holds a dot"),
    "garbage JPEG": Case(
        instead("jpg", lambda data: data[:300] + b"\xff" * 300), "image cannot be decoded", "image cannot be decoded"
    ),
    "no JPEG at all": Case(
        instead("jpg", lambda _: b"GIF89a"), "image cannot be decoded: no header", "image cannot be decoded"
    ),
    "garbage mask": Case(instead("png", lambda data: data[:60]), "mask cannot be", "mask cannot be"),
    "image bomb": Case(
        instead("jpg", claiming(60_000, 60_000)), "image declares 60000x60000 pixels", "image declares 60000x60000"
    ),
    "mask bomb": Case(
        instead("png", claiming(60_000, 60_000)), "mask declares 60000x60000 pixels", "mask declares 60000x60000"
    ),
    "image of another size": Case(
        instead("jpg", claiming(4000, 3000)), "image is 4000x3000, index says 48x32", "image is 4000x3000"
    ),
    "wrong-sized mask": Case(
        instead("png", lambda _: encode_mask(np.zeros((32, 47), np.uint8), "png", 12)),
        "mask is 47x32, image is 48x32",
        "mask is 47x32",
    ),
    "label out of range": Case(
        instead("png", with_label(11)), r"label 11 out of range 0\.\.10", r"label 11 out of range"
    ),
    "pickle member": Case(
        with_another("{key}.pkl", pickle.dumps(Trap(TRAP))), None, r"file 'f\d\d\.pkl', which the index", True
    ),
    "member that leaves": Case(
        with_another("../../etc/cron.d/x.txt", b"x"), None, r"file '\.\./\.\./etc/cron\.d/x\.txt', which", True
    ),
    "link in the mask's place": Case(mask_is_a_link, "mask cannot be decoded", r"link 'f\d\d\.png' where index has"),
}


def batches_of(root: Path, rank: int = 0, ranks: int = 1) -> TrainBatches:
    reader = open_named_split(ShardFolder.open(root), "train")
    plan = EpochPlan(reader.shard_sizes, 6, seed=1, window=2, tail="wrap")
    return TrainBatches(
        reader,
        plan,
        size=SIZE,
        augment=lambda image, masks, epoch, key, level: (image, masks),
        rank=rank,
        world_size=ranks,
    )


def walk_of(root: Path) -> list[str]:
    """Keys of the first epoch, in order."""
    batches = batches_of(root)
    return [key for step in range(3) for key in batches[step].keys]


@pytest.mark.parametrize("name", CASES)
def test_a_bad_sample_is_replaced_named_and_the_same_for_all_ranks(copy: Path, shards: Path, name: str) -> None:
    case = CASES[name]
    walk = walk_of(shards)
    victim, successor = walk[3], walk[4]
    case.damage(copy, victim)
    started = time.monotonic()
    alone = [batches_of(copy)[step] for step in range(3)]
    for ranks in (2, 3):
        shares = [[batches_of(copy, rank, ranks)[step] for step in range(3)] for rank in range(ranks)]
        for step in range(3):
            assert torch.equal(torch.cat([share[step].images for share in shares]), alone[step].images)
            assert torch.equal(torch.cat([share[step].masks for share in shares]), alone[step].masks)
            assert len({len(share[step].keys) for share in shares}) == 1
    bad = [bad for batch in alone for bad in batch.bad]
    seen = [key for batch in alone for key in batch.keys]
    evaluated = EvalBatches(open_named_split(ShardFolder.open(copy), "train"), batch=4, rank=0, world_size=1)
    measured = [evaluated[number] for number in range(len(evaluated))]
    assert time.monotonic() - started < 5
    if case.reason is None:
        assert (bad, seen) == ([], walk)
        assert sum(len(batch.keys) for batch in measured) == len(walk)
    else:
        assert seen == [*walk[:3], successor, *walk[4:]]
        [only] = bad
        assert only.key.startswith(victim)
        assert_says(only.reason, case.reason)
        assert [(b.shard, b.key, b.reason) for batch in measured for b in batch.bad] == [
            (only.shard, only.key, only.reason)
        ]
        assert sum(len(batch.keys) for batch in measured) == len(walk) - 1

    reasons = [(found.key, found.reason) for found in verify(ShardFolder.open(copy))]
    named = "*" if case.whole_shard else victim
    said = [reason for key, reason in reasons if key.startswith(named)]
    assert said
    assert_says(" / ".join(said), case.found)
    assert not TRAP.exists()


def assert_says(text: str, pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        raise DataError(text)
    assert "\n" not in text


def test_the_trap_would_have_sprung(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_a_truncated_shard_costs_what_stood_behind_the_cut(copy: Path) -> None:
    folder = ShardFolder.open(copy)
    entries = folder.entries(folder.manifest.shards[1])
    in_place("jpg", 100, None)(copy, entries[3].key)
    batches = [batches_of(copy)[step] for step in range(3)]
    lost = {entry.key for entry in entries[3:]}
    assert {bad.key for batch in batches for bad in batch.bad} == lost
    assert all("shard ends after" in bad.reason for batch in batches for bad in batch.bad)
    assert [len(batch.keys) for batch in batches] == [6, 6, 6]
    assert not lost & {key for batch in batches for key in batch.keys}
    found = verify(folder)
    assert {bad.key for bad in found if bad.key != "*"} == lost
    assert found[0].key == "*"


@pytest.mark.parametrize("name", ["../secret.tar", "/etc/passwd", "train-000000.tar/../x.tar", "train-1.tar", ""])
def test_a_shard_name_that_leaves_the_folder_is_refused(copy: Path, name: str) -> None:
    path = copy / MANIFEST_FILE
    tree = json.loads(path.read_text())
    tree["shards"][0]["name"] = name
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match="damaged manifest") as caught:
        ShardFolder.open(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [-512, 8**11 - 1])
def test_headers_that_declare_absurd_sizes_do_not_stop_verify(copy: Path, size: int) -> None:
    folder = ShardFolder.open(copy)
    shard = folder.manifest.shards[0]
    first, second, *_ = folder.entries(shard)
    header = tarfile.TarInfo(f"{first.key}.jpg")
    header.size = size
    in_place("jpg", -512, header.tobuf(tarfile.GNU_FORMAT))(copy, first.key)
    reasons = [found.reason for found in verify(folder) if found.key == first.key]
    assert any("where index has" in reason for reason in reasons)
    assert not [found for found in verify(folder) if found.key == second.key]
