"""Networks that know one size of image alone are refused before a sample is read; all others are not."""

from pathlib import Path

import pytest
import torch
from runs import spec_of, worker

from distseg.config import ModelConfig
from distseg.errors import ConfigError
from distseg.models.build import SMP_ARCHITECTURES, build_model
from distseg.train import loop
from distseg.train.loop import run
from distseg.train.network import check_input

VIT = {"architecture": "dpt", "encoder": "tu-vit_tiny_patch16_224"}
SWIN = {"architecture": "unet", "encoder": "tu-swin_tiny_patch4_window7_224"}


def no_batch(*_: object) -> None:
    raise AssertionError("a batch was read")


@pytest.mark.parametrize("model", [VIT, SWIN], ids=["vit", "swin"])
def test_an_encoder_of_one_size_is_refused_before_any_batch(
    model: dict[str, str], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train_step", no_batch)
    spec = spec_of(tmp_path / "run", shards, {f"model.{name}": value for name, value in model.items()})
    message = (
        rf"^data.input_size: {model['architecture']} with encoder {model['encoder']} does not take images of 32x32 "
        r"\(padded to 32x32\): AssertionError: .*224.*; set data.input_size=WxH"
    )
    with pytest.raises(ConfigError, match=message):
        run(spec, worker())
    assert not spec.folder.exists()


@pytest.mark.parametrize("model", [VIT, SWIN], ids=["vit", "swin"])
def test_at_its_own_size_it_is_let_through(model: dict[str, str]) -> None:
    cfg = ModelConfig.model_validate(model)
    check_input(build_model(cfg, 1), cfg, (224, 224))


@pytest.mark.parametrize("architecture", ["classic_unet", *(name for name in SMP_ARCHITECTURES if name != "dpt")])
def test_other_networks_are_let_through(architecture: str) -> None:
    cfg = ModelConfig(architecture=architecture, encoder=None if architecture == "classic_unet" else "resnet18")
    built = build_model(cfg, 3)
    before = {name: value.clone() for name, value in built.network.state_dict().items()}
    check_input(built, cfg, (130, 97))
    after = built.network.state_dict()
    assert built.network.training
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_a_picture_too_small_for_a_pyramid_is_refused() -> None:
    cfg = ModelConfig(architecture="pan", encoder="resnet18")
    with pytest.raises(ConfigError, match=r"^data.input_size: pan with encoder resnet18 does not take images of 64x64"):
        check_input(build_model(cfg, 1), cfg, (64, 64))
