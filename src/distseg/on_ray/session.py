"""Joining the Ray that is there, or starting one for this process alone, and what it can hold."""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distseg.config import Resources
from distseg.errors import ClusterError

ENVIRONMENT = {
    # start-up of a nested trainer, measured: 51 CPU-seconds with Ray's defaults, 31 to 44 with these
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # reports arrive at most once an interval
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # glibc gives large blocks back at once and faults them in again; decoding into fresh pages halves its speed
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
}
"""For the workers of a run; a driver's own environment does not reach them on a running cluster."""


@contextmanager
def session(cpus: int | None = None) -> Iterator[None]:
    """Connects to the Ray at RAY_ADDRESS, or starts one with ``cpus`` CPUs and ends it afterwards."""
    address = os.environ.get("RAY_ADDRESS") or "local"  # without one, Ray would join whichever it finds on this machine
    own = address == "local"
    if own:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _authenticate_own_cluster()
    import ray

    # Where there is no address, the processes of our own Ray inherit this environment when they start.
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    ray.init(
        address=address,
        num_cpus=cpus if own else None,
        runtime_env={"env_vars": ENVIRONMENT},
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _authenticate_own_cluster() -> None:
    """Token authentication for a Ray of our own, with a token of its own that nobody else reads."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix="distseg-token-"))  # mode 700
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def concurrent_trials(resources: Resources) -> int:
    """How many trials the cluster holds at once; ClusterError when it can never hold one."""
    holds = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    counts = []
    for name, each in holds.items():
        if each > 0:
            have = cluster_total(name)
            count = int(have // (each * resources.workers_per_trial) + 1e-9)
            if count == 0:
                raise ClusterError(
                    f"a trial needs {resources.workers_per_trial} workers x {each:g} {name}, the cluster has "
                    f"{have:g}; lower workers_per_trial or {name.lower()}s_per_worker, or use a larger cluster"
                )
            counts.append(count)
    return min([*counts, resources.max_concurrent or counts[0]])


def check_workers(workers: int, cpus_per_worker: float, gpus_per_worker: float) -> None:
    """ClusterError when the cluster can never hold this many workers of one run."""
    for name, each in (("CPU", cpus_per_worker), ("GPU", gpus_per_worker)):
        have = cluster_total(name)
        if workers * each > have:
            raise ClusterError(
                f"--workers: got {workers}, which need {workers * each:g} {name}, the cluster has {have:g}; "
                f"want at most {int(have // each)}"
            )


def cluster_total(name: str) -> float:
    """All of a resource that the cluster has, free or not."""
    import ray

    return float(ray.cluster_resources().get(name, 0))  # type: ignore[no-untyped-call]
