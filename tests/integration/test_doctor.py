"""``distseg doctor`` on this machine, with torch and Ray, and what it makes of clusters."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from commands import DISTSEG

from distseg.doctor.finding import Level
from distseg.queue.models import Node

pytestmark = pytest.mark.ray


def test_this_machine_with_a_cluster_that_is_gone(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, but nobody listens
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environment = os.environ | {
            "RAY_API_SERVER_ADDRESS": address,
            "DISTSEG_HOME": str(tmp_path),
            "DISTSEG_QUEUE_URL": f"postgresql://ada:geheim@127.0.0.1:{nobody.getsockname()[1]}/db",
            "RAY_AUTH_TOKEN": "geheim" * 6,
        }
        done = subprocess.run([*DISTSEG, "doctor", "--json"], env=environment, capture_output=True, text=True)
    document = json.loads(done.stdout)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert (done.returncode, document["ok"]) == (1, False)
    errors = {name for name, finding in found.items() if finding["level"] == "error"}
    assert errors == {"Ray cluster", "queue's store"}
    assert found["Ray cluster"]["value"].startswith(f"Ray at {address}: does not answer")
    assert {"CPUs", "memory", "torch", "home", "home's locks", "Ray", "RAY_AUTH_MODE"} <= found.keys()
    assert "geheim" not in done.stdout + done.stderr
    assert [*tmp_path.iterdir()] == []


HERE, PUBLIC = "http://127.0.0.1:8265", "http://10.0.0.1:8265"
TWO = [Node("a", 8.0, 2, "10.0.0.1"), Node("b", 8.0, 0, "10.0.0.2"), Node("c", 8.0, 0, "10.0.0.2")]


@pytest.mark.parametrize(
    ("url", "there", "is_public", "errors"),
    [
        (HERE, "2.60.0", True, set()),
        (PUBLIC, "2.60.0", False, set()),
        (PUBLIC, "2.60.0", True, {"cluster's authentication"}),
        (HERE, "2.59.1", False, {"cluster's Ray"}),
        (HERE, "2.51.0", True, {"cluster's Ray", "cluster's authentication"}),
    ],
)
def test_clusters(url: str, there: str, is_public: bool, errors: set[str]) -> None:
    from distseg.on_ray.doctor import findings

    found = findings(url, "2.60.0", there, TWO, is_public)
    assert {finding.name for finding in found if finding.level is Level.ERROR} == errors
    assert found[0].value == f"{url}: 3 nodes on 2 hosts, 24 CPUs, 2 GPUs"


def test_rays_own_version_and_authentication() -> None:
    from distseg.on_ray.doctor import authentication, own_version

    assert [own_version(version).level for version in ("2.51.9", "2.52.0", "2.60.0")] == ["error", "ok", "ok"]
    assert [authentication(mode).level for mode in (None, "token", "disabled")] == ["warning", "ok", "ok"]
