"""Where a Mask R-CNN starts: from nothing, from torchvision's weights, or from a file.

A file is a plain state dict, or ``best.pt`` or ``last.pt`` of one of our runs. Which normalisation a network has, its
state dict tells: frozen and learned statistics are named in it, GroupNorm has none.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights
from torchvision.models.detection import (
    FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    MaskRCNN,
    MaskRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
)
from torchvision.ops import FrozenBatchNorm2d

from distseg.config import ModelConfig
from distseg.errors import ConfigError
from distseg.models.maskrcnn import MASKRCNN, Norm, build_maskrcnn, freeze

State = Mapping[str, torch.Tensor]

_COCO: Mapping[str, Any] = {
    "maskrcnn_resnet50_fpn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "maskrcnn_resnet50_fpn_v2": MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "maskrcnn_mobilenet_v3_large_fpn": FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1,  # its body, above all
}
_IMAGENET: Mapping[str, Any] = {
    "maskrcnn_resnet50_fpn": ResNet50_Weights.IMAGENET1K_V1,
    "maskrcnn_resnet50_fpn_v2": ResNet50_Weights.IMAGENET1K_V1,
    "maskrcnn_mobilenet_v3_large_fpn": MobileNet_V3_Large_Weights.IMAGENET1K_V1,
}
_NAMED: Mapping[str, Mapping[str, Any]] = {"coco": _COCO, "imagenet": _IMAGENET}
_EPS_OF_COCO_V1 = 0.0  # torchvision's Mask R-CNN was trained with it; a FrozenBatchNorm2d has another


def start_maskrcnn(cfg: ModelConfig, classes: int) -> tuple[MaskRCNN, tuple[str, ...]]:
    """The network with its starting weights, frozen stages frozen, and a line on what of the weights was left out."""
    notes: tuple[str, ...] = ()
    if cfg.weights == "none":
        network = build_maskrcnn(cfg, classes, "group")
    else:
        state = _named_state(cfg) if cfg.weights in _NAMED else read_state(Path(cfg.weights))
        network = build_maskrcnn(cfg, classes, norm_of(state, cfg.architecture))
        notes = _fill(network, state, cfg)
    freeze(network, cfg.architecture, _frozen_stages(cfg))
    return network, notes


def for_state(cfg: ModelConfig, classes: int, state: State) -> MaskRCNN:
    """A random network that takes this state of a checkpoint, whatever that started from; frozen as its config says."""
    network = build_maskrcnn(cfg, classes, norm_of(state, cfg.architecture))
    freeze(network, cfg.architecture, _frozen_stages(cfg))
    return network


def _frozen_stages(cfg: ModelConfig) -> int:
    if cfg.frozen_stages is None:
        return MASKRCNN[cfg.architecture].frozen_stages if cfg.weights in _NAMED else 0
    return cfg.frozen_stages


def norm_of(state: State, architecture: str) -> Norm:
    """The normalisation of the network that a state dict is of."""
    if not any(name.endswith("running_mean") for name in state):
        return "group"
    return "batch" if MASKRCNN[architecture].v2 else "frozen"


def read_state(path: Path) -> State:
    """The state dict in a file; of one of our checkpoints, the weights that it validates."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"model.weights: no file '{path}'; want none, coco, imagenet or the path of a .pt or safetensors file"
        ) from error
    except Exception as error:  # damaged files raise whatever zip and pickle like
        raise ConfigError(f"model.weights: {path} cannot be read as weights ({type(error).__name__})") from error
    if isinstance(tree, dict) and "network" in tree:
        tree = tree.get("ema") or tree["network"]
    if not isinstance(tree, Mapping) or not all(isinstance(value, torch.Tensor) for value in tree.values()):
        raise ConfigError(
            f"model.weights: {path} holds no mapping from names to tensors; give a state dict, or best.pt of a run"
        )
    return tree


def _named_state(cfg: ModelConfig) -> State:
    """torchvision's weights, under our names; from torch's cache or by a download."""
    weights = _NAMED[cfg.weights].get(cfg.architecture)
    if weights is None:
        raise ConfigError(
            f"model.weights: got '{cfg.weights}', but there are none for {cfg.architecture}; want none or a file"
        )
    state: dict[str, torch.Tensor] = _downloaded(lambda: weights.get_state_dict(progress=False), cfg, weights.url)
    if cfg.weights == "imagenet":
        body = {name.removeprefix("features."): value for name, value in state.items()}
        return {f"backbone.body.{name}": value for name, value in body.items()}
    if cfg.architecture == "maskrcnn_resnet50_fpn":
        eps = FrozenBatchNorm2d(1).eps
        return {
            name: value + (_EPS_OF_COCO_V1 - eps) if name.endswith("running_var") else value
            for name, value in state.items()
        }
    return state


def _downloaded(download: Callable[[], dict[str, torch.Tensor]], cfg: ModelConfig, url: str) -> dict[str, torch.Tensor]:
    try:
        return download()
    except OSError as error:  # URLError is one
        raise ConfigError(
            f"model.weights={cfg.weights}: weights of {cfg.architecture} are not in torch's cache, nor can they be had "
            f"from {urlsplit(url).hostname} ({error}); use model.weights=none, give a file (model.weights=PATH), or "
            "fetch them once with a network"
        ) from error


def _fill(network: MaskRCNN, state: State, cfg: ModelConfig) -> tuple[str, ...]:
    """Loads what fits, in place; a line on what does not."""
    own = network.state_dict()
    misfits = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    loaded = network.load_state_dict({k: v for k, v in state.items() if k not in misfits}, strict=False)
    fresh = [name for name in loaded.missing_keys if not name.endswith("num_batches_tracked")]
    body = [name for name in own if name.startswith("backbone.body.")]
    if set(body) <= set(fresh):
        raise ConfigError(
            f"model.weights: nothing of {cfg.weights} fits the body of {cfg.architecture} (first: '{body[0]}'); "
            "give weights of the same architecture"
        )
    if not fresh:
        return ()
    parts = sorted({name.rpartition(".")[0] for name in fresh})
    return (f"model.weights={cfg.weights}: not in it, or of another shape, and so random: {', '.join(parts)}",)
