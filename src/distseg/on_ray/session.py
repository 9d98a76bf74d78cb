"""Joining the Ray that is there, or starting one for this process alone, and what it can hold."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distseg.config import Resources
from distseg.errors import ClusterError, DistsegError
from distseg.on_ray.lease import UNBOUNDED, Lease

ENVIRONMENT = {
    # start-up of a nested trainer, measured: 51 CPU-seconds with Ray's defaults, 31 to 44 with these
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # reports arrive at most once an interval
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # a warm process waits this long for its last trial to end, whose checkpoint may be on its way to a URL still; after
    # Ray's two seconds Tune (2.60) drops the next trial without a word to the searcher, and the study hangs
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "86400",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    # glibc gives large blocks back at once and faults them in again; decoding into fresh pages halves its speed
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    # Ray trains in a second thread, whose own arena of 64 MB heaps would give them back all the same: 6 % of a step
    "MALLOC_ARENA_MAX": "1",
}
"""For the workers of a run; a driver's own environment does not reach them on a running cluster."""

_NO_PRESTART = {"prestart_worker_first_driver": False}
"""Ray Train's processes have an environment of their own: those started in advance, without it, would wait in vain."""
_STARTS = 3


@contextmanager
def session(cpus: int | None = None, *, one_run: bool = False) -> Iterator[bool]:
    """Connects to the Ray at RAY_ADDRESS, or starts one on this machine and ends it afterwards; True: it is our own.

    ``cpus``: what our own Ray offers; None: all that the machine has. ``one_run``: our own will serve one training run,
    so it starts without a dashboard, which takes seven seconds of CPU time.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"  # without one, Ray would join whichever it finds on this machine
    with ExitStack() as cleaning:
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            if "RAY_AUTH_MODE" not in os.environ:
                _authenticate(Path(cleaning.enter_context(TemporaryDirectory(prefix="distseg-token-"))))
        import ray

        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
        settings: dict[str, Any] = {"runtime_env": {"env_vars": ENVIRONMENT}}
        if address == "local":  # its processes inherit this environment
            settings = {"num_cpus": cpus}
            if one_run:
                settings |= {"include_dashboard": False, "_system_config": _NO_PRESTART}
        try:
            _init(address=address, log_to_driver=False, logging_level=logging.WARNING, **settings)
            yield address == "local"
        finally:
            ray.shutdown()


def _init(**settings: Any) -> None:
    """``ray.init``, which gives a starting Ray thirty seconds and no more; a busy machine gets more tries."""
    import ray

    for left in reversed(range(_STARTS)):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # Ray raises nothing more special
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if not left:
                raise DistsegError(
                    f"Ray did not start on this machine in {_STARTS} tries of 30 s: it is too busy; "
                    "try again later, or set RAY_ADDRESS to a Ray that runs"
                ) from error


def _authenticate(folder: Path) -> None:
    """Token authentication for a Ray of our own, with a token of its own in a folder that nobody else reads."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


@dataclass(frozen=True)
class Concurrency:
    """How many trials run at once, and why so many."""

    trials: int
    reason: str
    """In one line, for the user."""


def concurrent_trials(resources: Resources, lease: Lease = UNBOUNDED) -> Concurrency:
    """How many trials the cluster and the lease hold at once; ClusterError when they can never hold one."""
    workers, cpus, gpus = resources.workers_per_trial, resources.cpus_per_worker, resources.gpus_per_worker
    room = _room(cpus, gpus)
    size = f"{workers} worker{'s' if workers > 1 else ''} of {cpus:g} CPU and {gpus:g} GPU each"
    trials = room // workers
    if trials == 0:
        raise ClusterError(
            f"a trial needs {size}, the cluster's nodes have room for {room}; "
            "lower workers_per_trial, cpus_per_worker or gpus_per_worker, or use a larger cluster"
        )
    held_by = f"of the cluster's {cluster_total('CPU'):g} CPUs and {cluster_total('GPU'):g} GPUs"
    leased = lease.holds(workers * cpus, workers * gpus)
    if leased == 0:
        raise ClusterError(
            f"a trial needs {size}, the job's lease is {lease}; submit the job with more --cpus and --gpus, "
            "or lower workers_per_trial, cpus_per_worker or gpus_per_worker"
        )
    if leased is not None and leased < trials:
        trials, held_by = leased, f"of the job's lease of {lease}"
    if resources.max_concurrent is not None and resources.max_concurrent < trials:
        trials, held_by = resources.max_concurrent, f"by resources.max_concurrent, {held_by}"
    return Concurrency(trials, f"{trials} trial{'s' if trials > 1 else ''} at once, {size}, {held_by}")


def check_workers(workers: int, cpus_per_worker: float, gpus_per_worker: float) -> None:
    """ClusterError when the cluster can never hold this many workers of one run."""
    room = _room(cpus_per_worker, gpus_per_worker)
    if workers > room:
        raise ClusterError(
            f"--workers: got {workers} of {cpus_per_worker:g} CPU and {gpus_per_worker:g} GPU each, "
            f"the cluster's nodes have room for {room}; want at most {room}"
        )


def cluster_total(name: str) -> float:
    """All of a resource that the cluster has, free or not."""
    return sum(node.get(name, 0.0) for node in _nodes())


def cpus_beside_a_gpu() -> float:
    """CPUs that each GPU of a node has to itself, on the node that has the fewest."""
    return min(node.get("CPU", 0.0) / node["GPU"] for node in _nodes() if node.get("GPU", 0) >= 1)


def _room(cpus: float, gpus: float) -> int:
    """How many workers of this size the nodes hold, each on one node, when nothing else runs."""
    return sum(min(_fitting(node.get("CPU", 0), cpus), _fitting_gpus(node.get("GPU", 0), gpus)) for node in _nodes())


def _fitting(available: float, each: float) -> int:
    return int(available / each + 1e-9)


def _fitting_gpus(available: float, each: float) -> int:
    """Parts of GPUs do not add up: a worker's whole fraction lies on one of them."""
    if each == 0:
        return sys.maxsize
    return int(available) * _fitting(1, each) if each < 1 else _fitting(available, each)


def _nodes() -> list[dict[str, float]]:
    """Resources of each living node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
