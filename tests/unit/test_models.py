"""From a model config to a network: every architecture runs, every wrong name is one clear line."""

import os
import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from distseg.config import ModelConfig
from distseg.errors import ConfigError
from distseg.export import parity
from distseg.export.torchscript import to_torchscript
from distseg.models.build import SMP_ARCHITECTURES, TORCHVISION_ARCHITECTURES, build_model
from distseg.models.unet import ClassicUNet
from distseg.tasks.predictor import Predictor

SMALL_ENCODERS = ("tu-mobilenetv3_small_050", "resnet18")
CLASSIC = ModelConfig(width=4)


def config(**fields: object) -> ModelConfig:
    return ModelConfig.model_validate({"architecture": "unet", "encoder": "resnet18"} | fields)


def encoder_of(network: nn.Module) -> nn.Module:
    assert isinstance(network.encoder, nn.Module)
    return network.encoder


def run(network: nn.Module, size: int, batch: int = 1) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = network.eval()(torch.zeros(batch, 3, size, size))
    return logits


# The classic U-Net


def test_parameters_of_the_classic_u_net_by_hand() -> None:
    def block(before: int, after: int) -> int:  # two 3x3 convolutions without bias, two BatchNorms of 2 a channel
        return 9 * before * after + 9 * after * after + 2 * 2 * after

    down = block(3, 64) + block(64, 128) + block(128, 256) + block(256, 512) + block(512, 1024)
    up = sum(4 * 2 * c * c + c + block(2 * c, c) for c in (512, 256, 128, 64))  # a 2x2 transposed convolution each
    wanted = down + up + 64 + 1  # and the head
    assert wanted == 31_037_633
    assert sum(parameter.numel() for parameter in ClassicUNet(1, 64).parameters()) == wanted


@pytest.mark.parametrize("channels", [1, 12])
def test_the_classic_u_net_keeps_the_size(channels: int) -> None:
    with torch.inference_mode():
        assert ClassicUNet(channels, 4).eval()(torch.zeros(2, 3, 32, 48)).shape == (2, channels, 32, 48)


def test_the_classic_u_net_sees_far_and_keeps_detail() -> None:
    """A changed pixel changes its own logit (skips) and one 40 pixels away (bottleneck)."""
    torch.manual_seed(0)
    network = ClassicUNet(1, 4).eval()
    images = torch.rand(1, 3, 96, 96, requires_grad=True)
    [gradient] = torch.autograd.grad(network(images)[0, 0, 48, 48], images)
    assert gradient[0, :, 48, 48].abs().sum() > 0
    assert gradient[0, :, 8, 48].abs().sum() > 0


def test_the_classic_u_net_trains_all_its_parameters() -> None:
    network = build_model(CLASSIC, 1).network
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("size", [(37, 53), (1, 1), (64, 200)])
def test_odd_sizes_go_through_the_predictor(size: tuple[int, int]) -> None:
    built = build_model(CLASSIC, 1)
    predictor = Predictor(built.network, input_size=None, divisor=built.divisor, mean=built.mean, std=built.std).eval()
    with torch.inference_mode():
        assert predictor(torch.zeros(2, 3, *size, dtype=torch.uint8)).shape == (2, *size)


def test_the_classic_u_net_has_no_pretrained_weights() -> None:
    with pytest.raises(ConfigError, match=r"model\.weights: got 'imagenet', but classic_unet starts from scratch"):
        build_model(ModelConfig(weights="imagenet"), 1)


# Every architecture


@pytest.mark.parametrize("encoder", SMALL_ENCODERS)
@pytest.mark.parametrize("architecture", [name for name in SMP_ARCHITECTURES if name != "dpt"])
def test_every_architecture_runs(architecture: str, encoder: str) -> None:
    built = build_model(config(architecture=architecture, encoder=encoder), 1)
    size = 128 if architecture == "pan" else 64  # PAN's pyramid pools a map of 1/32 three times
    assert run(built.network, size).shape == (1, 1, size, size)


def test_dpt_runs_with_a_vision_transformer() -> None:
    """At 224 pixels, the only size of its position embedding."""
    built = build_model(config(architecture="dpt", encoder="tu-vit_tiny_patch16_224"), 1)
    assert run(built.network, 224).shape == (1, 1, 224, 224)


def test_channels_out_and_decoder_channels_reach_the_network() -> None:
    narrow = build_model(config(decoder_channels=(32, 16, 8, 8, 4)), 5).network
    usual = build_model(config(), 5).network
    assert run(narrow, 64, batch=2).shape == (2, 5, 64, 64)
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in usual.parameters())


@pytest.mark.parametrize("architecture", SMP_ARCHITECTURES)
def test_smp_knows_our_names(architecture: str) -> None:
    import segmentation_models_pytorch as smp

    assert architecture in smp.MODEL_ARCHITECTURES_MAPPING


# torchvision's DeepLabV3

TV = "tv_deeplabv3_mobilenet_v3_large"


@pytest.fixture(scope="module")
def torchvision_predictor() -> Predictor:
    """The smallest of them, with five classes, untrained."""
    torch.manual_seed(0)
    built = build_model(config(architecture=TV, encoder=None), 5)
    return Predictor(built.network, input_size=None, divisor=built.divisor, mean=built.mean, std=built.std).eval()


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (96, 40)])
def test_torchvisions_deeplab_takes_any_size(size: tuple[int, int], torchvision_predictor: Predictor) -> None:
    with torch.inference_mode():
        images = torch.zeros(2, 3, *size, dtype=torch.uint8)
        assert torchvision_predictor.logits(images).shape == (2, 5, *size)
        labels = torchvision_predictor(images)
    assert (labels.shape, labels.dtype) == ((2, *size), torch.uint8)


def test_torchvisions_deeplab_trains_all_its_parameters() -> None:
    network = build_model(config(architecture=TV, encoder=None), 3).network.train()
    network(torch.rand(2, 3, 64, 64)).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # deprecated, and works
def test_torchvisions_deeplab_is_exported(torchvision_predictor: Predictor) -> None:
    module = to_torchscript(torchvision_predictor)
    rule = parity.RULES["fp32"]._replace(cases=((1, 64, 64), (2, 33, 50)))
    agreement = parity.check(
        parity.eager(torchvision_predictor),
        lambda images: parity.Output(module(images), module.probabilities(images), module.logits(images)),
        rule=rule,
    )
    assert agreement.mask_agreement > 0.999
    assert agreement.max_probability_difference < 1e-3


def test_torchvisions_weights_reach_the_backbone(tmp_path: Path) -> None:
    donor = encoder_of(build_model(config(architecture=TV, encoder=None), 2).network).state_dict()
    torch.save(donor, tmp_path / "weights.pt")
    built = build_model(config(architecture=TV, encoder=None, weights=str(tmp_path / "weights.pt")), 3)
    again = encoder_of(built.network).state_dict()
    assert all(torch.equal(again[name], donor[name]) for name in donor)


def test_torchvisions_weights_out_of_reach_are_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # whatever the user's own cache holds

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(
        ConfigError, match=r"model.weights=imagenet: weights for 'tv_deep.* model.weights=none"
    ) as caught:
        build_model(config(architecture=TV, encoder=None, weights="imagenet"), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TORCHVISION_ARCHITECTURES)
def test_torchvision_knows_our_names(name: str) -> None:
    from torchvision.models import segmentation

    assert hasattr(segmentation, name.removeprefix("tv_"))


# Names and combinations that cannot be


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "unett"}, r"model\.architecture: got 'unett' \(did you mean 'unet'\?\), want one of classic"),
        ({"architecture": "zzzz"}, r"model\.architecture: got 'zzzz', want one of classic_unet, unet"),
        ({"encoder": "resnet19"}, r"model\.encoder: got 'resnet19' \(did you mean 'resnet1[08]'\?\)"),
        ({"encoder": "tu-resnet81"}, r"model\.encoder: got 'tu-resnet81' \(did you mean 'tu-resnet"),
        ({"encoder": "tu-resnet18.nobody"}, r"encoder tu-resnet18\.nobody cannot be built"),
        ({"encoder": "tu-resnet18.nobody", "weights": "imagenet"}, r"encoder tu-resnet18\.nobody cannot be built"),
        ({"encoder": "resnet18.nobody"}, r"encoder resnet18\.nobody cannot be built"),
        ({"architecture": "dpt"}, "dpt with encoder resnet18 cannot be built: Only Timm encoders"),
        ({"encoder": "tu-vit_tiny_patch16_224"}, "unet with encoder tu-vit_tiny_patch16_224 cannot be built"),
        ({"architecture": "linknet", "encoder": "mit_b0"}, "linknet with encoder mit_b0 cannot be built"),
        ({"decoder_channels": (8, 4)}, "unet with encoder resnet18 cannot be built: .*2 blocks"),
        ({"architecture": "fpn", "decoder_channels": (8, 4)}, r"model\.decoder_channels: 'fpn' takes none; only unet"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_one_clear_line(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_model(config(**fields), 1)
    assert "\n" not in str(caught.value)


# Weights


@pytest.mark.parametrize("encoder", SMALL_ENCODERS)
@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no network"])
def test_pretrained_weights_out_of_reach_fail_fast(
    encoder: str, offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants as hub

    tried = []

    def refuse(address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        tried.append(address)
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))  # whatever the user's own cache holds
    monkeypatch.setattr(socket, "create_connection", refuse)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=f"weights of '{encoder}' are not in the local cache .* model.weights=none"):
        build_model(config(encoder=encoder, weights="imagenet"), 1)
    assert time.monotonic() - started < 10
    assert bool(tried) is not offline
    assert hub.HF_HUB_OFFLINE is offline  # as it was


@pytest.mark.parametrize("encoder", SMALL_ENCODERS)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights_from_a_file_reach_the_encoder(encoder: str, ending: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    donor = encoder_of(build_model(config(encoder=encoder), 1).network).state_dict()
    file = tmp_path / f"weights.{ending}"
    if ending == "pt":
        torch.save(donor, file)
    else:
        save_file(donor | {"fc.weight": torch.zeros(3)}, file)  # a classifier's head is not asked for
    again = encoder_of(build_model(config(encoder=encoder, weights=str(file)), 1).network).state_dict()
    assert again.keys() == donor.keys()
    assert all(torch.equal(again[name], donor[name]) for name in donor)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("architecture", "name", "head"),
    [("unet", "resnet18", "fc."), ("unet", "convnext_atto", "head."), ("dpt", "vit_tiny_patch16_224", "none")],
)
def test_a_whole_timm_model_fills_the_encoder_cut_from_it(
    architecture: str, name: str, head: str, tmp_path: Path
) -> None:
    """``head``: what the encoder leaves out; DPT's has the whole model."""
    import timm

    donor = timm.create_model(name, pretrained=False).state_dict()
    for number, value in enumerate(donor.values()):
        value.fill_(number % 97)  # its own number each
    torch.save(donor, tmp_path / "model.pt")
    built = build_model(config(architecture=architecture, encoder=f"tu-{name}", weights=str(tmp_path / "model.pt")), 1)
    own = encoder_of(built.network).state_dict()
    wanted = [value for key, value in donor.items() if not key.startswith(head)]
    assert len(own) <= len(wanted)
    assert sum(torch.equal(a, b) for a, b in zip(own.values(), wanted, strict=False)) == len(own)


def test_weights_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    other = encoder_of(build_model(config(encoder="resnet34"), 1).network).state_dict()
    short = dict(list(encoder_of(build_model(config(), 1).network).state_dict().items())[:-1])
    cases: list[tuple[str, object, str]] = [
        ("other.pt", {name: value[:1] for name, value in other.items() if value.ndim}, "does not fit the encoder: "),
        ("short.pt", short, r"1 of 1\d\d tensors missing or of another shape"),
        ("nested.pt", {"state_dict": short}, r"1\d\d of 1\d\d tensors missing"),
        ("tensor.pt", torch.zeros(3), "holds no mapping from names to tensors"),
        ("list.pt", [5], "holds no mapping from names to tensors"),
        ("epoch.pt", dict.fromkeys(other, 5), "does not fit the encoder: "),
        ("number.pt", 5, "holds no mapping from names to tensors"),
        ("garbage.pt", b"garbage", "cannot be read as weights"),
        ("garbage.safetensors", b"garbage", "cannot be read as weights"),
        ("harmful.pt", pickle.dumps(Harmful(tmp_path / "done")), "cannot be read as weights"),
    ]
    for name, content, message in cases:
        file = tmp_path / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(ConfigError, match=message) as caught:
            build_model(config(weights=str(file)), 1)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "done").exists()
    for path, message in [(tmp_path / "none.pt", "no file"), (tmp_path, "cannot be read as weights")]:
        with pytest.raises(ConfigError, match=message):
            build_model(config(weights=str(path)), 1)


def test_statistics_of_batch_norm_follow_short_trainings() -> None:
    """At torchvision's 0.01 for MobileNet, validation lags hundreds of steps behind the weights."""
    network = build_model(ModelConfig(architecture="tv_deeplabv3_mobilenet_v3_large"), 3).network
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
