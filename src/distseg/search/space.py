"""The searched space: overrides out of Optuna's suggestions, and the point that the base config itself stands at."""

import itertools
from collections.abc import Mapping
from typing import Any, Protocol

from distseg.config import Dimension, RunConfig, SearchConfig
from distseg.errors import ConfigError


class Suggests(Protocol):
    """What is needed of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: list[int]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...


def suggest(space: Mapping[str, Dimension], trial: Suggests, base: RunConfig) -> dict[str, Any]:
    """Overrides for one trial: each field in order.

    A conditional field whose condition does not hold is not searched; where the base config sets it, it goes back to
    its default, for it belongs to another branch of the space (a decoder's widths to one architecture).
    """
    overrides: dict[str, Any] = {}
    for path, dimension in space.items():
        if not applies(dimension, overrides):
            default = value_at(RunConfig(), path)
            if value_at(base, path) != default:
                overrides[path] = default
        elif dimension.kind == "choice":
            # by index: a value may be a list, which Optuna does not take
            assert dimension.values is not None
            index = trial.suggest_categorical(path, list(range(len(dimension.values))))
            overrides[path] = dimension.values[index]
        elif dimension.kind == "int":
            overrides[path] = trial.suggest_int(path, *_int_range(dimension))
        else:
            low, high = _float_range(dimension)
            overrides[path] = trial.suggest_float(path, low, high, log=dimension.kind == "loguniform")
    return overrides


def applies(dimension: Dimension, overrides: Mapping[str, Any]) -> bool:
    """Whether a field is searched in a trial that has these overrides so far."""
    return dimension.when is None or overrides.get(dimension.when.path) in dimension.when.among


def base_point(space: Mapping[str, Dimension], base: RunConfig) -> dict[str, Any]:
    """The base config as overrides: its own value for each field of the space."""
    return {path: value_at(base, path) for path in space}


def epochs_max(search: SearchConfig, base: RunConfig) -> int:
    """The most epochs that a trial of the search may train."""
    path = "train.epochs"
    found = [base.train.epochs, *(point[path] for point in search.points if path in point)]
    if dimension := search.space.get(path):
        found += dimension.values or [dimension.high]
        if dimension.when is not None:
            found.append(value_at(RunConfig(), path))
    return max(map(int, found))


def grid(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """Every combination of the values of a space of choices, the last field changing fastest.

    ConfigError when a field is no choice, or is searched only where another has some value.
    """
    for path, dimension in space.items():
        if dimension.kind != "choice" or dimension.when is not None:
            raise ConfigError(f"space.{path}: want a plain choice, as every combination is tried; got {dimension.kind}")
    values = [dimension.values or () for dimension in space.values()]
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*values)]


def value_at(cfg: RunConfig, path: str) -> Any:
    """The value of a dotted path; a tuple as the list that YAML would make of it."""
    value: Any = cfg
    for name in path.split("."):
        value = getattr(value, name)
    return list(value) if isinstance(value, tuple) else value


def parameters(space: Mapping[str, Dimension], overrides: Mapping[str, Any]) -> dict[str, Any] | None:
    """Overrides as Optuna's parameters; None when some value lies outside the space, so that it cannot be told."""
    found: dict[str, Any] = {}
    for path, dimension in space.items():
        if not applies(dimension, overrides):
            continue
        if path not in overrides:
            return None
        value = overrides[path]
        if dimension.kind == "choice":
            assert dimension.values is not None
            if value not in dimension.values:
                return None
            found[path] = dimension.values.index(value)
        else:
            low, high = _float_range(dimension)
            if not (isinstance(value, int | float) and low <= value <= high):
                return None
            found[path] = value
    return found


def _float_range(dimension: Dimension) -> tuple[float, float]:
    assert dimension.low is not None and dimension.high is not None  # Dimension checks it
    return dimension.low, dimension.high


def _int_range(dimension: Dimension) -> tuple[int, int]:
    low, high = _float_range(dimension)
    return int(low), int(high)
