"""Policies compared on a local Ray, the test groups opened once, the second look refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import CONFIGS

from distseg.data.synthetic.carvana import write_carvana

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).resolve().parents[2]
SEARCH = f"""
base: {CONFIGS / "smoke.yaml"}
space:
  seed: {{kind: choice, values: [0, 1, 2]}}
  augment.policy: {{kind: choice, values: [none, flip, all]}}
search: {{algorithm: random, scheduler: none}}
resources: {{max_concurrent: 2}}
"""


def compare(folder: Path, *options: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    words = ["jobs/compare_augmentations.py", "--config", str(folder / "search.yaml"), "--home", str(folder / "home")]
    data = ["--raw", str(folder / "raw"), "--val-fraction", "0.4", "--test-fraction", "0.4"]
    data += ["--policies", "none,flip", "--seeds", "2"]
    small = ["train.epochs=2", "train.batch_global=4", "model.width=2", "data.input_size=32", "seed=3"]
    done = subprocess.run(
        [sys.executable, *words, *data, *options, *small],
        cwd=REPOSITORY,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with five raw cars (two to test on) and a home with a finished comparison; what it printed."""
    folder = tmp_path_factory.mktemp("compare")
    write_carvana(folder / "raw", groups=5, views=2, size=(64, 64))
    (folder / "search.yaml").write_text(SEARCH)
    return folder, compare(folder, "--study", "s").stdout


def comparison(folder: Path) -> Any:
    return json.loads((folder / "home/studies/s/comparison.json").read_text())


def test_every_policy_is_trained_from_every_seed_with_one_budget(compared: tuple[Path, str]) -> None:
    folder, printed = compared
    (manifest,) = folder.glob("home/shards/carvana-32x32-*/manifest.json")
    places = json.loads(manifest.read_text())["groups"].values()
    assert sorted(split for place in places for split in place["samples"]) == ["test", "test", "train", "val", "val"]
    trials = [json.loads(path.read_text()) for path in sorted(folder.glob("home/studies/s/trials/*/record.json"))]
    assert [trial["overrides"] for trial in trials] == [
        {"seed": seed, "augment.policy": policy} for seed in (3, 4) for policy in ("none", "flip")
    ]
    assert {(trial["status"], trial["images_seen"]) for trial in trials} == {("COMPLETED", 2 * 4)}
    table = comparison(folder)["val"]
    assert [(row["variant"], row["seeds"]) for row in table["rows"]] == [("none", [3, 4]), ("flip", [3, 4])]
    for row, first in zip(table["rows"], (0, 1), strict=True):
        own = [trial["metrics"]["dice_mean_per_image"] for trial in trials[first::2]]
        assert row["by_seed"] == own
        assert row["mean"] == pytest.approx(sum(own) / 2)
    assert (table["groups"], table["samples"], table["equal_budgets"]) == (2, 4, True)
    assert comparison(folder)["test_opened_at"] is None
    text = (folder / "home/studies/s/comparison.md").read_text()
    assert text in printed
    assert "| flip    |     2 |" in text
    assert (folder / "home/studies/s/comparison.png").read_bytes().startswith(b"\x89PNG")


def test_test_groups_are_opened_once(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    printed = compare(folder, "--study", "s", "--resume", "--open-test").stdout
    assert "for the first time" in printed
    assert "packing" not in printed  # the shards of the first job
    table = comparison(folder)["test"]
    assert (table["groups"], table["samples"], len(table["rows"])) == (2, 4, 2)
    assert (folder / "home/studies/s/comparison-test.png").is_file()
    seen = (folder / "home/studies/s/test.json").read_text()

    second = compare(folder, "--study", "another", "--open-test", code=2)
    assert "study 's' opened these test groups at" in second.stderr
    assert not (folder / "home/studies/another").exists()
    again = compare(folder, "--study", "s", "--resume", "--open-test-again").stdout
    assert "AGAIN: before by s" in again
    assert json.loads(seen)["scores"] == json.loads((folder / "home/studies/s/test.json").read_text())["scores"]
