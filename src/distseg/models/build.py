"""Model config -> network: the one visible mapping.

A name is ``classic_unet`` or an architecture of segmentation_models_pytorch with one of its encoders (its own names, or
``tu-NAME`` for timm's).
"""

import difflib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distseg.config import ModelConfig
from distseg.errors import ConfigError
from distseg.models.unet import ClassicUNet

SMP_ARCHITECTURES = (
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet",
    "deeplabv3", "deeplabv3plus", "pan", "upernet", "segformer", "dpt",
)  # fmt: skip
TORCHVISION_ARCHITECTURES = ("tv_deeplabv3_resnet50", "tv_deeplabv3_resnet101", "tv_deeplabv3_mobilenet_v3_large")
ARCHITECTURES = ("classic_unet", *SMP_ARCHITECTURES, *TORCHVISION_ARCHITECTURES)

_TAKES_DECODER_CHANNELS = ("unet", "unetplusplus", "manet")
_TORCHVISION_DIVISOR = 8  # its output stride; it takes any size, and pads less evenly itself
_SMP_DIVISOR = 32  # only `unet` takes any size; padding all of them alike keeps one rule
_MASKRCNN_DIVISOR = 32  # torchvision pads to it
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_HUB = ("huggingface.co", 443)


@dataclass(frozen=True)
class BuiltModel:
    """A network and what its input must look like."""

    network: nn.Module
    """(B, 3, H, W) float32 normalised -> logits (B, C, H, W); H and W multiples of ``divisor``."""
    divisor: int
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]."""
    std: tuple[float, float, float]
    unused_parameters: bool = False
    """Some parameters take no part in the output, so DDP must look for them."""
    any_size: bool = False
    """It takes a list of images of any sizes, and pads them itself."""
    notes: tuple[str, ...] = ()
    """What a person should know of the starting weights, a line each."""


def build_model(cfg: ModelConfig, channels_out: int) -> BuiltModel:
    """The network of a config, with its starting weights; ConfigError names what does not exist or cannot be loaded."""
    if cfg.architecture == "classic_unet":
        if cfg.weights != "none":
            raise ConfigError(f"model.weights: got '{cfg.weights}', but classic_unet starts from scratch; want none")
        network: nn.Module = ClassicUNet(channels_out, cfg.width)
        return BuiltModel(network, ClassicUNet.DIVISOR, _IMAGENET_MEAN, _IMAGENET_STD)
    if cfg.architecture in TORCHVISION_ARCHITECTURES:
        return _build_torchvision(cfg, channels_out)
    if cfg.architecture not in SMP_ARCHITECTURES:
        raise ConfigError(
            f"model.architecture: got '{cfg.architecture}'{_nearest(cfg.architecture, ARCHITECTURES)}, "
            f"want one of {', '.join(ARCHITECTURES)}"
        )
    return _build_smp(cfg, channels_out)


def build_instance_model(cfg: ModelConfig, classes: int, state: Mapping[str, torch.Tensor] | None = None) -> BuiltModel:
    """The Mask R-CNN of a config, with its starting weights; ``state``: or ready to take this one, of a checkpoint."""
    from distseg.models.maskrcnn import MASKRCNN  # here: torchvision takes a second
    from distseg.models.maskrcnn_weights import for_state, start_maskrcnn

    if cfg.architecture not in MASKRCNN:
        raise ConfigError(
            f"model.architecture: got '{cfg.architecture}'{_nearest(cfg.architecture, list(MASKRCNN))}, "
            f"want one of {', '.join(MASKRCNN)}"
        )
    if state is None:
        network, notes = start_maskrcnn(cfg, classes)
    else:
        network, notes = for_state(cfg, classes, state), ()
    return BuiltModel(network, _MASKRCNN_DIVISOR, _IMAGENET_MEAN, _IMAGENET_STD, any_size=True, notes=notes)


def _build_smp(cfg: ModelConfig, channels_out: int) -> BuiltModel:
    import segmentation_models_pytorch as smp  # here: it takes seconds, and classic_unet does without

    assert cfg.encoder is not None  # RunConfig refuses an SMP architecture without one
    options: dict[str, Any] = {}
    if cfg.decoder_channels is not None:
        if cfg.architecture not in _TAKES_DECODER_CHANNELS:
            takers = ", ".join(_TAKES_DECODER_CHANNELS)
            raise ConfigError(f"model.decoder_channels: '{cfg.architecture}' takes none; only {takers} do")
        options["decoder_channels"] = cfg.decoder_channels

    def create(encoder_weights: str | bool | None) -> nn.Module:
        module: nn.Module = smp.create_model(
            cfg.architecture, cfg.encoder, encoder_weights=encoder_weights, classes=channels_out, **options
        )
        return module

    _check_encoder(cfg.encoder, smp.encoders.get_encoder_names())
    mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    try:
        if cfg.weights == "imagenet":
            timm_encoder = cfg.encoder.startswith("tu-")
            network = _from_hub(lambda: create(True if timm_encoder else "imagenet"), cfg.encoder)
            params = _from_hub(lambda: smp.encoders.get_preprocessing_params(cfg.encoder), cfg.encoder)
            mean, std = tuple(params["mean"]), tuple(params["std"])
        else:
            network = create(None)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model: {cfg.architecture} with encoder {cfg.encoder} cannot be built: {reason}") from error
    if cfg.weights not in ("none", "imagenet"):
        _load_encoder(network, Path(cfg.weights))
    # PSPNet's encoder has a last stage that its decoder does not look at
    return BuiltModel(network, _SMP_DIVISOR, mean, std, unused_parameters=cfg.architecture == "pspnet")


def _build_torchvision(cfg: ModelConfig, channels_out: int) -> BuiltModel:
    from distseg.models.torchvision_deeplab import TorchvisionDeepLab  # here: torchvision takes a second

    def create(weights_backbone: str | None) -> nn.Module:
        return TorchvisionDeepLab(cfg.architecture, channels_out, weights_backbone=weights_backbone)

    if cfg.weights == "imagenet":
        network = _from_torch_hub(lambda: create("DEFAULT"), cfg.architecture)
    else:
        network = create(None)
        if cfg.weights != "none":
            _load_encoder(network, Path(cfg.weights))
    return BuiltModel(network, _TORCHVISION_DIVISOR, _IMAGENET_MEAN, _IMAGENET_STD)


def _check_encoder(encoder: str, smp_encoders: list[str]) -> None:
    if encoder.startswith("tu-"):
        import timm

        known = [f"tu-{name}" for name in timm.list_models()]
    else:
        known = smp_encoders
    if encoder.partition(".")[0] not in known and encoder not in known:
        raise ConfigError(
            f"model.encoder: got '{encoder}'{_nearest(encoder, known)}; want an encoder of "
            "segmentation_models_pytorch, or tu-NAME for a timm model"
        )


def _from_hub(download: Callable[[], Any], encoder: str) -> Any:
    """Runs something that may download from the model hub; fails fast where there is no network.

    The hub's own client retries for half a minute. A file already in its cache needs no network, so the cache is tried
    first.
    """
    import huggingface_hub.constants as hub

    online, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        return download()
    except OSError:  # not in the cache (LocalEntryNotFoundError, OfflineModeIsEnabled are OSErrors)
        pass
    finally:
        hub.HF_HUB_OFFLINE = online
    try:
        if hub.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        socket.create_connection(_HUB, timeout=3).close()
        return download()
    except OSError as error:
        raise ConfigError(
            f"model.weights=imagenet: weights of '{encoder}' are not in the local cache and the model hub cannot be "
            "reached; use model.weights=none, give a file (model.weights=PATH), or fetch them once with a network"
        ) from error


def _from_torch_hub(download: Callable[[], nn.Module], name: str) -> nn.Module:
    """Runs something that may download torchvision's weights; torch looks into its own cache first."""
    try:
        return download()
    except OSError as error:  # URLError is one
        raise ConfigError(
            f"model.weights=imagenet: weights for '{name}' are not in torch's cache, nor can they be had ({error}); "
            "use model.weights=none, give a file (model.weights=PATH), or fetch them once with a network"
        ) from error


def _load_encoder(network: nn.Module, path: Path) -> None:
    """Loads an encoder's weights (safetensors, or a torch file of tensors) in place.

    The names are the encoder's own, or those of the whole timm model that it was cut from.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights: Mapping[str, torch.Tensor] = load_file(os.fspath(path))
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"model.weights: no file '{path}'; want none, imagenet or the path of a safetensors or .pt file"
        ) from error
    except Exception as error:  # damaged files raise whatever their format's reader likes
        raise ConfigError(f"model.weights: {path} cannot be read as weights ({type(error).__name__})") from error
    if not isinstance(weights, Mapping):
        raise ConfigError(f"model.weights: {path} holds no mapping from names to tensors; give an encoder's state dict")
    encoder = network.encoder
    assert isinstance(encoder, nn.Module)
    own = encoder.state_dict()
    plain = {_plain(name): value for name, value in weights.items()}
    found = {name: weights.get(name, plain.get(_plain(name))) for name in own}
    wrong = [name for name, value in own.items() if getattr(found[name], "shape", None) != value.shape]
    if wrong:
        raise ConfigError(
            f"model.weights: {path} does not fit the encoder: {len(wrong)} of {len(own)} tensors missing or of another "
            f"shape, first '{wrong[0]}'; give weights of the same encoder"
        )
    encoder.load_state_dict(found)


def _plain(name: str) -> str:
    """A tensor's name in timm's whole model and in an encoder made of it: SMP adds ``model.``, timm flattens stages."""
    while name.startswith("model."):
        name = name.removeprefix("model.")
    return name.replace(".", "_")


def _nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
