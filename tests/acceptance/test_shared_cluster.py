"""Two studies on one cluster: trials that take one share each, and trials that take all of it at once."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import CONFIGS, DISTSEG

from distseg.records import read_json_lines

REPOSITORY = Path(__file__).resolve().parents[2]
LOCAL = [sys.executable, str(REPOSITORY / "cluster/local.py")]
CPUS = os.cpu_count() or 1

pytestmark = [pytest.mark.ray, pytest.mark.skipif(CPUS < 2, reason="two workers take two CPUs")]


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """The environment of drivers on a Ray of our own."""
    done = subprocess.run([*LOCAL, "start"], check=True, stdout=subprocess.PIPE, text=True)
    exported = dict(line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines())
    try:
        yield exported
    finally:
        subprocess.run([*LOCAL, "stop", exported["DISTSEG_LOCAL_RAY_DIR"]], check=True)


def test_a_gang_and_single_workers_take_turns(cluster: dict[str, str], shards: Path, tmp_path: Path) -> None:
    """The single workers would hold every CPU that falls free, and the gang would never see two of them."""
    overrides = ["train.batch_global=4", "model.width=2", f"study.resources.cpus_per_worker={CPUS / 2:g}"]

    def tune(name: str, *words: str) -> "subprocess.Popen[str]":
        command = [*DISTSEG, "tune", str(CONFIGS / "search/smoke.yaml"), *overrides, *words]
        return subprocess.Popen(
            [*command, "--data", str(shards), "--study", name, "--json"],
            env=os.environ | cluster | {"DISTSEG_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    singles = tune("singles", "train.epochs=100", "study.search.scheduler=none", "--trials", "8")
    gang = tune("gang", "train.epochs=2", "--trials", "1", "--workers-per-trial", "2")
    try:
        for process in (singles, gang):
            stdout, stderr = process.communicate(timeout=900)
            assert process.returncode == 0, stderr
            assert {row["status"] for row in json.loads(stdout)["rows"]} <= {"COMPLETED", "PRUNED"}
    finally:
        for process in (singles, gang):
            process.kill()
    ends = {
        name: [path for path in read_json_lines(tmp_path / f"studies/{name}/events.jsonl") if path["kind"] == "end"]
        for name in ("singles", "gang")
    }
    assert (len(ends["singles"]), len(ends["gang"])) == (8, 1)
    records = {
        name: max(path.stat().st_mtime for path in (tmp_path / f"studies/{name}/trials").glob("*/record.json"))
        for name in ("singles", "gang")
    }
    assert records["gang"] < records["singles"], "the gang waited until the other study was over"
