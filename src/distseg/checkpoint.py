"""Checkpoints: one file each, written atomically, loaded without executing anything (``weights_only``)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from distseg import atomic
from distseg.errors import HomeError

FORMAT_VERSION = 2


def save(path: Path, tree: Mapping[str, Any]) -> None:
    """Writes tensors, numbers, strings, lists and dicts to ``path``; on failure an older file stays as it was."""
    with atomic.replacing(path) as file:
        torch.save({"format_version": FORMAT_VERSION, **tree}, file)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU; HomeError when it is damaged or of another format version."""
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise HomeError(f"{path}: no such checkpoint; train at least one epoch first") from error
    except Exception as error:  # a damaged file raises whatever zip and pickle like
        raise HomeError(f"{path}: cannot be read as a checkpoint ({type(error).__name__}); remove it") from error
    found: dict[str, Any] = tree if isinstance(tree, dict) else {}
    version = found.get("format_version")
    if version != FORMAT_VERSION:
        raise HomeError(f"{path}: checkpoint format {version}, want {FORMAT_VERSION}; train again with this version")
    return found


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
