"""The board of a study of 1,000 trials: how long a refresh takes while the study runs.

    python benchmarks/board.py

Each round one trial finishes an epoch (record and counts are replaced), then the board is read, ranked, its ties are
told and it is drawn at 200 x 50 characters, as ``leaderboard --watch`` does. The baseline is the same board by a reader
that remembers nothing. Prints one JSON line a figure: medians over the rounds, wall and CPU milliseconds.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from distseg.leaderboard.board import BoardReader, read_board
from distseg.leaderboard.live import live_text, ranks, running
from distseg.records import GROUPS_FILE, Status, StudyInfo, TrialRecord
from distseg.scores import group_values, intervals, metrics_of, width

CLASSES = ("background", "car")
GROUPS = 19  # cars of the validation split of Carvana's subset
METRIC = "dice_mean_per_image"


def write_trial(root: Path, number: int, generator: np.random.Generator) -> None:
    """A trial that has finished an epoch: figures that follow from its counts, as training leaves them."""
    quality = generator.uniform(0.8, 0.99)
    rows = np.zeros((GROUPS, width(len(CLASSES))))
    rows[:, :4] = generator.integers(1, 10_000, (GROUPS, 4))
    rows[:, 4] = 16
    rows[:, 5] = 16 * np.clip(quality + 0.02 * generator.standard_normal(GROUPS), 0, 1)
    rows[:, 6] = 0.95 * rows[:, 5]
    rows[:, 7:] = generator.integers(1, 1000, (GROUPS, 4))
    folder = root / "trials" / f"{number:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    groups = {f"car_{car:02d}": row for car, row in enumerate(rows)}
    (folder / GROUPS_FILE).write_text(json.dumps(group_values(groups, len(CLASSES))))
    TrialRecord(
        trial_id=folder.name,
        study=root.name,
        status=Status.RUNNING if number % 100 == 0 else Status.COMPLETED,
        task="binary",
        metric=METRIC,
        mode="max",
        overrides={
            "optim.lr": generator.uniform(),
            "augment.policy": "flip",
            "model.width": int(generator.integers(9)),
        },
        architecture="classic_unet",
        metrics=metrics_of(rows.sum(axis=0), CLASSES),
        intervals=intervals(rows, len(CLASSES)),
        epochs=4,
        epochs_planned=8,
        data="/shards",
        data_digest="d" * 64,
        split_digest="5" * 64,
        resolution=(512, 512),
        created_at="2025-01-01T00:00:00+00:00",
    ).save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "study"
        for number in range(args.trials):
            write_trial(root, number, generator)
        info = {"name": "study", "metric": METRIC, "mode": "max", "base": "base", "trials_planned": 2 * args.trials}
        digests = {"data": "/shards", "data_digest": "d" * 64, "split_digest": "5" * 64}
        study = StudyInfo(**info, **digests, created_at="2025-01-01T00:00:00+00:00", version="0")
        (root / "study.json").write_text(study.model_dump_json())
        reader = BoardReader([root])
        reader.read()
        ways = {"refresh": reader.read, "from nothing": lambda: read_board(root)}
        wall: dict[str, list[float]] = {way: [] for way in ways}
        cpu: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(args.rounds):
            write_trial(root, turn % args.trials, generator)
            for way, read in ways.items():
                began, began_cpu = time.perf_counter(), time.process_time()
                board = read()
                live_text(board, running(board), ranks(board), 200, 50)
                wall[way].append(1000 * (time.perf_counter() - began))
                cpu[way].append(1000 * (time.process_time() - began_cpu))
    for way in ways:
        figures = {"wall_ms": round(statistics.median(wall[way]), 1), "cpu_ms": round(statistics.median(cpu[way]), 1)}
        wanted = {"wanted_ms": 200} if way == "refresh" else {}
        print(json.dumps({"figure": f"board {way}", "trials": args.trials, "rounds": args.rounds} | figures | wanted))


if __name__ == "__main__":
    main()
