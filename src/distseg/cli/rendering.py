"""``distseg jobs render``: a job of the queue as a file for another scheduler."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distseg.queue.models import Job


class TargetName(StrEnum):
    """What a job can be rendered for."""

    KUBERAY = "kuberay"


def render(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Its id, or its name if no other job has it.")],
    target: Annotated[TargetName, typer.Option(help="A RayJob of KubeRay 1.7, queued by Kueue.")] = TargetName.KUBERAY,
    image: Annotated[str, typer.Option(help="Default: distseg:cuda for a job with GPUs, else distseg:cpu.")] = "",
    queue: Annotated[str, typer.Option(metavar="NAME", help="Kueue's LocalQueue.")] = "distseg",
    claim: Annotated[
        str, typer.Option(metavar="NAME", help="The PersistentVolumeClaim that holds the home.")
    ] = "distseg-home",
    mount: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where pods see it. Default: the folder that the home is in.")
    ] = None,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Print a waiting job as a Kubernetes manifest. The queue itself is left as it is.

    Pods see the claim and nothing else, so paths in the command lie below --mount, or are URLs. The job's Ray asks for
    the token in the Secret 'distseg-ray-token', key 'auth_token'.

    Example:

        distseg jobs pause train && distseg jobs render --target kuberay train | kubectl -n distseg apply -f -
    """
    from importlib.metadata import version
    from pathlib import Path

    from distseg.home import Home
    from distseg.queue.client import Queue
    from distseg.queue.kuberay import Target, check_working_dir, ray_job, to_yaml

    folders = Home.from_environment(home)
    jobs = Queue.open(folders)
    found = jobs.job(job)
    image = image or ("distseg:cuda" if found.gpus else "distseg:cpu")
    at = Path(mount) if mount else folders.root.parent
    manifest = ray_job(found, Target(image, queue, claim, at, folders.root, ray_version=version("ray")))
    if found.working_dir:
        check_working_dir(Path(found.working_dir))
    for note in _notes(found, jobs.waits_for(found.id)):
        print(f"note: {note}", file=sys.stderr)
    print(to_yaml(manifest), end="")


def _notes(job: "Job", waits_for: "list[Job]") -> list[str]:
    """What the manifest cannot say."""
    from distseg.queue.kuberay import priority_class
    from distseg.queue.states import JobState

    notes = []
    if job.state is JobState.QUEUED:
        notes.append(
            f"job {job.id} also waits here, where 'distseg jobs serve' may start it: 'distseg jobs pause {job.id}'"
        )
    if waits_for:
        notes.append(f"Kubernetes will not wait for {', '.join(f'{each.name} ({each.id})' for each in waits_for)}")
    if job.priority:
        name = priority_class(job.priority)
        notes.append(f"priority {job.priority} needs Kueue's WorkloadPriorityClass '{name}', of that value")
    return notes
