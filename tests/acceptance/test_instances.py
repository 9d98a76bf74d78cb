"""Objects learnt from nothing on make-believe scenes, and what that is worth on a dozen real photographs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
SCENES_AP50_WANTED = 0.6
FOLD_AP50_WANTED = 0.3
HEAD_START_WANTED = 0.1
"""By how much mask AP50 on the photographs must be higher after the make-believe scenes."""


def distseg(home: Path, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "distseg.cli.main", *map(str, words)],
        env=os.environ | {"DISTSEG_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trained(home: Path, config: str, data: Path, *words: str) -> Any:
    return json.loads(distseg(home, "train", CONFIGS / config, *words, "--data", data, "--local", "--json"))


@pytest.fixture(scope="module")
def scenes_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A home, and what training on scenes printed there; the commands at the head of the config."""
    folder = tmp_path_factory.mktemp("scenes")
    home, raw, shards = folder / "home", folder / "raw", folder / "shards"
    size = ("--groups", 40, "--views", 10, "--size", "256x192")
    distseg(home, "data", "synth", "--layout", "coco", *size, "--out", raw)
    pack = ("--layout", "coco", "--size", "original", "--group-regex", "^[^_]+")
    distseg(home, "data", "pack", raw, *pack, "--out", shards)
    return home, trained(home, "coco_scenes.yaml", shards)


def test_scenes_are_learnt_from_nothing(scenes_run: tuple[Path, Any]) -> None:
    _, found = scenes_run
    assert found["metrics"]["mask_ap50"] >= SCENES_AP50_WANTED
    assert found["samples"] == 80  # of tables that training never saw


def test_photographs_after_scenes(scenes_run: tuple[Path, Any], tmp_path: Path) -> None:
    real = os.environ.get("DISTSEG_REAL_DATA")
    if real is None or not (Path(real) / "nuts_coco").is_dir():
        pytest.skip("DISTSEG_REAL_DATA names no folder with nuts_coco")
    home, scenes = scenes_run
    shards = tmp_path / "shards"
    raw = Path(real) / "nuts_coco"
    distseg(home, "data", "pack", raw, "--layout", "coco", "--size", "original", "--folds", 3, "--out", shards)
    best = home / "runs" / scenes["run"] / "checkpoints" / "best.pt"
    after = trained(home, "nuts_maskrcnn.yaml", shards, f"model.weights={best}")
    alone = trained(home, "nuts_maskrcnn.yaml", shards)
    ap50 = {name: found["metrics"]["mask_ap50"] for name, found in (("after", after), ("alone", alone))}
    assert ap50["after"] >= FOLD_AP50_WANTED
    assert ap50["after"] >= ap50["alone"] + HEAD_START_WANTED
