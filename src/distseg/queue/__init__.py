"""A durable queue in front of Ray Jobs. From Python::

    from distseg.queue import JobSpec, Queue

    queue = Queue.open()                                    # the home's store, or DISTSEG_QUEUE_URL
    job = queue.submit(JobSpec(("distseg", "tune", "search.yaml", "--data", "/data/shards"), gpus=4, cpus=16))
    job = queue.wait([job.id], timeout_s=3600)[0]
    print(job.state, job.reason)

``distseg jobs serve`` must run somewhere for jobs to start. Names are loaded when they are used: SQLAlchemy takes time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distseg.queue.client import Queue
    from distseg.queue.models import Job, JobSpec
    from distseg.queue.states import JobState

__all__ = ["Job", "JobSpec", "JobState", "Queue"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    modules = {"Queue": "client", "Job": "models", "JobSpec": "models", "JobState": "states"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
