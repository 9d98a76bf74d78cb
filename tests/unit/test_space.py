"""The searched space: suggestions to overrides and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distseg.config import Dimension, RunConfig, SearchConfig, When, with_overrides
from distseg.search.space import applies, base_point, epochs_max, parameters, suggest

SPACE = {
    "model.architecture": Dimension(kind="choice", values=("classic_unet", "unet")),
    "model.decoder_channels": Dimension(
        kind="choice", values=([32, 16], [64, 32]), when=When(path="model.architecture", among=("unet",))
    ),
    "model.width": Dimension(kind="int", low=4, high=9),
    "optim.lr": Dimension(kind="loguniform", low=1e-4, high=1e-2),
    "loss.dice_weight": Dimension(kind="uniform", low=0.25, high=0.5),
}


BASE = RunConfig()


class Scripted:
    """An Optuna trial that suggests what it is told, and remembers what it was asked for."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.asked: list[tuple[Any, ...]] = []

    def suggest_categorical(self, name: str, choices: list[int]) -> Any:
        self.asked.append((name, choices))
        return self.found[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        self.asked.append((name, low, high, log))
        return float(self.found[name])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.asked.append((name, low, high))
        return int(self.found[name])


FOUND = {"model.architecture": 1, "model.decoder_channels": 0, "model.width": 5, "optim.lr": 0.001}
FOUND |= {"loss.dice_weight": 0.3}


def test_suggestions_become_overrides() -> None:
    trial = Scripted(FOUND)
    assert suggest(SPACE, trial, BASE) == {
        "model.architecture": "unet",
        "model.decoder_channels": [32, 16],
        "model.width": 5,
        "optim.lr": 0.001,
        "loss.dice_weight": 0.3,
    }
    assert trial.asked == [
        ("model.architecture", [0, 1]),
        ("model.decoder_channels", [0, 1]),
        ("model.width", 4, 9),
        ("optim.lr", 1e-4, 1e-2, True),
        ("loss.dice_weight", 0.25, 0.5, False),
    ]


def test_a_field_is_asked_for_only_where_its_condition_holds() -> None:
    trial = Scripted(FOUND | {"model.architecture": 0})
    assert "model.decoder_channels" not in suggest(SPACE, trial, BASE)
    assert "model.decoder_channels" not in [asked[0] for asked in trial.asked]


def test_what_belongs_to_another_branch_goes_back_to_its_default() -> None:
    """A base U-Net with narrow decoder blocks; an architecture that has none must not inherit them."""
    base = with_overrides(
        BASE, {"model.architecture": "unet", "model.encoder": "resnet18", "model.decoder_channels": [8, 4]}
    )
    assert suggest(SPACE, Scripted(FOUND | {"model.architecture": 0}), base)["model.decoder_channels"] is None
    assert suggest(SPACE, Scripted(FOUND), base)["model.decoder_channels"] == [32, 16]


def test_a_condition_on_a_field_that_does_not_apply_does_not_hold() -> None:
    dimension = Dimension(kind="choice", values=(1,), when=When(path="model.decoder_channels", among=([32, 16],)))
    assert applies(dimension, {"model.decoder_channels": [32, 16]})
    assert not applies(dimension, {"model.architecture": "classic_unet"})


@given(
    st.fixed_dictionaries(
        {
            "model.architecture": st.integers(0, 1),
            "model.decoder_channels": st.integers(0, 1),
            "model.width": st.integers(4, 9),
            "optim.lr": st.floats(1e-4, 1e-2),
            "loss.dice_weight": st.floats(0.25, 0.5),
        }
    )
)
def test_parameters_are_the_way_back(found: dict[str, Any]) -> None:
    overrides = suggest(SPACE, Scripted(found), BASE)
    wanted = {name: value for name, value in found.items() if name in overrides}
    assert parameters(SPACE, overrides) == wanted


def test_the_most_epochs_count_the_default_that_a_branch_goes_back_to() -> None:
    base = with_overrides(BASE, {"train.epochs": BASE.train.epochs - 1})
    epochs = {"kind": "choice", "values": [2], "when": {"path": "model.width", "among": [4]}}
    space = {"model.width": {"kind": "choice", "values": [4, 6]}, "train.epochs": epochs}
    search = SearchConfig.model_validate({"base": "", "space": space})
    assert epochs_max(search, base) == BASE.train.epochs


def test_the_base_point_is_the_base_configs_own() -> None:
    assert base_point(SPACE, BASE) == {
        "model.architecture": "classic_unet",
        "model.decoder_channels": None,
        "model.width": 64,
        "optim.lr": 1e-3,
        "loss.dice_weight": 0.5,
    }
    smp = with_overrides(
        BASE, {"model.architecture": "unet", "model.encoder": "resnet18", "model.decoder_channels": [64, 32]}
    )
    assert base_point(SPACE, smp)["model.decoder_channels"] == [64, 32]
    assert with_overrides(smp, base_point(SPACE, smp)) == smp


@pytest.mark.parametrize(
    "changes",
    [
        {"model.width": 64},  # above
        {"optim.lr": 1e-5},  # below
        {"model.architecture": "fpn"},  # no such choice
        {"model.architecture": "unet"},  # the field that this brings in is missing
        {"model.width": None},  # as `train.micro_batch` in a base config
        {"model.width": "5"},
    ],
)
def test_a_point_outside_the_space_cannot_be_told(changes: dict[str, Any]) -> None:
    inside = {"model.architecture": "classic_unet", "model.width": 4, "optim.lr": 1e-2, "loss.dice_weight": 0.25}
    assert parameters(SPACE, inside) is not None
    assert parameters(SPACE, inside | changes) is None
