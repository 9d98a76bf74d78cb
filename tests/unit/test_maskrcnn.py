"""Mask R-CNN for any classes: heads, normalisation, where it starts, and what is refused."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from distseg.config import ModelConfig, RunConfig, with_overrides
from distseg.errors import ConfigError
from distseg.models.build import build_instance_model
from distseg.models.maskrcnn import MASKRCNN, build_maskrcnn
from distseg.models.maskrcnn_weights import norm_of

SMALL = ModelConfig(architecture="maskrcnn_resnet10_fpn", width=16)
CLASSES = 2


def config(**changes: Any) -> ModelConfig:
    return SMALL.model_copy(update=changes)


def target(height: int, width: int, objects: int) -> dict[str, torch.Tensor]:
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    masks[:, 4 : height // 2, 6 : width // 2] = 1
    box = torch.tensor([6.0, 4.0, width // 2, height // 2])
    return {"boxes": box.repeat(objects, 1), "labels": torch.ones(objects, dtype=torch.int64), "masks": masks}


def norms(network: nn.Module) -> set[type[nn.Module]]:
    kinds = (nn.GroupNorm, nn.BatchNorm2d, FrozenBatchNorm2d)
    return {type(module) for module in network.modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("name", MASKRCNN)
def test_a_step_reaches_every_parameter_and_any_sizes_give_objects(name: str) -> None:
    network = build_instance_model(config(architecture=name), 3).network.train()
    assert norms(network) == {nn.GroupNorm}  # nothing is pretrained
    images = [torch.rand(3, 64, 48), torch.rand(3, 33, 70)]
    losses = network(images, [target(64, 48, 2), target(33, 70, 0)])
    assert set(losses) == {
        *("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"),
    }
    sum(losses.values()).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []  # DDP would wait for them
    network.eval().roi_heads.score_thresh = 0.0
    with torch.inference_mode():
        found = network(images[:1])[0]
    assert 0 < len(found["labels"]) <= 100
    assert found["labels"].min() >= 1
    assert found["labels"].max() <= 3
    assert found["masks"].shape[1:] == (1, 28, 28)


@pytest.mark.parametrize("objects", [0, 1])
def test_images_without_objects_leave_no_parameter_without_gradient(objects: int) -> None:
    network = build_instance_model(SMALL, 1).network.train()
    sum(network([torch.rand(3, 40, 40)], [target(40, 40, objects)]).values()).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []


def test_a_state_tells_its_normalisation() -> None:
    for name in MASKRCNN:
        wide = config(architecture=name)
        pretrained = "batch" if MASKRCNN[name].v2 else "frozen"
        with torch.device("meta"):
            states = {norm: build_maskrcnn(wide, 1, norm).state_dict() for norm in ("group", pretrained)}  # type: ignore[arg-type]
        assert {norm: norm_of(state, name) for norm, state in states.items()} == {
            norm: norm for norm in ("group", pretrained)
        }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """As a run leaves it, of a network for two classes."""
    torch.manual_seed(1)
    path = tmp_path / "best.pt"
    torch.save({"format_version": 1, "network": build_maskrcnn(SMALL, CLASSES, "group").state_dict()}, path)
    return path


def test_another_runs_checkpoint_is_where_it_starts(checkpoint: Path) -> None:
    built = build_instance_model(config(weights=str(checkpoint)), CLASSES)
    assert built.notes == ()
    state = torch.load(checkpoint, weights_only=True)["network"]
    assert all(torch.equal(value, state[name]) for name, value in built.network.state_dict().items())


def test_heads_for_other_classes_are_left_out_and_said_so(checkpoint: Path) -> None:
    built = build_instance_model(config(weights=str(checkpoint)), CLASSES + 1)
    [note] = built.notes
    assert note.endswith(
        "roi_heads.box_predictor.bbox_pred, roi_heads.box_predictor.cls_score, roi_heads.mask_predictor.mask_fcn_logits"
    )
    state = torch.load(checkpoint, weights_only=True)["network"]
    own = built.network.state_dict()
    same = {name for name in own if own[name].shape == state[name].shape and torch.equal(own[name], state[name])}
    assert {name for name in own if name not in same} == {
        f"{part}.{kind}" for part in note.rpartition(": ")[2].split(", ") for kind in ("weight", "bias")
    }


def test_a_plain_state_dict_and_a_moving_average(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["network"]
    torch.save(state, tmp_path / "plain.pt")
    average = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"format_version": 1, "network": state, "ema": average}, tmp_path / "last.pt")
    for name, wanted in (("plain.pt", state), ("last.pt", average)):
        built = build_instance_model(config(weights=str(tmp_path / name)), CLASSES)
        key = "backbone.body.conv1.weight"
        assert torch.equal(built.network.state_dict()[key], wanted[key])


def test_frozen_statistics_come_back_frozen(tmp_path: Path) -> None:
    torch.save(build_maskrcnn(SMALL, CLASSES, "frozen").state_dict(), tmp_path / "coco.pt")
    built = build_instance_model(config(weights=str(tmp_path / "coco.pt"), frozen_stages=2), CLASSES)
    assert norms(built.network) == {FrozenBatchNorm2d}
    frozen = {name.split(".")[2] for name, value in built.network.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1", "layer1"}
    restored = build_instance_model(config(frozen_stages=2, weights="gone.pt"), CLASSES, built.network.state_dict())
    assert norms(restored.network) == {FrozenBatchNorm2d}
    assert not restored.network.backbone.body["conv1"].weight.requires_grad


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no file"),
        (b"rubbish", "cannot be read as weights"),
        ({"a": 1}, "holds no mapping from names to tensors"),
        ({"fc.weight": torch.zeros(2)}, "nothing of .* fits the body of maskrcnn_resnet10_fpn"),
    ],
)
def test_a_file_that_is_of_no_use(content: Any, line: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=rf"model\.weights: .*{line}") as caught:
        build_instance_model(config(weights=str(path)), CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", ["coco", "imagenet"])
def test_no_network_is_one_clear_line(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ConfigError, match=rf"model\.weights={weights}: .*not in torch's cache.*model\.weights=none"):
        build_instance_model(config(architecture="maskrcnn_resnet50_fpn", weights=weights), CLASSES)


def test_weights_in_torchs_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchvision publishes, made here: its names, 91 classes."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    published = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    published = {
        name: value.clone().fill_(0.5) if value.dim() == 0 or value.is_floating_point() else value
        for name, value in published.items()
    }
    monkeypatch.setattr(MaskRCNN_ResNet50_FPN_Weights, "get_state_dict", lambda self, **_: published)
    built = build_instance_model(config(architecture="maskrcnn_resnet50_fpn", weights="coco"), 3)
    assert norms(built.network) == {FrozenBatchNorm2d}
    [note] = built.notes
    assert note.startswith("model.weights=coco: ")
    left_out = note.rpartition(": ")[2].split(", ")
    assert len(left_out) == 3  # two of the box head, one of the mask head
    norm = built.network.backbone.body["bn1"]
    assert (norm.running_var + norm.eps).tolist() == pytest.approx([0.5] * 64)  # trained without epsilon
    frozen = {name.split(".")[2] for name, value in built.network.named_parameters() if not value.requires_grad}
    assert frozen == {"conv1", "layer1"}  # torchvision's two of five


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"anchor_sizes": (8, 16)},
            "model.anchor_sizes: got 2 sizes for maskrcnn_resnet10_fpn, want one for each of 5",
        ),
        ({"width": 20}, "model.width: got 20 .* want a multiple of 16"),
        ({"architecture": "maskrcnn_resnet51_fpn"}, "did you mean 'maskrcnn_resnet50_fpn'"),
        ({"weights": "coco"}, "got 'coco', but there are none for maskrcnn_resnet10_fpn"),
    ],
)
def test_what_does_not_exist_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        build_instance_model(config(**changes), CLASSES)


def test_freezing_more_stages_than_there_are_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.frozen_stages: got 9, want at most 5"):
        build_instance_model(config(weights=str(checkpoint), frozen_stages=9), CLASSES)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"model.architecture": "unet", "model.encoder": "resnet18"},
            "got 'unet' for task 'instance', want a maskrcnn_... with task 'instance'",
        ),
        ({"model.frozen_stages": 2}, "got 2 with model.weights 'none', want 0"),
        ({"loss.name": "dice"}, "has its own five losses; drop the section"),
        ({"model.encoder": "resnet18"}, "takes neither encoder nor decoder_channels"),
        ({"train.compile": True}, "train.compile: a Mask R-CNN's sizes change"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], line: str) -> None:
    base = with_overrides(RunConfig(), {"task": "instance", "model.architecture": "maskrcnn_resnet10_fpn"})
    with pytest.raises(ConfigError, match=line):
        with_overrides(base, changes)


def test_a_detector_for_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="for task 'binary', want a maskrcnn_"):
        with_overrides(RunConfig(), {"model.architecture": "maskrcnn_resnet10_fpn"})
