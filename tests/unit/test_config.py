"""Configs: what is refused and how, overrides, and the ways to text and back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distseg import config
from distseg.config import RunConfig, as_assignments, dump, load_run, load_search, with_overrides
from distseg.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SEARCH = "base: base.yaml\nspace:\n  "


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def searched(folder: Path, text: str, base: str = "{}") -> Path:
    """A search file over a base config."""
    written(folder, base, "base.yaml")
    return written(folder, text, "search.yaml")


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("optm: {lr: 1}", [], r"run.yaml: unknown key 'optm'; did you mean 'optim.lr'\?"),
        ("optim: {lrr: 1}", [], r"unknown key 'optim.lrr'; did you mean 'optim.lr'\?"),
        ("{}", ["lr=1"], r"unknown key 'lr'; did you mean 'optim.lr'\?"),
        ("{}", ["train.batchglobal=1"], r"unknown key 'train.batchglobal'; did you mean 'train.batch_global'\?"),
        ("{}", ["zzz=1"], r"unknown key 'zzz'; known keys: task, seed, .*eval.mode"),
        ("{}", ["optim.lr"], r"override 'optim.lr': want key=value"),
        ("{}", ["=3"], r"override '=3': want key=value"),
        ("{}", ["optim.lr=[1"], r"override 'optim.lr=\[1': value is not YAML"),
        ("{}", ["optim.lr="], r"optim.lr: .*valid number, got None"),
        ("{}", ["data.shuffle_window=65"], r"data.shuffle_window: .*less than or equal to 64, got 65"),
        ("{}", ["optim.lr=0"], r"optim.lr: .*greater than 0, got 0"),
        ("{}", ["optim.lr.peak=1"], r"optim.lr: .*valid number"),
        ("{}", ["train.epochs=4.5"], r"train.epochs: .*valid integer.*got 4.5"),
        ("{}", ["data.input_size=0"], r"data.input_size.0: .*greater than 0, got 0"),
        ("{}", ["eval.mode=best"], r"eval.mode: .*'max' or 'min', got 'best'"),
        ("{}", ["model.architecture=unet"], r"model.encoder: missing; architecture 'unet' needs one"),
        ("{}", ["model.encoder=resnet34"], r"model.encoder: got 'resnet34', but classic_unet takes none; drop it"),
        ("optim:", ["optim.lr=1"], r"'optim' is None there, want a mapping"),
        ("[1, 2]", [], r"run.yaml: got list, want a mapping"),
        ("", [], r"run.yaml: got NoneType, want a mapping"),
        ("a: b: c", [], r"run.yaml: not YAML"),
        ("a: !!python/object/apply:os.system [true]", [], r"run.yaml: not YAML"),
        ("1: 2", [], r"1: .*string"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_run(written(tmp_path, text), overrides)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("path", ["absent.yaml", "."])
def test_a_file_that_cannot_be_read(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run(tmp_path / path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not YAML"):
        load_run(path)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.lr=3e-4", 0.0003),
        ("optim.lr=1", 1.0),
        ("optim.clip_norm=null", None),
        ("train.channels_last=false", False),
        ("train.epochs=7", 7),
        ("data.input_size=128", (128, 128)),
        ("data.input_size=480x360", (480, 360)),
        ("data.input_size=[480, 360]", (480, 360)),
        ("data.fold=2", 2),
        ("model.decoder_channels=[64, 32]", (64, 32)),
        ("model.weights=a=b", "a=b"),
        ("augment.policy=none", "none"),
    ],
)
def test_overrides_take_the_type_of_their_field(override: str, value: Any, tmp_path: Path) -> None:
    found: Any = load_run(written(tmp_path, "optim: {lr: 0.5}"), [override])
    for name in override.split("=")[0].split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_later_overrides_win_and_the_rest_stays(tmp_path: Path) -> None:
    cfg = load_run(written(tmp_path, "optim: {lr: 0.5, name: sgd}"), ["optim.lr=1", "optim.lr=2"])
    assert (cfg.optim.lr, cfg.optim.name) == (2.0, "sgd")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_runs_load_and_survive_a_dump(path: Path, tmp_path: Path) -> None:
    cfg = load_run(path)
    assert load_run(written(tmp_path, dump(cfg))) == cfg


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("search/*.yaml")), ids=lambda path: path.name)
def test_shipped_searches_load_and_survive_a_dump(path: Path, tmp_path: Path) -> None:
    search, base = load_search(path)
    again, base_again = load_search(
        searched(tmp_path, dump(search.model_copy(update={"base": "base.yaml"})), dump(base))
    )
    assert again == search.model_copy(update={"base": "base.yaml"})
    assert base_again == base
    assert list(again.space) == list(search.space)  # conditions look back, so the order counts


LIKE_SOMETHING_ELSE = ["1e5", "0x10", "on", "null", "~", "1_000", "...", " a ", "[1]"]
"""Strings that YAML could take for something else."""

OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "optim.lr": st.floats(1e-300, 1e300),
        "optim.clip_norm": st.none() | st.floats(1e-12, 1e12),
        "train.epochs": st.integers(1, 10**12),
        "train.channels_last": st.booleans(),
        "data.input_size": st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)).map(list),
        "model.decoder_channels": st.none() | st.lists(st.integers(1, 99999), max_size=40),
        "model.weights": st.text(min_size=1) | st.sampled_from(LIKE_SOMETHING_ELSE),
        "augment.policy": st.from_regex(r"[-+]?[0-9.]{0,3}[eE]?[-+]?[0-9]{1,3}", fullmatch=True),
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(overrides=OVERRIDES)
def test_a_trials_overrides_can_be_typed_again(overrides: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, "optim: {lr: 0.25}")
    words = as_assignments(overrides)
    wanted = with_overrides(load_run(path), overrides)
    assert load_run(path, words) == wanted
    assert load_run(written(tmp_path, dump(wanted), "dumped.yaml")) == wanted


def test_an_override_is_one_line_however_long() -> None:
    channels = list(range(1000, 1040))
    (word,) = as_assignments({"model.decoder_channels": channels})
    assert word == f"model.decoder_channels={channels}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SEARCH + "optim.lrr: {kind: choice, values: [1]}", r"unknown field 'optim.lrr'; did you mean 'optim.lr'"),
        (SEARCH + "optim: {kind: choice, values: [1]}", r"unknown field 'optim'"),
        (SEARCH + "optim.lr: {kind: choise, values: [1]}", r"space.optim.lr.kind: .*got 'choise'"),
        (SEARCH + "optim.lr: {kind: choice}", r"want a non-empty list 'values'"),
        (SEARCH + "optim.lr: {kind: choice, values: [1], low: 1}", r"neither low nor high"),
        (SEARCH + "optim.lr: {kind: uniform, low: 2, high: 1}", r"want low <= high"),
        (SEARCH + "optim.lr: {kind: loguniform, low: 0, high: 1}", r"want low > 0"),
        (SEARCH + "optim.lr: {kind: uniform, low: -1, high: 1}", r"space.optim.lr: .*greater than 0, got -1"),
        (SEARCH + "train.batch_global: {kind: choice, values: [8, many]}", r"train.batch_global: .*got 'many'"),
        (SEARCH + "train.batch_global: {kind: uniform, low: 4, high: 8}", r"train.batch_global: .*valid integer"),
        (SEARCH + "optim.lr: {kind: choice, values: [1]}\npoints: [{optim.lrr: 1}]", r"'optim.lrr'; did you mean"),
        (SEARCH + "optim.lr: {kind: choice, values: [1]}\npoints: [{optim.lr: -1}]", r"greater than 0, got -1"),
        ("base: absent.yaml\nspace: {}", r"absent.yaml: cannot be read"),
        ("base: base.yaml", r"search.yaml: space: Field required"),
    ],
)
def test_a_wrong_search_fails_before_its_first_trial(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_search(searched(tmp_path, text))


CONDITIONAL = """base: base.yaml
space:
  model.architecture: {kind: choice, values: [classic_unet, unet]}
  model.encoder: {kind: choice, values: [resnet18], when: {path: model.architecture, among: [unet]}}
"""


def test_fields_that_go_together_are_no_mistake(tmp_path: Path) -> None:
    """`unet` alone clashes with a base that has no encoder; the condition sees to it that it never stands alone."""
    search, _ = load_search(searched(tmp_path, CONDITIONAL))
    assert list(search.space) == ["model.architecture", "model.encoder"]


@pytest.mark.parametrize("path", ["model.encoder", "model.width", "model.depth"])
def test_a_condition_looks_back(path: str, tmp_path: Path) -> None:
    """To itself, to a field that is not searched, to none at all."""
    text = CONDITIONAL.replace("path: model.architecture", f"path: {path}")
    with pytest.raises(ConfigError, match=f"space.model.encoder.when.path: '{path}' is not an earlier field"):
        load_search(searched(tmp_path, text))


def test_overrides_of_a_search_go_where_they_belong(tmp_path: Path) -> None:
    path = searched(tmp_path, SEARCH + "optim.lr: {kind: choice, values: [1]}")
    search, base = load_search(path, ["study.budget.trials=3", "train.epochs=2"])
    assert (search.budget.trials, base.train.epochs) == (3, 2)
    with pytest.raises(ConfigError, match=r"unknown key 'budgt'"):
        load_search(path, ["study.budgt.trials=3"])


def test_numbers_with_an_exponent_are_numbers_in_lists_too(tmp_path: Path) -> None:
    search, _ = load_search(searched(tmp_path, SEARCH + "optim.lr: {kind: choice, values: [1e-3, 2E+1]}"))
    assert search.space["optim.lr"].values == (0.001, 20.0)


def test_known_paths_are_leaves() -> None:
    paths = config.known_paths(RunConfig)
    assert {"seed", "optim.lr", "data.input_size"} < set(paths)
    assert "optim" not in paths
