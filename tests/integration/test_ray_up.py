"""The files for ``ray up``: Ray's own schema, and what every one of them must hold."""

from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
FILES = ("on_premise", "aws", "gcp")


@pytest.fixture(params=FILES)
def prepared(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A file as Ray completes it before anything is started, checked against Ray's schema."""
    return prepare(request.param)


def prepare(name: str) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load((CLUSTER / f"{name}.yaml").read_text()))
    validate_config(config)
    return config


def test_a_misspelt_key_is_refused() -> None:
    """The schema that the others are held against does refuse."""
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config(config))


def test_every_node_has_the_token_and_starts_by_node_sh(prepared: dict[str, Any]) -> None:
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert prepared["file_mounts"]["~/distseg"] == "."
    assert ".git" in prepared["rsync_exclude"]
    assert ".gitignore" in prepared["rsync_filter"]  # else .venv and results travel along
    roles = {"head_start_ray_commands": "head", "worker_start_ray_commands": "worker"}
    for key, role in roles.items():
        *_, last = prepared[key]
        assert f"distseg/cluster/node.sh {role} " in last
        assert "DISTSEG_HOME=/shared/" in last
    commands = [line for key in prepared if key.endswith("_commands") for line in prepared[key]]
    assert any(line.startswith("make -C ~/distseg setup") for line in commands)  # every package by its hash
    for line in commands:
        assert "dashboard-host" not in line  # node.sh binds it to loopback
        assert "#" not in line  # Ray joins commands: the rest of them would be a comment


@pytest.mark.parametrize(("name", "market"), [("aws", "InstanceMarketOptions"), ("gcp", "scheduling")])
def test_workers_are_spot_and_the_head_is_not(name: str, market: str) -> None:
    config = prepare(name)
    types = config["available_node_types"]
    assert market not in types[config["head_node_type"]]["node_config"]
    workers = {key: value for key, value in types.items() if key != config["head_node_type"]}
    assert workers
    for worker in workers.values():
        assert "spot" in str(worker["node_config"][market]).lower()
        assert worker["min_workers"] > 0  # a study is refused what no node of the cluster holds
    assert config["idle_timeout_minutes"] > 0
