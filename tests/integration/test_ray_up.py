"""The files for ``ray up``: Ray's own schema, what every one of them must hold, and EC2 as moto simulates it."""

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


@pytest.mark.filterwarnings("default")  # those of boto3 and of Ray's provider
def test_ec2_takes_every_node_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own AWS provider configures the cluster and starts each type, against EC2 and IAM in moto."""
    moto = pytest.importorskip("moto", reason="moto is in the dev extra")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws():
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

        ec2 = boto3.client("ec2", region_name="us-west-2")
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        config = AWSNodeProvider.fillout_available_node_types_resources(prepare("aws"))
        assert config["available_node_types"]["gpu_spot"]["resources"]["GPU"] == 1
        for node_type in config["available_node_types"].values():
            node_type["node_config"]["ImageId"] = image
        config = bootstrap_aws(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node_type in config["available_node_types"].items():
            kind = "head" if name == config["head_node_type"] else "worker"
            tags = {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name}
            provider.create_node(node_type["node_config"], tags, 1)
        found = [node for group in ec2.describe_instances()["Reservations"] for node in group["Instances"]]
        kinds = {node["InstanceType"]: node.get("InstanceLifecycle") for node in found}
        assert kinds == {"m7i.xlarge": None, "g6.2xlarge": "spot"}
