"""torchvision's Mask R-CNN for any number of classes, with the normalisation that its starting weights ask for.

BatchNorm cannot learn from one or two images at a time, and Mask R-CNN's batches are that small. So where nothing is
pretrained GroupNorm stands in its place (Wu and He 2018; He et al. 2019), and where something is, its statistics stay
as they are, as torchvision has it. Only ``_v2`` learns with BatchNorm: it was made so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torchvision.models import mobilenet_v3_large, resnet, resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from distseg.config import ModelConfig
from distseg.errors import ConfigError

Norm = Literal["group", "frozen", "batch"]
NormLayer = Callable[[int], nn.Module]

_ASPECTS = (0.5, 1.0, 2.0)  # height to width of anchors
_SCORE_MIN = 0.05  # of a detection, torchvision's
_GROUPS_MAX = 32
_GROUP_CHANNELS = 8  # divides the channels of all these networks


@dataclass(frozen=True)
class Architecture:
    """What tells one Mask R-CNN from another."""

    body: Callable[[NormLayer, int], nn.Module]
    """(normalisation, width) -> the network below the pyramid."""
    levels: tuple[str, ...]
    """Modules of the body whose outputs feed the pyramid, the finest (stride 4) first."""
    channels: Callable[[int], tuple[int, ...]]
    """Width -> channels of those outputs."""
    stages: tuple[tuple[str, ...], ...]
    """Modules of the body that are frozen together, first to last."""
    frozen_stages: int
    """Where weights are ``coco`` or ``imagenet`` and the config does not say: torchvision's number."""
    anchor_sizes: tuple[int, ...]
    """Sides in pixels at the input size, one a level and one for the level that pooling adds."""
    v2: bool = False
    """Deeper heads, and normalisation outside the body too (torchvision's second recipe)."""
    small: bool = False
    """``width`` channels instead of 256, and fewer proposals: what a CPU can train from nothing."""


class _NarrowResNet(resnet.ResNet):  # type: ignore[misc]
    """torchvision's ResNet with one block a stage, and ``base`` channels in the first instead of 64."""

    def __init__(self, base: int, norm: NormLayer) -> None:
        super().__init__(resnet.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
        self.inplanes = base
        self.conv1 = nn.Conv2d(3, base, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(base)
        for number in range(4):
            stage = self._make_layer(resnet.BasicBlock, base << number, 1, stride=2 if number else 1)
            setattr(self, f"layer{number + 1}", stage)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_RESNET: dict[str, Any] = {"levels": _LAYERS, "stages": (("conv1", "bn1"), *((layer,) for layer in _LAYERS))}
_RESNET50: dict[str, Any] = {
    **_RESNET,
    "body": lambda norm, width: resnet50(norm_layer=norm),
    "channels": lambda width: (256, 512, 1024, 2048),
    "frozen_stages": 2,
    "anchor_sizes": (32, 64, 128, 256, 512),
}
MASKRCNN: Mapping[str, Architecture] = {
    "maskrcnn_resnet50_fpn": Architecture(**_RESNET50),
    "maskrcnn_resnet50_fpn_v2": Architecture(**_RESNET50, v2=True),
    # torchvision's pyramid over this body has strides of 32 and 64 only: too coarse for masks
    "maskrcnn_mobilenet_v3_large_fpn": Architecture(
        body=lambda norm, width: mobilenet_v3_large(norm_layer=norm).features,
        levels=("3", "6", "12", "16"),
        channels=lambda width: (24, 40, 112, 960),
        stages=(
            ("0", "1"),
            ("2", "3"),
            ("4", "5", "6"),
            ("7", "8", "9", "10", "11", "12"),
            ("13", "14", "15"),
            ("16",),
        ),
        frozen_stages=3,
        anchor_sizes=(32, 64, 128, 256, 512),
    ),
    "maskrcnn_resnet10_fpn": Architecture(
        **_RESNET,
        body=lambda norm, width: _NarrowResNet(width // 2, norm),
        channels=lambda width: tuple(width // 2 << number for number in range(4)),
        frozen_stages=0,
        anchor_sizes=(16, 32, 64, 128, 256),
        small=True,
    ),
}
"""By their names in configs; the last one is ours, the others are torchvision's."""


class _AsGiven(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Normalises images and makes a batch of them; sizes are not its business.

    Scripted, torchvision's resize rounds differently from eager, so images are resized before the model.
    """

    def resize(
        self, image: torch.Tensor, target: dict[str, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor] | None]:
        return image, target

    def postprocess(
        self,
        result: list[dict[str, torch.Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, torch.Tensor]]:
        return result


def build_maskrcnn(cfg: ModelConfig, classes: int, norm: Norm) -> MaskRCNN:
    """A Mask R-CNN with random weights, for ``classes`` classes (its own labels are 1 to ``classes``; 0: nothing).

    It takes a list of float images (3, H, W) in [0, 1] of any sizes. In training, with a list of targets (boxes (N, 4),
    labels (N,), masks (N, H, W)), it returns the five losses by name; else boxes, labels, scores and masks (N, 1, 28,
    28) in [0, 1], each within its box.
    """
    kind = MASKRCNN[cfg.architecture]
    if kind.small and cfg.width % (2 * _GROUP_CHANNELS):
        raise ConfigError(f"model.width: got {cfg.width} for {cfg.architecture}, want a multiple of 16")
    sizes = cfg.anchor_sizes or kind.anchor_sizes
    if len(sizes) != len(kind.anchor_sizes):
        raise ConfigError(
            f"model.anchor_sizes: got {len(sizes)} sizes for {cfg.architecture}, want one for each of "
            f"{len(kind.anchor_sizes)} levels, like {list(kind.anchor_sizes)}"
        )
    width = cfg.width if kind.small else 256
    layer = _NORMS[norm]
    backbone = BackboneWithFPN(
        kind.body(layer, width),
        {level: str(number) for number, level in enumerate(kind.levels)},
        list(kind.channels(width)),
        width,
        norm_layer=layer if kind.v2 else None,
    )
    anchors = AnchorGenerator(tuple((size,) for size in sizes), (_ASPECTS,) * len(sizes))
    levels = [str(number) for number in range(len(kind.levels))]
    box_head: nn.Module
    if kind.v2:
        box_head = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [1024], norm_layer=layer)
    else:
        box_head = TwoMLPHead(width * 7 * 7, 4 * width)
    head = MaskRCNNHeads(width, [width] * (2 if kind.small else 4), 1, norm_layer=layer if kind.v2 else None)
    network = MaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(width, len(_ASPECTS), conv_depth=2 if kind.v2 else 1),
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=box_head,
        box_predictor=FastRCNNPredictor(4 * width, classes + 1),
        box_score_thresh=_SCORE_MIN,
        box_detections_per_img=cfg.detections_max,
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        mask_head=head,
        mask_predictor=MaskRCNNPredictor(width, width, classes + 1),
        **(_FEWER if kind.small else {}),
    )
    own = network.transform
    network.transform = _AsGiven(own.min_size, own.max_size, own.image_mean, own.image_std)
    return network


def freeze(network: MaskRCNN, architecture: str, stages: int) -> None:
    """Keeps the first ``stages`` stages of the body as they are; ConfigError when there are not so many."""
    known = MASKRCNN[architecture].stages
    if stages > len(known):
        raise ConfigError(f"model.frozen_stages: got {stages}, want at most {len(known)} for {architecture}")
    for stage in known[:stages]:
        for module in stage:
            network.backbone.body[module].requires_grad_(False)


_FEWER = {
    "rpn_pre_nms_top_n_train": 800,
    "rpn_pre_nms_top_n_test": 800,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 200,
    "rpn_batch_size_per_image": 128,
    "box_batch_size_per_image": 64,
}
"""Proposals and samples of a small one: most of a step's time is theirs."""


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(min(_GROUPS_MAX, channels // _GROUP_CHANNELS), channels)


_NORMS: Mapping[Norm, NormLayer] = {"group": _group_norm, "frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}
