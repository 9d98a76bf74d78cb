"""The exported file: it follows the model, runs with torch alone; files that are not one are told."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distseg import checkpoint, config
from distseg.config import with_overrides
from distseg.data.layouts import read_corpus
from distseg.data.manifest import ShardFolder
from distseg.data.pack import pack
from distseg.data.synthetic.carvana import write_carvana
from distseg.errors import DataError, HomeError, InputError, ParityError
from distseg.export import parity
from distseg.export.build import export, restore_predictor, score_file
from distseg.export.torchscript import load, save
from distseg.leaderboard.choose import trial_folder
from distseg.predict.evaluate import evaluate
from distseg.records import Status, TrialRecord
from distseg.tasks import dense
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec
from distseg.train.worker import LocalWorker

TINY = config.load_run(
    Path(__file__).resolve().parents[2] / "configs/smoke.yaml",
    ["model.width=2", "train.epochs=2", "train.batch_global=4", "optim.lr=0.02"],
)
SMP: dict[str, Any] = {"model.encoder": "tu-mobilenetv3_small_050", "train.epochs": 1}


def trained(folder: Path, shards: Path, changes: dict[str, Any]) -> Path:
    spec = RunSpec(with_overrides(TINY, changes), str(shards), folder, trial_id=folder.name, overrides=changes)
    run(spec, LocalWorker(0, 1, torch.device("cpu")))
    return folder


@pytest.fixture(scope="module")
def trained_run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the classic U-Net."""
    return trained(tmp_path_factory.mktemp("runs") / "classic", shards, {})


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.ts"
    export(trained_run, path)
    return path


def test_the_manifest_tells_the_whole_story(exported: Path, trained_run: Path) -> None:
    manifest, record = load(exported).manifest, TrialRecord.load(trained_run)
    assert manifest.checkpoint_sha256 == checkpoint.sha256(trained_run / "checkpoints/best.pt")
    assert manifest.classes == ("background", "car")
    assert (manifest.trial, manifest.metric, manifest.samples) == ("classic", "dice_mean_per_image", 4)
    assert (manifest.input_size, manifest.resolution, manifest.divisor) == ((32, 32), (32, 32), 16)
    assert (manifest.data_digest, manifest.split_digest) == (record.data_digest, record.split_digest)
    assert with_overrides(TINY, manifest.overrides).model_dump(mode="json") == manifest.config
    assert manifest.mean == pytest.approx((0.485, 0.456, 0.406))
    # freezing rounds differently; of 4096 pixels none should care here
    assert manifest.metrics["dice_mean_per_image"] == pytest.approx(record.metrics["dice_mean_per_image"], abs=1e-3)


@pytest.mark.parametrize("name", ["unet", "fpn"])
def test_other_architectures_follow_their_models(name: str, shards: Path, tmp_path: Path) -> None:
    folder = trained(tmp_path / name, shards, {"model.architecture": name, **SMP})
    manifest = export(folder, tmp_path / "model.ts")
    assert manifest.parity.mask_agreement > 0.999
    assert manifest.parity.max_probability_difference < 1e-3
    assert len(manifest.parity.cases) == len(parity.SIZES) * len(parity.BATCHES)
    assert manifest.metrics == evaluate(tmp_path / "model.ts", ShardFolder.open(shards), "val")["metrics"]


def test_evaluate_finds_the_metrics_of_the_manifest(exported: Path, shards: Path) -> None:
    result, manifest = evaluate(exported, ShardFolder.open(shards), "val"), load(exported).manifest
    assert result["metrics"] == manifest.metrics
    assert (result["samples"], result["resolution"], result["config"]) == (4, (32, 32), manifest.config)
    assert evaluate(exported, ShardFolder.open(shards), "train")["samples"] == 8


ALONE = """
import sys
sys.modules["distseg"] = None
import torch
module = torch.jit.load(sys.argv[1])
images = torch.load(sys.argv[2], weights_only=True)
masks, probabilities = module(images), module.probabilities(images)
assert not [name for name in sys.modules if name.startswith(("torchvision", "segmentation_models", "albumentations"))]
torch.save((masks, probabilities), sys.argv[3])
"""


@pytest.mark.filterwarnings("default")
def test_torch_alone_runs_the_file(exported: Path, trained_run: Path, shards: Path, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 45, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.save(images, tmp_path / "images.pt")
    moved = tmp_path / "elsewhere.ts"
    moved.write_bytes(exported.read_bytes())
    subprocess.run([sys.executable, "-c", ALONE, moved, tmp_path / "images.pt", tmp_path / "out.pt"], check=True)
    masks, probabilities = torch.load(tmp_path / "out.pt", weights_only=True)
    assert (masks.dtype, masks.shape) == (torch.uint8, (3, 45, 70))
    assert (probabilities.dtype, probabilities.shape) == (torch.float32, (3, 1, 45, 70))
    tree = checkpoint.load(trained_run / "checkpoints/best.pt")
    predictor = restore_predictor(TINY, tree, ShardFolder.open(shards).manifest)
    with torch.inference_mode():
        torch.testing.assert_close(probabilities, predictor.probabilities(images), rtol=0, atol=1e-3)
        assert (masks == predictor(images)).float().mean() > 0.999
    assert set(masks.unique().tolist()) <= {0, 1}


def test_the_normalisation_is_the_one_that_was_trained_with(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretrained weights of some encoders bring a mean of their own, and an export does not load those weights."""
    build = dense.build_model
    monkeypatch.setattr(
        dense, "build_model", lambda *given: replace(build(*given), mean=(0.5, 0.25, 0.125), std=(0.5, 0.5, 0.5))
    )
    manifest = export(trained(tmp_path / "run", shards, {"train.epochs": 1}), tmp_path / "model.ts")
    assert manifest.mean == pytest.approx((0.5, 0.25, 0.125))
    assert manifest.std == pytest.approx((0.5, 0.5, 0.5))


def test_samples_of_their_own_sizes(tmp_path: Path) -> None:
    """Packed as they are: the network sees ``data.input_size``, and there is no one resolution to name."""
    write_carvana(tmp_path / "raw", groups=2, views=2, size=(80, 64))
    pack(read_corpus("carvana", tmp_path / "raw"), tmp_path / "shards", size=None, val_fraction=0.5)
    folder = trained(tmp_path / "run", tmp_path / "shards", {"data.input_size": [48, 32], "train.epochs": 1})
    manifest = export(folder, tmp_path / "model.ts")
    assert (manifest.input_size, manifest.resolution) == ((48, 32), None)
    assert evaluate(tmp_path / "model.ts", ShardFolder.open(tmp_path / "shards"), "val")["metrics"] == manifest.metrics


# Files that are not what they should be


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("harm", [changed, truncated])
def test_a_file_that_differs_from_its_digest(harm: Callable[[Path], None], exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.ts"
    copy.write_bytes(exported.read_bytes())
    (tmp_path / "model.ts.sha256").write_bytes((exported.parent / "model.ts.sha256").read_bytes())
    load(copy)
    harm(copy)
    with pytest.raises(DataError, match=r"model.ts: differs from the digest in model.ts.sha256; export it again"):
        load(copy)


def test_the_digest_is_what_sha256sum_reads(exported: Path) -> None:
    line = (exported.parent / "model.ts.sha256").read_text()
    assert line == f"{checkpoint.sha256(exported)}  model.ts\n"


def a_text(path: Path) -> None:
    path.write_text("no model")


def an_empty_file(path: Path) -> None:
    path.touch()


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "no model")


def a_checkpoint(path: Path) -> None:
    checkpoint.save(path, {"network": {"weight": torch.zeros(2)}})


@pytest.mark.parametrize("make", [a_text, an_empty_file, a_zip, a_checkpoint])
def test_no_torchscript_at_all(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "model.ts")
    with pytest.raises(DataError, match=r"model.ts: no TorchScript file \(.*\); export it again") as raised:
        load(tmp_path / "model.ts")
    assert "\n" not in str(raised.value)


def test_a_truncated_file_without_its_digest(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "model.ts").write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"model.ts: no TorchScript file"):
        load(tmp_path / "model.ts")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("extra", [{}, {"distseg.json": "{}"}, {"distseg.json": "no json"}])
def test_somebody_elses_torchscript(extra: dict[str, str], tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(tmp_path / "model.ts"), _extra_files=extra)
    with pytest.raises(
        DataError, match=r"model.ts: holds no distseg.json of this version; make it with 'distseg export'"
    ):
        load(tmp_path / "model.ts")


@pytest.mark.parametrize("name", ["absent.ts", "."])
def test_no_such_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; make it with 'distseg export"):
        load(tmp_path / name)


def test_a_validation_sample_that_cannot_be_used_is_not_left_out(exported: Path, shards: Path, tmp_path: Path) -> None:
    bad = ShardFolder.open(shutil.copytree(shards, tmp_path / "bad"))
    shard = next(shard for shard in bad.manifest.shards if shard.split == "val")
    entry = bad.entries(shard)[0]
    data = bytearray(bad.shard_path(shard).read_bytes())
    data[entry.members["jpg"].offset + 50] ^= 255
    bad.shard_path(shard).write_bytes(data)
    with pytest.raises(DataError, match=rf"1 samples cannot be used, first {entry.key}: .*CRC"):
        score_file(exported, bad, fold=None)


def test_other_classes_are_not_measured(exported: Path, shards: Path, tmp_path: Path) -> None:
    loaded = load(exported)
    save(loaded.module, loaded.manifest.model_copy(update={"classes": ("sky", "road")}), tmp_path / "other.ts")
    with pytest.raises(InputError, match=r"has classes sky, road, .* has background, car"):
        evaluate(tmp_path / "other.ts", ShardFolder.open(shards), "val")
    with pytest.raises(DataError, match=r"no sample in split 'test'"):
        evaluate(exported, ShardFolder.open(shards), "test")


# Exports that fail


def test_a_file_that_does_not_follow_the_model_is_not_written(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "PROBABILITY_TOLERANCE", -1.0)
    with pytest.raises(ParityError, match=r"exported model, 1x3x1x1: probabilities differ by .*nothing was written"):
        export(trained_run, tmp_path / "model.ts")
    assert list(tmp_path.iterdir()) == []


def test_parity_sees_a_model_that_differs(trained_run: Path, shards: Path, exported: Path) -> None:
    tree = checkpoint.load(trained_run / "checkpoints/best.pt")
    predictor = restore_predictor(TINY, tree, ShardFolder.open(shards).manifest)
    module = load(exported).module
    assert parity.check(predictor, module, sizes=[(40, 50)]).mask_agreement > 0.999
    with torch.no_grad():
        predictor.network.head.bias += 0.1  # type: ignore[union-attr, operator]
    with pytest.raises(ParityError, match=r"1x3x40x50: probabilities differ by 0.0"):
        parity.check(predictor, module, sizes=[(40, 50)])


def test_a_run_without_a_checkpoint(trained_run: Path, tmp_path: Path) -> None:
    record = TrialRecord.load(trained_run).model_copy(update={"status": Status.FAILED, "checkpoint": None})
    record.save(tmp_path / "run")
    with pytest.raises(HomeError, match=r"trial classic is FAILED without a checkpoint; choose another"):
        export(tmp_path / "run", tmp_path / "model.ts")
    with pytest.raises(HomeError, match=r"no record.json; is this a run's folder\?"):
        export(tmp_path, tmp_path / "model.ts")
    assert not (tmp_path / "model.ts").exists()


def test_data_that_was_packed_anew_is_not_taken_for_the_old(trained_run: Path, tmp_path: Path) -> None:
    """The path on the record is right, the shards there are others."""
    write_carvana(tmp_path / "raw", groups=2, views=2, size=(64, 64), seed=5)
    pack(read_corpus("carvana", tmp_path / "raw"), tmp_path / "shards", size=(32, 32), val_fraction=0.5)
    record = TrialRecord.load(trained_run).model_copy(update={"data": str(tmp_path / "shards")})
    copy = tmp_path / "run"
    checkpoint.save(copy / "checkpoints/best.pt", checkpoint.load(trained_run / "checkpoints/best.pt"))
    record.save(copy)
    with pytest.raises(DataError, match=r"shards: holds data \w{8}, trial classic was trained on \w{8}"):
        export(copy, tmp_path / "model.ts")
    assert not (tmp_path / "model.ts").exists()


def test_a_run_has_no_trials_to_choose_from(trained_run: Path) -> None:
    assert trial_folder(trained_run) == trained_run
    with pytest.raises(HomeError, match=r"--trial 0003: classic is a run, not a study"):
        trial_folder(trained_run, "0003")
