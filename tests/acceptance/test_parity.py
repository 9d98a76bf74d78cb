"""Every architecture leaves as TorchScript, as a program and as ONNX, and each file follows its model.

``pytest tests/acceptance/test_parity.py -s`` prints the table.
"""

from pathlib import Path

import pytest
import torch

from distseg.config import ModelConfig
from distseg.export import parity
from distseg.export.build import _compiled
from distseg.export.portable import onnx_file, program_file, to_program
from distseg.models.build import ARCHITECTURES, build_model
from distseg.records import ExportManifest
from distseg.tasks.predictor import Predictor

MANIFEST = ExportManifest.bare(("background", "thing"))
ENCODERS = {"unetplusplus": "resnet18", "linknet": "resnet18", "segformer": "mit_b0", "dpt": "tu-vit_tiny_patch16_224"}
SIZES = {"dpt": (224, 224), "pan": (160, 128)}
"""A vision transformer takes one size; PAN halves its deepest features three times more."""


@pytest.mark.parametrize("channels", [1, 11])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture(architecture: str, channels: int, tmp_path: Path) -> None:
    whole = architecture == "classic_unet" or architecture.startswith("tv_")
    encoder = None if whole else ENCODERS.get(architecture, "resnet18")
    torch.manual_seed(0)
    built = build_model(ModelConfig(architecture=architecture, encoder=encoder, width=8), channels)
    size = SIZES.get(architecture, (128, 96))
    predictor = Predictor(built.network, input_size=size, divisor=built.divisor, mean=built.mean, std=built.std).eval()
    _, found = _compiled(predictor, MANIFEST, tmp_path / "draft.ts")
    for each in found:
        print(
            f"\n{architecture:>34} {channels:>2} {each.device} {each.precision}: {len(each.cases)} cases, masks "
            f"{each.mask_agreement:.4%}, logits {each.max_logit_difference:.1e}, probabilities "
            f"{each.max_probability_difference:.1e}",
            end="",
        )
    assert {(each.device, each.precision) for each in found} == {
        (device, precision) for device in parity.devices() for precision in parity.RULES
    }
    program = to_program(predictor)
    assert [each.device for each in program_file(program, predictor).agreement] == parity.devices()
    assert onnx_file(program, predictor).agreement
