"""The multi-class task end to end on made-up streets with void: packed, trained, measured, exported."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from runs import Stop, assert_same_end, final, kill_at, record_on_disk, spec_of, worker

from distseg import checkpoint
from distseg.data.layouts.base import Corpus, Labels, RawSample
from distseg.data.manifest import ShardFolder
from distseg.data.pack import pack
from distseg.errors import ConfigError
from distseg.export.build import export
from distseg.predict.evaluate import evaluate
from distseg.records import Status, TrialRecord
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec

CLASSES = ("sky", "road", "tree")
VOID = 255
COLOURS = np.array([[220, 60, 40], [60, 60, 60], [40, 200, 40]], np.uint8)
SIZE = WIDTH, HEIGHT = 40, 32
STREETS, FRAMES = 4, 3
VOID_ROWS = 6  # the lowest, of every frame
MULTI: dict[str, Any] = {
    "task": "multiclass",
    "loss.name": "cross_entropy_dice",
    "loss.class_weights": "median_frequency",
    "eval.metric": "miou",
    "model.width": 4,
    "optim.lr": 0.02,
    "train.epochs": 6,
    "train.batch_global": 3,
}


@dataclass(frozen=True)
class Mask:
    """A label map in memory."""

    labels: Labels

    def read(self) -> Labels:
        return self.labels


def street(folder: Path, number: int, frame: int, draw: np.random.Generator) -> RawSample:
    """Sky over a road, with a tree; each in its colour, with some noise, over void."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[int(draw.integers(12, 20)) :] = 1
    left = int(draw.integers(0, WIDTH - 12))
    labels[4:22, left : left + 12] = 2
    noise = draw.integers(-20, 20, (HEIGHT, WIDTH, 3))
    image = np.clip(COLOURS[labels].astype(int) + noise, 0, 255).astype(np.uint8)
    image[-VOID_ROWS:] = draw.integers(0, 256, (VOID_ROWS, WIDTH, 3), np.uint8)
    labels[-VOID_ROWS:] = VOID
    key = f"street{number}_{frame}"
    path = folder / f"{key}.png"
    cv2.imwrite(str(path), image)
    return RawSample(key=key, group=f"street{number}", image=path, mask=Mask(labels))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four streets, three frames each: nine samples to train on and three to validate."""
    folder, draw = tmp_path_factory.mktemp("streets"), np.random.default_rng(0)
    samples = [street(folder, number, frame, draw) for number in range(STREETS) for frame in range(FRAMES)]
    corpus = Corpus("made-up", "multiclass", CLASSES, VOID, samples)
    pack(corpus, folder / "shards", size=SIZE, val_fraction=0.25)
    return folder / "shards"


@pytest.fixture(scope="module")
def trained(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    spec = spec_of(tmp_path_factory.mktemp("runs") / "streets", streets, MULTI)
    run(spec, worker())
    return spec


def test_it_learns_what_colours_tell(trained: RunSpec) -> None:
    record = TrialRecord.load(trained.folder)
    assert (record.status, record.task, record.metric, record.samples) == (Status.COMPLETED, "multiclass", "miou", 3)
    assert record.metrics["miou"] > 0.8
    assert [row["class"] for row in record.metrics["per_class"]] == list(CLASSES)
    assert record.metrics["miou"] == pytest.approx(np.mean([row["iou"] for row in record.metrics["per_class"]]))
    assert record.metrics["miou"] == max(row["score"] for row in final(trained)["history"])
    assert "iou_dataset" not in record.metrics


def test_only_pixels_that_count_are_counted(trained: RunSpec) -> None:
    (group,) = json.loads((trained.folder / "groups.json").read_text()).values()
    counts = np.array(group["confusion"])
    assert counts.shape == (3, 3)
    assert counts.sum() == FRAMES * WIDTH * (HEIGHT - VOID_ROWS)
    accuracy = record_on_disk(trained).metrics["pixel_accuracy"]
    assert accuracy == pytest.approx(np.trace(counts) / counts.sum())


def test_ignored_pixels_do_not_change_the_weights(trained: RunSpec, streets: Path) -> None:
    """One step of the run's own: what the network says of void pixels has no gradient."""
    from distseg.tasks.dense import DenseTask

    manifest = ShardFolder.open(streets).manifest
    assert manifest.ignore_label == VOID
    assert manifest.class_pixels["ignore"] == STREETS * FRAMES * WIDTH * VOID_ROWS
    task = DenseTask(trained.config, manifest)
    assert task.channels_out == 3
    logits = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    masks[:, -VOID_ROWS:] = VOID
    task.loss(logits, masks).sum().backward()
    assert logits.grad is not None
    assert logits.grad[:, :, -VOID_ROWS:].abs().sum() == 0
    assert logits.grad[:, :, :-VOID_ROWS].abs().sum() > 0


def test_its_panel_is_there(trained: RunSpec) -> None:
    picture = cv2.imread(str(trained.folder / "panels/epoch-0006.png"))
    assert picture.shape == (FRAMES * (HEIGHT + 4), 4 * (WIDTH + 4), 3)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz"])
def test_every_loss_trains(loss: str, streets: Path, tmp_path: Path) -> None:
    changes = {**MULTI, "loss.name": loss, "loss.boundary_weight": 1.0, "train.epochs": 3}
    spec = spec_of(tmp_path / "run", streets, changes)
    run(spec, worker())
    first, *_, last = [row["loss"] for row in final(spec)["history"]]
    assert last < first


@pytest.mark.parametrize("step", [4, 10])
def test_interrupted_equals_uninterrupted(
    step: int, streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**MULTI, "train.epochs": 4, "train.ema_decay": 0.5, "train.micro_batch": 2, "optim.name": "adam"}
    undisturbed, spec = (spec_of(tmp_path / name, streets, changes) for name in ("whole", "run"))
    run(undisturbed, worker())
    kill_at(step, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    run(spec, worker())
    assert_same_end(final(spec), final(undisturbed))


def test_the_exported_file_has_the_metrics_of_the_run(trained: RunSpec, streets: Path, tmp_path: Path) -> None:
    manifest, record = export(trained.folder, tmp_path / "model.ts"), TrialRecord.load(trained.folder)
    assert (manifest.task, manifest.classes, manifest.metric) == ("multiclass", CLASSES, "miou")
    assert manifest.metrics["miou"] == pytest.approx(record.metrics["miou"], abs=2e-3)
    assert evaluate(tmp_path / "model.ts", ShardFolder.open(streets), "val")["metrics"] == manifest.metrics
    module = torch.jit.load(str(tmp_path / "model.ts"))
    images = torch.randint(0, 256, (2, 3, 33, 50), dtype=torch.uint8)
    labels, probabilities = module(images), module.probabilities(images)
    assert probabilities.shape == (2, 3, 33, 50)
    assert torch.equal(labels, probabilities.argmax(1).to(torch.uint8))
    assert labels.max() <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "binary", "loss.name": "bce"},
            r"task: got 'binary', but the shards are for 'multiclass' with 3 classes",
        ),
        ({"eval.metric": "iou_dataset"}, r"eval.metric: got 'iou_dataset', want one of .*miou"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(
    changes: dict[str, Any], message: str, streets: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(spec_of(tmp_path / "run", streets, {**MULTI, "eval.metric": "miou", **changes}), worker())
    assert list(tmp_path.iterdir()) == []


def test_cars_are_no_multiclass_data(shards: Path, tmp_path: Path) -> None:
    changes = {"task": "multiclass", "loss.name": "cross_entropy"}
    with pytest.raises(
        ConfigError, match=r"got 'multiclass', but the shards are for 'binary' with 2 .* config of task 'binary'"
    ):
        run(spec_of(tmp_path / "run", shards, changes), worker())
    assert list(tmp_path.iterdir()) == []


def test_best_says_which_classes_it_tells_apart(trained: RunSpec) -> None:
    tree = checkpoint.load(trained.folder / "checkpoints/best.pt")
    assert tree["network"]["head.weight"].shape[0] == 3
