"""A Ray cluster of two nodes on this machine."""

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and a second node with a CPU each, in RAY_ADDRESS; the second can be removed and added again."""
    from ray.cluster_utils import Cluster

    from distseg.on_ray.session import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:  # 8265 may be taken: a Cluster does not look for another one
        free.bind(("127.0.0.1", 0))
        head = {"num_cpus": 1, "dashboard_port": free.getsockname()[1]}
    cluster = Cluster(initialize_head=True, head_node_args=head)  # type: ignore[no-untyped-call]
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()  # type: ignore[no-untyped-call]
        monkeypatch.setitem(os.environ, "RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
