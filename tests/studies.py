"""A made-up study on disk, with all that a board and a report read; nothing is trained."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from distseg.records import Status, StudyInfo, TrialRecord
from distseg.scores import group_values, width

DICE = "dice_mean_per_image"
POLICIES = ("none", "flip", "adaptive")


def change(root: Path, name: str, **changed: Any) -> None:
    """Rewrites a trial's record."""
    folder = root / "trials" / name
    TrialRecord.load(folder).model_copy(update=changed).save(folder)


def searched_study(root: Path, trials: int = 16) -> Path:
    """A study whose figure follows the learning rate alone; of 16 trials, one stands apart and one has failed."""
    info = {"name": root.name, "metric": DICE, "mode": "max", "base": "smoke", "trials_planned": trials}
    digests = {"data": "/shards of cars", "data_digest": "d" * 64, "split_digest": "5" * 64}
    root.mkdir(parents=True)
    text = StudyInfo(**info, **digests, created_at="2025-01-01T00:00:00+00:00", version="0.1.0").model_dump_json()
    (root / "study.json").write_text(text)
    (root / "config.yaml").write_text("model: {width: 4}\noptim: {lr: 1.0e-3}\n")
    generator = np.random.default_rng(7)
    for number in range(trials):
        rate = float(10 ** generator.uniform(-4, -2))
        figure = 0.95 - 0.1 * abs(np.log10(rate) + 2.5) + 0.002 * generator.standard_normal()
        epochs = 4 if number % 3 else 2
        policy = POLICIES[int(generator.integers(3))]
        record = TrialRecord(
            trial_id=f"{number:04d}",
            study=root.name,
            status=Status.COMPLETED if epochs == 4 else Status.PRUNED,
            task="binary",
            metric=DICE,
            mode="max",
            overrides={"optim.lr": rate, "augment.policy": policy, "model.width": int(generator.integers(4, 7))},
            architecture="classic_unet",
            metrics={DICE: float(figure), "iou_dataset": float(figure) - 0.05},
            intervals={DICE: (float(figure) - 0.01, float(figure) + 0.008)},
            epochs=epochs,
            epochs_planned=4,
            best_epoch=epochs,
            images_seen=80 * epochs,
            resolution=(64, 64),
            samples=48,
            cpu_hours=0.01 * epochs * generator.uniform(0.8, 1.2),
            seconds=30.0 * epochs,
            checkpoint="checkpoints/best.pt",
            created_at="2025-01-01T00:00:00+00:00",
            **digests,
        )
        folder = root / "trials" / record.trial_id
        record.save(folder)
        (folder / "groups.json").write_text(json.dumps(_groups(float(figure), generator)))
        (folder / "epochs.jsonl").write_text("".join(_epoch(float(figure), policy, n) for n in range(1, epochs + 1)))
        _panels(folder / "panels")
    if trials == 16:
        change(root, "0014", resolution=(128, 128))
        change(root, "0015", status=Status.FAILED, reason="out of memory on <gpu> & gone", metrics={}, epochs=0)
        (root / "trials/0015/epochs.jsonl").unlink()
    return root


def _groups(figure: float, generator: np.random.Generator) -> dict[str, Any]:
    sums = {}
    for number in range(6):
        row = np.zeros(width(2))
        row[:4] = 50, 5, 5, 40
        row[4:6] = 8, 8 * (figure + 0.01 * generator.standard_normal())
        row[7:] = 1
        sums[f"car_{number:02d}"] = row
    return group_values(sums, 2)


def _epoch(figure: float, policy: str, epoch: int) -> str:
    row = {
        "epoch": epoch,
        "images_seen": 80 * epoch,
        "loss": 1 / epoch,
        "metrics": {DICE: figure - 0.3 / epoch + 0.075},
        "augment_level": 0.25 * (epoch - 1) if policy == "adaptive" else None,
    }
    return json.dumps(row) + "\n"


def _panels(folder: Path) -> None:
    folder.mkdir()
    picture = np.full((108, 144, 3), 60, np.uint8)
    cv2.circle(picture, (50, 50), 30, (0, 0, 200), -1)
    for name in ("best_median_worst.png", "epoch-0004.png"):
        cv2.imwrite(str(folder / name), picture)
    rows = [
        {"which": which, "key": f"car_{n:02d}", "dice": dice}
        for n, (which, dice) in enumerate([("best", 0.99), ("median", 0.9), ("worst", 0.5)], start=1)
    ]
    (folder / "best_median_worst.json").write_text(json.dumps({"images": 48, "rows": rows}))
