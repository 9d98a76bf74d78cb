"""Checkpoints: whole or not there, and nothing in them is executed."""

import errno
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg import checkpoint
from distseg.errors import HomeError

TREE: dict[str, Any] = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64)},
    "history": [{"epoch": 1, "score": 0.5, "classes": ["car"], "none": None}],
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/last.pt"
    checkpoint.save(path, TREE)
    tree = checkpoint.load(path)
    assert torch.equal(tree["weights"]["a"], TREE["weights"]["a"])
    assert torch.equal(tree["weights"]["b"], TREE["weights"]["b"])
    assert tree["history"] == TREE["history"]
    assert os.listdir(path.parent) == ["last.pt"]


def test_a_full_disk_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})

    def half(tree: object, file: Any) -> None:
        file.write(b"half of a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"step": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_file_that_may_not_grow_keeps_the_one_before(tmp_path: Path) -> None:
    """The same with torch's own writer: the system refuses every byte after the hundred thousandth."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises((OSError, RuntimeError)):
            checkpoint.save(path, {"step": 2, "weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_an_absent_one_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match=r"last.pt: no such checkpoint; train"):
        checkpoint.load(tmp_path / "last.pt")


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_damaged_one_is_told(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, TREE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(HomeError, match=r"last.pt: cannot be read as a checkpoint \(\w+\); remove it"):
        checkpoint.load(path)


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_is_executed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    torch.save({"format_version": 2, "network": Malice(victim)}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malice(victim)))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(HomeError, match="cannot be read"):
            checkpoint.load(tmp_path / name)
    assert not victim.exists()


@pytest.mark.parametrize("tree", [{"format_version": 1}, {}, [1, 2], torch.zeros(2)])
def test_another_format_is_told(tree: object, tmp_path: Path) -> None:
    torch.save(tree, tmp_path / "last.pt")
    with pytest.raises(HomeError, match=r"checkpoint format (1|None), want 2"):
        checkpoint.load(tmp_path / "last.pt")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert checkpoint.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
