"""Task instance through the one loop: what it logs, that a kill changes nothing, and its file does what it does."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CONFIGS
from runs import Stop, assert_same_end, files_of, final, kill_at, record_on_disk, worker

from distseg import checkpoint
from distseg.config import load_run, with_overrides
from distseg.data.instances import instance_mask
from distseg.data.layouts import read_corpus
from distseg.data.layouts.base import Instance
from distseg.data.manifest import ShardFolder
from distseg.data.pack import pack
from distseg.data.stream import InstanceTrainBatch, InstanceTrainBatches
from distseg.data.synthetic.scenes import write_scenes
from distseg.data.targets import Targets
from distseg.errors import ConfigError, DataError, ParityError
from distseg.export import instances as export_instances
from distseg.export.build import export
from distseg.export.torchscript import load
from distseg.predict.evaluate import evaluate
from distseg.predict.instances import coco_results
from distseg.records import Status, read_json_lines
from distseg.tasks.instance import InstanceTask
from distseg.tasks.instance_losses import LOSSES
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec
from distseg.train.state import TrainState
from distseg.train.step import train_step

SIDE = 48
TINY = load_run(
    CONFIGS / "coco_smoke.yaml",
    [
        f"data.input_size={SIDE}",
        "model.anchor_sizes=[6, 12, 24, 48, 96]",
        "train.epochs=2",
        "train.batch_global=3",
        "train.checkpoint_steps=1",
        "augment.policy=flips_rotate",
    ],
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables x four photographs of 80x64, six to train on."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "raw", groups=2, views=4, size=(80, 64), seed=3)
    pack(read_corpus("coco", folder / "raw"), folder / "shards", size=None, val_fraction=0.25, folds=2)
    return folder / "shards"


def spec_of(folder: Path, shards: Path, changes: dict[str, Any] | None = None) -> RunSpec:
    return RunSpec(with_overrides(TINY, changes or {}), str(shards), folder, trial_id=folder.name)


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A run that nobody disturbed."""
    spec = spec_of(tmp_path_factory.mktemp("runs") / "whole", scenes)
    run(spec, worker())
    return spec


def test_its_files_and_losses_one_by_one(whole: RunSpec) -> None:
    assert files_of(whole.folder) >= {"record.json", "epochs.jsonl", "checkpoints/best.pt", "panels/epoch-0002.png"}
    rows = read_json_lines(whole.folder / "epochs.jsonl")
    assert [(row["epoch"], row["step"], row["samples"]) for row in rows] == [(1, 2, 2), (2, 4, 2)]
    for row in rows:
        assert tuple(row["losses"]) == LOSSES
        assert row["loss"] == pytest.approx(sum(row["losses"].values()), rel=1e-5)
        metrics = row["metrics"]
        assert metrics["val_loss"] == pytest.approx(sum(metrics[f"val_{name}"] for name in LOSSES), rel=1e-6)
        assert 0 <= metrics["mask_ap"] <= metrics["mask_ap50"] <= 1
        assert metrics["box_ap_large"] is None  # 96 x 96 pixels and more: no such object in these images
        assert [entry["class"] for entry in metrics["per_class"]] == ["leaf", "coin", "nut", "bolt"]
        assert row["score"] == metrics["mask_ap"]
    json.dumps(rows, allow_nan=False)
    record = record_on_disk(whole)
    assert (record.status, record.task, record.metric, record.resolution) == (
        Status.COMPLETED,
        "instance",
        "mask_ap",
        None,
    )


@pytest.mark.parametrize("step", [1, 2, 3])
def test_interrupted_equals_uninterrupted(
    step: int, whole: RunSpec, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of an epoch and at its borders."""
    spec = spec_of(tmp_path / "run", scenes)
    kill_at(step, monkeypatch)
    with pytest.raises(Stop):
        run(spec, worker())
    monkeypatch.undo()
    torch.manual_seed(step)  # proposals are sampled at random: nothing may hang on the global generator
    torch.rand(1)
    assert run(spec, worker()).status is Status.COMPLETED
    assert_same_end(final(spec), final(whole))
    assert [row["losses"] for row in final(spec)["history"]] == [row["losses"] for row in final(whole)["history"]]


def test_best_by_the_lowest_loss(scenes: Path, tmp_path: Path) -> None:
    changes = {"eval.metric": "val_loss", "eval.mode": "min", "train.checkpoint_steps": None, "train.epochs": 3}
    spec = spec_of(tmp_path / "run", scenes, changes)
    record = run(spec, worker())
    scores = [row["metrics"]["val_loss"] for row in final(spec)["history"]]
    assert record.best_epoch == 1 + scores.index(min(scores))


def test_in_bf16_with_a_moving_average_and_micro_batches(scenes: Path, tmp_path: Path) -> None:
    changes = {"train.precision": "bf16", "train.ema_decay": 0.9, "train.micro_batch": 2, "train.epochs": 1}
    record = run(spec_of(tmp_path / "run", scenes, changes), worker())
    assert record.status is Status.COMPLETED
    assert record.metrics["val_loss"] > 0


def test_a_run_starts_from_another_and_says_what_it_left_out(whole: RunSpec, scenes: Path, tmp_path: Path) -> None:
    weights = {"model.weights": str(whole.folder / "checkpoints/best.pt"), "train.epochs": 1}
    record = run(spec_of(tmp_path / "same", scenes, weights), worker())
    assert record.notes == ()
    tree = checkpoint.load(whole.folder / "checkpoints/best.pt")
    heads = [name for name in tree["network"] if "predictor" in name]
    for name in heads:
        tree["network"][name] = tree["network"][name][:1]
    checkpoint.save(tmp_path / "other.pt", tree)
    spec = spec_of(tmp_path / "other", scenes, {**weights, "model.weights": str(tmp_path / "other.pt")})
    [note] = run(spec, worker()).notes
    assert "roi_heads.box_predictor.cls_score" in note
    (tmp_path / "other.pt").unlink()  # a resumed run has its own weights, and still knows where it started
    assert run(spec, worker()).notes == (note,)


def parameters_after_a_step(micro_batch: int | None, scenes: Path) -> tuple[list[torch.Tensor], torch.Tensor]:
    """After one step of plain SGD on three images, one without an object."""
    cfg = with_overrides(
        TINY,
        {"train.micro_batch": micro_batch, "optim.name": "sgd", "optim.lr": 1e-3, "optim.clip_norm": None},
    )
    manifest = ShardFolder.open(scenes).manifest
    task = InstanceTask(manifest)
    torch.manual_seed(0)
    built = task.build(cfg.model)
    state = TrainState.create(cfg, built.network.train(), torch.device("cpu"), "fp32")
    noise = torch.Generator().manual_seed(1)
    images = tuple(torch.randint(0, 256, (3, 40, 48), generator=noise, dtype=torch.uint8) for _ in range(3))
    masks = torch.zeros(1, 40, 48, dtype=torch.uint8)
    masks[0, 8:30, 10:34] = 1
    one = Targets(torch.tensor([[10.0, 8.0, 34.0, 30.0]]), torch.tensor([1]), masks)
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), masks[:0])
    batch = InstanceTrainBatch(images, (one, none, one), keys=("a", "b", "c"), groups=("g",) * 3, step=0)
    trainer = task.predictor(state.network, built, (48, 48))
    sums = train_step(trainer, task, state, batch, cfg, worker(), "fp32")
    return [value.detach().clone() for value in state.network.parameters()], sums


def test_a_step_tells_the_losses_of_its_images(scenes: Path) -> None:
    parameters, sums = parameters_after_a_step(None, scenes)
    total, images, *parts = sums.tolist()
    assert images == 3
    assert total == pytest.approx(sum(parts), rel=1e-5)
    again, same = parameters_after_a_step(None, scenes)
    assert torch.equal(sums, same)
    assert all(torch.equal(one, other) for one, other in zip(parameters, again, strict=True))
    in_parts, sums = parameters_after_a_step(1, scenes)
    assert sums[1] == 3
    # A part is a mean over what was sampled in it, so parts differ from the whole, but not by much.
    assert sums[0].item() == pytest.approx(total, rel=0.2)
    assert not all(torch.equal(one, other) for one, other in zip(parameters, in_parts, strict=True))


def test_the_metric_must_be_one_of_the_tasks(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval\.metric: got 'miou', want one of mask_ap, mask_ap50, .*val_loss"):
        run(spec_of(tmp_path / "run", scenes, {"eval.metric": "miou"}), worker())


def test_no_object_to_measure_on_is_one_clear_line(scenes: Path, tmp_path: Path) -> None:
    from distseg.tasks.instance_scoring import measure_instances

    manifest = ShardFolder.open(scenes).manifest
    with pytest.raises(DataError, match="none of 0 images holds an object, so AP is undefined"):
        measure_instances(None, [], manifest, torch.device("cpu"), lambda value: [value])


@pytest.fixture(scope="module")
def exported(whole: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.ts"
    export(whole.folder, path)
    return path


def test_the_file_tells_what_it_is_and_measures_as_the_run(exported: Path, whole: RunSpec, scenes: Path) -> None:
    manifest = load(exported).manifest
    assert (manifest.task, manifest.classes) == ("instance", ("leaf", "coin", "nut", "bolt"))
    assert manifest.input_size == (SIDE, SIDE)
    assert "noise of 103x31" in manifest.parity[0].cases
    record = record_on_disk(whole)
    for found in (manifest.metrics, evaluate(exported, ShardFolder.open(scenes), "val")["metrics"]):
        for name, value in record.metrics.items():
            if isinstance(value, float):
                assert found[name] == pytest.approx(value, abs=1e-5), name


def test_the_file_finds_objects_at_the_images_own_size(exported: Path) -> None:
    module = load(exported).module
    module.network.roi_heads.score_thresh = 0.0
    images = torch.randint(0, 256, (2, 3, 77, 121), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    both = module(images)
    assert len(both) == 2
    found = both[0]
    assert found["masks"].shape == (len(found["labels"]), 77, 121)
    assert found["masks"].dtype == torch.uint8
    assert found["masks"].max() <= 1
    assert found["boxes"][:, [0, 2]].max() <= 121
    assert found["boxes"][:, [1, 3]].max() <= 77
    assert set(found["labels"].tolist()) <= {0, 1, 2, 3}
    assert (found["scores"].diff() <= 0).all()
    alone = module(images[1:])[0]  # what is found in an image does not depend on others
    assert all(torch.equal(alone[name], both[1][name]) for name in alone)
    entries = coco_results(found, image_id=7, category_ids=(2, 5, 7, 11))
    assert len(entries) == len(found["labels"])
    assert {entry["category_id"] for entry in entries} <= {2, 5, 7, 11}
    assert entries[0]["segmentation"]["size"] == [77, 121]
    runs = Instance(0, entries[0]["segmentation"]["counts"], False)
    assert (instance_mask(runs, (121, 77)) == found["masks"][0].numpy()).all()
    x, y, width, height = entries[0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(found["boxes"][0].tolist(), abs=1e-3)
    json.dumps(entries)


def test_a_file_that_finds_something_else_is_not_shipped(
    whole: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = export_instances.script_instances

    def spoilt(predictor: Any) -> Any:
        other = copy.deepcopy(predictor)  # a script shares its weights
        with torch.no_grad():
            other.network.roi_heads.box_predictor.cls_score.bias.add_(torch.tensor([0.0, 0.0, 0.5, 0.0, 0.0]))
        return script(other)

    monkeypatch.setattr(export_instances, "script_instances", spoilt)
    with pytest.raises(ParityError, match=r"exported model, .*: \d+ of \d+ objects are the model's own"):
        export(whole.folder, tmp_path / "model.ts")
    assert not (tmp_path / "model.ts").exists()


def test_batches_are_a_function_of_seed_epoch_and_key(scenes: Path) -> None:
    from distseg.train.data import open_data

    def batches(workers: int) -> InstanceTrainBatches:
        cfg = with_overrides(TINY, {"data.workers": workers})
        data = open_data(cfg, ShardFolder.open(scenes), worker())
        assert isinstance(data.train_batches, InstanceTrainBatches)
        return data.train_batches

    one, other = batches(0)[3], batches(0)[3]
    assert one.keys == other.keys
    assert all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
    assert all(torch.equal(a.masks, b.masks) for a, b in zip(one.targets, other.targets, strict=True))
