"""DDP waits for the gradient of every parameter; PSPNet has some that never get one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from distseg.config import ModelConfig, TrainConfig
from distseg.models.build import SMP_ARCHITECTURES, BuiltModel, build_model
from distseg.train.network import over_ranks
from distseg.train.worker import LocalWorker

FIRST_OF_TWO = LocalWorker(0, 2, torch.device("cpu"))


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone: DDP keeps the same books in it."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def two_steps(built: BuiltModel) -> None:
    network = over_ranks(built.network, built, TrainConfig(), FIRST_OF_TWO)
    for _ in range(2):  # DDP complains of the first at the second
        network(torch.rand(2, 3, 64, 64)).sum().backward()


@pytest.mark.parametrize("architecture", [name for name in SMP_ARCHITECTURES if name not in ("dpt", "pan")])
def test_every_architecture_trains_under_ddp(architecture: str) -> None:
    two_steps(build_model(ModelConfig(architecture=architecture, encoder="tu-mobilenetv3_small_050"), 1))


def test_pspnet_needs_ddp_to_know() -> None:
    built = build_model(ModelConfig(architecture="pspnet", encoder="resnet18"), 1)
    assert built.unused_parameters
    two_steps(built)
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        two_steps(replace(built, unused_parameters=False))
