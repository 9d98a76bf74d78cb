"""The exported file: it follows the model, runs with torch alone; files that are not one are told."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.export.passes import move_to_device_pass

from distseg import checkpoint, config
from distseg.config import with_overrides
from distseg.data.layouts import read_corpus
from distseg.data.manifest import ShardFolder
from distseg.data.pack import pack
from distseg.data.synthetic.carvana import write_carvana
from distseg.errors import DataError, HomeError, InputError, ParityError
from distseg.export import build, parity
from distseg.export.build import _compiled, export, restore_predictor, score_file, score_labels
from distseg.export.portable import Portable, onnx_file, to_program
from distseg.export.torchscript import load, save
from distseg.leaderboard.choose import trial_folder
from distseg.predict.evaluate import evaluate
from distseg.records import ExportManifest, Score, Status, TrialRecord
from distseg.tasks import dense
from distseg.tasks.predictor import Predictor
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
    on_cpu, in_bf16 = manifest.parity[:2]
    assert (on_cpu.device, on_cpu.precision, in_bf16.precision) == ("cpu", "fp32", "bf16")
    assert on_cpu.mask_agreement > 0.999
    assert on_cpu.max_probability_difference < 1e-3
    assert 0 < on_cpu.max_logit_difference < 1e-3  # type: ignore[operator]
    assert 4e-3 < on_cpu.logit_tolerance < 4e-2 < in_bf16.logit_tolerance  # type: ignore[operator]
    assert on_cpu.cases == in_bf16.cases == ("1x3x1x1", "3x3x31x1003", "1x3x200x300", "2x3x512x512", "1x3x1280x1918")
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
@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({}, r"model.ts: holds no distseg.json; make it with 'distseg export', or .* --foreign"),
        ({"distseg.json": "{}"}, r"model.ts: its distseg.json is not of this version; make it with"),
        ({"distseg.json": "no json"}, r"model.ts: its distseg.json is not of this version; make it with"),
    ],
)
def test_somebody_elses_torchscript(extra: dict[str, str], said: str, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(tmp_path / "model.ts"), _extra_files=extra)
    with pytest.raises(DataError, match=said):
        load(tmp_path / "model.ts")


class Brightness(torch.nn.Module):
    """Somebody's own model that can be called as ours are."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float().mean(dim=1) > 127).to(torch.uint8)

    @torch.jit.export
    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=1, keepdim=True) / 255


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_foreign_file_is_run_when_told_so(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    torch.jit.save(torch.jit.script(Brightness()), str(path))
    loaded = load(path, foreign=True)
    assert (loaded.manifest.task, loaded.manifest.classes) == ("binary", ("class 0", "class 1"))
    assert loaded.module(torch.full((2, 3, 5, 6), 200, dtype=torch.uint8)).sum() == 2 * 5 * 6
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(path))
    with pytest.raises(DataError, match=r"model.ts: cannot be called as files of 'distseg export' are"):
        load(path, foreign=True)


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


# Beside model.ts


def with_session(session: onnxruntime.InferenceSession) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: torch.from_numpy(session.run(["masks"], {"images": images.numpy()})[0])


def test_onnx_and_a_program_do_the_same_and_say_what_was_found_of_them(
    trained_run: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx, program = tmp_path / "model.onnx", tmp_path / "model.pt2"
    scored: list[Score] = []  # of model.ts, of ONNX, of the program: told apart by the number of samples

    def numbered(*given: Any) -> Score:
        scored.append(score_labels(*given).model_copy(update={"samples": len(scored)}))
        return scored[-1]

    monkeypatch.setattr(build, "score_labels", numbered)
    manifest = export(trained_run, tmp_path / "model.ts", onnx=onnx, program=program)
    images = torch.randint(0, 256, (3, 3, 45, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    wanted = load(tmp_path / "model.ts").module.probabilities(images)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    masks, probabilities = session.run(None, {"images": images.numpy()})
    assert (masks.shape, masks.dtype) == ((3, 45, 70), np.uint8)
    torch.testing.assert_close(torch.from_numpy(probabilities), wanted, rtol=0, atol=1e-3)
    inside = ExportManifest.model_validate_json(session.get_modelmeta().custom_metadata_map["distseg.json"])
    assert (manifest.samples, inside.samples) == (0, 1)
    assert inside.metrics == score_labels(with_session(session), ShardFolder.open(shards), None).metrics
    [agreement] = inside.parity
    assert (agreement.device, agreement.precision, agreement.probability_tolerance) == ("cpu", "fp32", 1e-2)
    assert agreement.max_logit_difference is None
    assert 0 < agreement.max_probability_difference < 1e-4
    assert inside.of_file(scored[0], manifest.parity) == manifest
    extra = {"distseg.json": ""}
    loaded = torch.export.load(program, extra_files=extra).module()
    torch.testing.assert_close(loaded(images)[1], wanted, rtol=0, atol=1e-3)
    inside = ExportManifest.model_validate_json(extra["distseg.json"])
    assert inside.samples == 2
    assert [(each.device, each.precision) for each in inside.parity] == [(each, "fp32") for each in parity.devices()]
    assert (inside.parity[0].probability_tolerance, inside.parity[0].max_logit_difference) == (1e-3, None)
    assert inside.of_file(scored[0], manifest.parity) == manifest


class Steep(torch.nn.Module):
    """A grey level more is 0.08 of a logit, or 0.02 of a probability: as networks are that were trained for long."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * x[:, :1]


def steep() -> Predictor:
    return Predictor(Steep(), input_size=(48, 32), divisor=1, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


def test_a_programs_graph_is_bound_to_no_device() -> None:
    """No GPU's kernel resizes bytes. Tensors of device meta have no content, but take every other step."""
    program = to_program(steep())
    resizes = [node for node in program.graph.nodes if "bilinear2d_aa" in str(node.target)]
    assert [node.args[0].meta["val"].dtype for node in resizes] == [torch.float32]
    moved = move_to_device_pass(program, "meta").module()
    masks, probabilities = moved(torch.zeros(3, 3, 45, 70, dtype=torch.uint8, device="meta"))
    assert (masks.shape, probabilities.shape) == ((3, 45, 70), (3, 1, 45, 70))


@pytest.mark.parametrize("size", [(1, 1), (31, 103), (200, 300)])
def test_portable_files_see_what_the_model_sees_to_a_grey_level(size: tuple[int, int]) -> None:
    predictor, shown = steep(), []
    predictor.network.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    predictor(images), Portable(predictor)(images)
    torch.testing.assert_close(shown[1], shown[0], rtol=0, atol=1.001 / 255)


def test_onnx_runtime_follows_a_steep_network() -> None:
    assert onnx_file(to_program(steep()), steep()).agreement[0].max_probability_difference < 1e-3


class DecidesByItsInput(torch.nn.Module):
    """Tracing records one of its two ways."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool(x.mean() > -0.4):
            return x[:, :1]
        return -x[:, :1]


def test_a_network_that_tracing_does_not_follow_is_scripted(exported: Path, tmp_path: Path) -> None:
    predictor = Predictor(
        DecidesByItsInput(), input_size=(32, 32), divisor=1, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)
    )
    module, found = _compiled(predictor, load(exported).manifest, tmp_path / "draft.ts")
    assert {each.precision for each in found} == {"fp32", "bf16"}
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert module.logits(black).min() == 0.5  # -(0 - 0.5)
    assert module.logits(black + 255).min() == 0.5  # 1 - 0.5


# Exports that fail


def test_a_file_that_does_not_follow_the_model_is_not_written(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = parity.RULES["bf16"]._replace(probability=-1.0)
    monkeypatch.setitem(parity.RULES, "bf16", strict)
    with pytest.raises(
        ParityError, match=r"model.ts, cpu bf16, 1x3x1x1: probabilities differ by .*nothing was written"
    ):
        export(trained_run, tmp_path / "model.ts", onnx=tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_parity_sees_a_model_that_differs(trained_run: Path, shards: Path, exported: Path) -> None:
    tree = checkpoint.load(trained_run / "checkpoints/best.pt")
    predictor = restore_predictor(TINY, tree, ShardFolder.open(shards).manifest)
    module = load(exported).module

    def run(images: torch.Tensor) -> parity.Output:
        return parity.Output(module(images), module.probabilities(images), None)

    found = parity.check(parity.eager(predictor), run)
    assert found.mask_agreement > 0.999
    assert found.max_logit_difference is None
    with torch.no_grad():
        predictor.network.head.bias += 0.1  # type: ignore[union-attr, operator]
    with pytest.raises(ParityError, match=r"model.ts, cpu fp32, 1x3x1x1: probabilities differ by 0.0"):
        parity.check(parity.eager(predictor), run)


def test_parity_sees_labels_that_do_not_follow_the_probabilities(exported: Path) -> None:
    module = load(exported).module

    def itself(images: torch.Tensor) -> parity.Output:
        return parity.Output(module(images), module.probabilities(images), None)

    def inverted(images: torch.Tensor) -> parity.Output:
        return parity.Output(1 - module(images), module.probabilities(images), None)

    with pytest.raises(
        ParityError, match=r"differ by 0 \(want 0.001\), [1-9]\d* labels differ where the model is decided"
    ):
        parity.check(itself, inverted)


def certain(logit: float, in_bf16: float | None = None) -> parity.Model:
    """Says the same of every pixel, and something else under autocast."""

    def run(images: torch.Tensor) -> parity.Output:
        value = in_bf16 if in_bf16 is not None and torch.is_autocast_enabled("cpu") else logit
        logits = torch.full((len(images), 1, *images.shape[2:]), value)
        return parity.Output((logits[:, 0] > 0).to(torch.uint8), logits.sigmoid(), logits)

    return run


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        ("fp32", 0.024),  # 4e-3 and a thousandth of 20
        ("bf16", 3.24),  # 4e-2, a hundredth of 20, and three times the 1 that the model loses itself
    ],
)
def test_parity_sees_logits_that_differ_where_the_model_is_certain(precision: str, tolerance: float) -> None:
    model = certain(20, in_bf16=21)
    found = parity.check(model, certain(20 + 0.99 * tolerance), precision=precision)
    assert found.max_logit_difference == pytest.approx(0.99 * tolerance, abs=1e-5)
    assert found.logit_tolerance == pytest.approx(tolerance, abs=1e-5)
    assert found.max_probability_difference < 1e-8
    with pytest.raises(
        ParityError, match=rf"cpu {precision}, 1x3x1x1: logits differ by .* \(want {tolerance:.2g}, the largest is 20\)"
    ):
        parity.check(model, certain(20 + 1.01 * tolerance), precision=precision)
    with pytest.raises(ParityError, match="differ by nan"):
        parity.check(model, certain(float("nan")), precision=precision)


def test_parity_is_checked_without_tf32() -> None:
    allowed = []

    def run(images: torch.Tensor) -> parity.Output:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return certain(20)(images)

    before = torch.backends.cudnn.allow_tf32
    parity.check(run, run)
    assert set(allowed) == {False}
    assert torch.backends.cudnn.allow_tf32 is before is True  # torch's default


def test_a_manifest_without_a_tolerance_of_logits_is_read(exported: Path) -> None:
    manifest = load(exported).manifest
    older = manifest.model_dump(mode="json")
    for each in older["parity"]:
        del each["logit_tolerance"]
    read = ExportManifest.model_validate(older)
    assert {each.logit_tolerance for each in read.parity} == {None}
    assert [each.model_copy(update={"logit_tolerance": None}) for each in manifest.parity] == list(read.parity)


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
