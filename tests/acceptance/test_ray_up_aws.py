"""``cluster/aws.yaml`` against EC2 and IAM as moto simulates them: Ray's own AWS provider starts each type of node."""

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"


@pytest.mark.filterwarnings("default")  # those of boto3 and of Ray's provider
def test_ec2_takes_every_node_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto", reason="moto is in the dev extra")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        import boto3
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.util import prepare_config
        from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

        ec2 = boto3.client("ec2", region_name="us-west-2")
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        prepared = prepare_config(yaml.safe_load((CLUSTER / "aws.yaml").read_text()))
        config = AWSNodeProvider.fillout_available_node_types_resources(prepared)
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
