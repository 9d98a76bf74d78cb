"""The main job as a person runs it: ``make demo``'s script, on synthetic cars and on real photographs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DICE_WANTED = 0.97
TRIALS_WANTED = 6


def demo(home: Path, *options: str, minutes: float) -> str:
    """Runs the demo to its end and returns what it printed; fails with it when the demo fails."""
    done = subprocess.run(
        [sys.executable, "cluster/demo.py", *options],
        cwd=REPOSITORY,
        env={**os.environ, "DISTSEG_HOME": str(home)},
        timeout=60 * minutes,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def study(home: Path) -> Path:
    """The newest study's folder."""
    return max((home / "studies").iterdir(), key=lambda folder: folder.stat().st_mtime)


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/record.json"))]


def test_demo_on_synthetic_cars_twice(tmp_path: Path) -> None:
    for times in (1, 2):
        printed = demo(tmp_path, minutes=10)
        assert len(list((tmp_path / "studies").iterdir())) == times
        folder = study(tmp_path)
        for name in ("best.ts", "best.ts.sha256", "submission.csv", "score.json"):
            assert (folder / name).is_file(), name
            assert name == "best.ts.sha256" or name == "score.json" or str(folder / name) in printed
    assert len(list((tmp_path / "shards").iterdir())) == 1  # the second demo used the first one's shards


def test_real_cars_never_seen_before(tmp_path: Path) -> None:
    data = os.environ.get("DISTSEG_REAL_DATA")
    if data is None:
        pytest.skip("DISTSEG_REAL_DATA names no folder of real photographs")
    raw = Path(data).resolve() / "carvana512"
    demo(tmp_path, "--raw", str(raw), minutes=20)
    folder = study(tmp_path)
    assert len(records(folder)) >= TRIALS_WANTED
    assert not [record for record in records(folder) if record["status"] == "FAILED"]
    score = json.loads((folder / "score.json").read_text())
    assert score["missing"] == []
    assert score["extra"] == []
    assert score["dice_mean_per_image"] >= DICE_WANTED
    # on cars that it never saw: no car of the submission stands on the training side
    manifest = json.loads(next((tmp_path / "shards").glob("*/manifest.json")).read_text())
    cars = {line.split("_")[0] for line in (folder / "submission.csv").read_text().splitlines()[1:]}
    assert {split for car in cars for split in manifest["groups"][car]["samples"]} == {"val"}
