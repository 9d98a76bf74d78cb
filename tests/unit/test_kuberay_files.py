"""``cluster/kuberay/``: what KubeRay and Kueue need to find, and that the documents agree with each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "cluster" / "kuberay"
KINDS = {
    "home.yaml": ["v1/Namespace", "v1/PersistentVolumeClaim"],
    "queues.yaml": [
        *["kueue.x-k8s.io/v1beta2/ResourceFlavor"] * 2,
        *(f"kueue.x-k8s.io/v1beta2/{kind}" for kind in ("ClusterQueue", "LocalQueue", "WorkloadPriorityClass")),
    ],
    "cluster.yaml": ["ray.io/v1/RayCluster"],
    "job.yaml": ["ray.io/v1/RayJob"],
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def one(name: str, kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents(name) if document["kind"] == kind]
    return found


def cluster_spec(name: str) -> dict[str, Any]:
    """The Ray cluster that a file describes."""
    (document,) = documents(name)
    spec: dict[str, Any] = document["spec"]
    return spec if document["kind"] == "RayCluster" else spec["rayClusterSpec"]


def test_kinds_and_versions() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(KINDS)
    for name, kinds in KINDS.items():
        assert [f"{each['apiVersion']}/{each['kind']}" for each in documents(name)] == kinds
        namespaces = {each["metadata"].get("namespace", "distseg") for each in documents(name)}
        assert namespaces == {"distseg"}


@pytest.mark.parametrize("name", ["cluster.yaml", "job.yaml"])
def test_a_cluster_is_closed_and_sized(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token", "secretName": "distseg-ray-token"}
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert f"\nray=={spec['rayVersion']} " in lock
    head, (workers,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]  # a gang: Kueue counts all of them
    images = set()
    for group, container_name in ((head, "ray-head"), (workers, "ray-worker")):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        assert container["name"] == container_name
        resources = container["resources"]
        assert resources["limits"] == resources["requests"]  # Ray reads the limits, Kueue the requests
        assert container["readinessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        home = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "home")
        assert environment["DISTSEG_HOME"].startswith(f"{home}/")
        claim = next(volume for volume in pod["volumes"] if volume["name"] == "home")["persistentVolumeClaim"]
        assert claim["claimName"] == one("home.yaml", "PersistentVolumeClaim")["metadata"]["name"]
    assert len(images) == 1
    (worker,) = workers["template"]["spec"]["containers"]
    assert int(worker["resources"]["limits"]["nvidia.com/gpu"]) >= 1


def test_what_a_cluster_asks_for_fits_its_queue() -> None:
    queue = one("queues.yaml", "ClusterQueue")["spec"]
    (group,) = queue["resourceGroups"]
    flavors = {each["metadata"]["name"]: each["spec"] for each in documents("queues.yaml")[:2]}
    assert [each["name"] for each in group["flavors"]] == ["spot", "on-demand"]
    assert set(flavors) == {"spot", "on-demand"}
    for flavor in group["flavors"]:
        assert [each["name"] for each in flavor["resources"]] == group["coveredResources"]
    workers = cluster_spec("cluster.yaml")["workerGroupSpecs"][0]
    asked = workers["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert set(asked) <= set(group["coveredResources"])
    spot = {each["name"]: str(each["nominalQuota"]) for each in group["flavors"][0]["resources"]}
    for name, amount in asked.items():
        assert number(amount) * workers["replicas"] <= number(spot[name])


def test_spot_nodes_take_workers_and_never_a_head() -> None:
    spot, on_demand = documents("queues.yaml")[:2]
    (taint,), (toleration,) = spot["spec"]["nodeTaints"], spot["spec"]["tolerations"]
    assert toleration == {**taint, "operator": "Equal"}
    assert spot["spec"]["nodeLabels"] == {taint["key"]: taint["value"]}
    for name in ("cluster.yaml", "job.yaml"):
        head = cluster_spec(name)["headGroupSpec"]["template"]["spec"]
        assert head["nodeSelector"] == on_demand["spec"]["nodeLabels"]
        workers = cluster_spec(name)["workerGroupSpecs"][0]["template"]["spec"]
        assert "nodeSelector" not in workers  # Kueue chooses


def test_queues_are_found_by_name() -> None:
    local = one("queues.yaml", "LocalQueue")
    assert local["spec"]["clusterQueue"] == one("queues.yaml", "ClusterQueue")["metadata"]["name"]
    for name in ("cluster.yaml", "job.yaml"):
        labels = documents(name)[0]["metadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    selector = one("queues.yaml", "ClusterQueue")["spec"]["namespaceSelector"]["matchLabels"]
    assert selector == {"kubernetes.io/metadata.name": one("home.yaml", "Namespace")["metadata"]["name"]}
    priority = one("queues.yaml", "WorkloadPriorityClass")["metadata"]["name"]
    assert f"# kueue.x-k8s.io/priority-class: {priority}" in (FOLDER / "job.yaml").read_text()


def test_a_job_starts_suspended_and_goes_on_where_it_was() -> None:
    spec = one("job.yaml", "RayJob")["spec"]
    assert spec["suspend"] is True
    assert spec["shutdownAfterJobFinishes"] is True  # KubeRay and Kueue refuse a suspended job without it
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert variables["DISTSEG_JOB_ID"]
    program, command, config, *options = spec["entrypoint"].split()
    assert (program, command) == ("distseg", "tune")
    assert (REPOSITORY / Path(config).relative_to("/opt/distseg")).is_file()  # as docker/Dockerfile copies it
    assert "--study" in options


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_secret_stands_in_a_file(path: Path) -> None:
    text = path.read_text()
    assert not [each for each in documents(path.name) if each["kind"] == "Secret"]
    assert not re.search(r"(?i)auth_token|password|[0-9a-f]{32}", text)


def number(quantity: str) -> float:
    """A Kubernetes quantity such as ``28Gi``."""
    return float(quantity.removesuffix("Gi")) * (2**30 if quantity.endswith("Gi") else 1)
