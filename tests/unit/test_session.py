"""How many trials a cluster and a lease hold, and a Ray that takes its time to start; no Ray is started."""

import sys
from types import ModuleType
from typing import Any

import pytest

from distseg.config import Resources
from distseg.errors import ClusterError, DistsegError, InputError
from distseg.on_ray import session
from distseg.on_ray.lease import UNBOUNDED, Lease
from distseg.on_ray.session import concurrent_trials


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of four CPUs and two GPUs each."""
    monkeypatch.setattr(session, "_nodes", lambda: [{"CPU": 4.0, "GPU": 2.0}] * 2)


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("resources", "lease", "trials"),
    [
        ({}, UNBOUNDED, 8),
        ({"cpus_per_worker": 3}, UNBOUNDED, 2),  # a worker lies on one node
        ({"gpus_per_worker": 1}, UNBOUNDED, 4),
        ({"gpus_per_worker": 0.25, "cpus_per_worker": 0.5}, UNBOUNDED, 16),
        ({"gpus_per_worker": 0.6}, UNBOUNDED, 4),  # two parts of 0.6 do not fit on one GPU
        ({"workers_per_trial": 3}, UNBOUNDED, 2),
        ({"max_concurrent": 5}, UNBOUNDED, 5),
        ({}, Lease(cpus=3), 3),
        ({"workers_per_trial": 2}, Lease(cpus=5, gpus=0), 2),
        ({"gpus_per_worker": 0.5}, Lease(gpus=1), 2),
        ({}, Lease(cpus=99), 8),
    ],
)
def test_concurrency_follows_from_the_cluster_and_the_lease(
    resources: dict[str, Any], lease: Lease, trials: int
) -> None:
    assert concurrent_trials(Resources(**resources), lease).trials == trials


@pytest.mark.usefixtures("nodes")
def test_concurrency_is_stated() -> None:
    resources = Resources(workers_per_trial=2, cpus_per_worker=1, max_concurrent=3)
    size = "2 workers of 1 CPU and 0 GPU each"
    of_cluster = "of the cluster's 8 CPUs and 4 GPUs"
    assert concurrent_trials(resources).reason == (
        f"3 trials at once, {size}, by resources.max_concurrent, {of_cluster}"
    )
    assert concurrent_trials(resources, Lease(cpus=2, gpus=0)).reason == (
        f"1 trial at once, {size}, of the job's lease of 2 CPUs and 0 GPUs"
    )


@pytest.mark.usefixtures("nodes")
def test_what_can_never_fit_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"^a trial needs 1 worker of 5 CPU and 0 GPU each, .* have room for 0; "):
        concurrent_trials(Resources(cpus_per_worker=5))
    with pytest.raises(ClusterError, match=r"1 worker of 1 CPU and 1 GPU each, the job's lease is 2 CPUs and 0 GPUs"):
        concurrent_trials(Resources(gpus_per_worker=1), Lease(cpus=2, gpus=0))


def test_the_lease_of_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Lease.from_environment() == UNBOUNDED
    monkeypatch.setenv("DISTSEG_LEASE_CPUS", "4")
    monkeypatch.setenv("DISTSEG_LEASE_GPUS", "0.5")
    assert Lease.from_environment() == Lease(cpus=4, gpus=0.5)
    monkeypatch.setenv("DISTSEG_LEASE_GPUS", "many")
    with pytest.raises(InputError, match="DISTSEG_LEASE_GPUS: got 'many', want a number of at least 0"):
        Lease.from_environment()


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_busy_machine_gets_more_tries(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [failures]

    def init() -> None:
        if left[0]:
            left[0] -= 1
            raise Exception("The current node timed out during startup. This could happen because ...")

    fake = ModuleType("ray")
    vars(fake).update(init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", fake)
    if failures < 3:
        session._init()
    else:
        with pytest.raises(DistsegError, match="Ray did not start on this machine in 3 tries of 30 s"):
            session._init()
