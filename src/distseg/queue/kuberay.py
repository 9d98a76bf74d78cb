"""A waiting job as a KubeRay RayJob, for a cluster where Kueue decides what runs next instead of our dispatcher.

Checked against the ``ray.io/v1`` schema and the operator's own rules in KubeRay 1.7.0, and against the rules of
Kueue 0.19.2 for RayJobs. What differs from a job that our dispatcher starts:

- KubeRay charges every failed attempt to ``backoffLimit``, bad input and lost nodes too; each gets a new Ray cluster,
  and a run goes on from its checkpoint in the home. All have the attempt's number that was current here.
- The output is Ray's: ``ray job logs`` while it runs; the last lines of a failure are in ``status.message``.
- Kubernetes gives whole GPUs only, and knows no job that waits for another.
- A job declares no memory: its workers get what the namespace's LimitRange says, or no limit.
"""

import math
import re
import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distseg.errors import QueueError
from distseg.queue.models import Job
from distseg.queue.states import JobState

TOKEN_SECRET = "distseg-ray-token"
"""Name of the Secret whose key ``auth_token`` holds the token of the job's Ray cluster."""

_NAME_CHARACTERS_MAX = 47  # KubeRay adds to it, and names services after that
_LABEL_CHARACTERS_MAX = 63
_SECONDS_MAX = 2**31 - 1
_HEAD = {"cpu": "1", "memory": "8Gi"}  # Ray's own processes, and the driver of a study or a run
_UNPRIVILEGED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,  # that of our images, and of Ray's
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9./:-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """Where in Kubernetes a job is to run."""

    image: str
    """Holds distseg, and the Ray of ``ray_version``."""
    queue: str
    """Kueue's LocalQueue."""
    claim: str
    """The PersistentVolumeClaim that holds the home."""
    mount: Path
    """Where every pod sees the claim: the home's path, or one above it."""
    home: Path
    ray_version: str

    def __post_init__(self) -> None:
        for option, name in (("--queue", self.queue), ("--claim", self.claim)):
            if not _OBJECT_NAME.fullmatch(name):
                raise QueueError(
                    f"{option}: got '{name}', want the name of a Kubernetes object: lower-case letters, digits and '-'"
                )
        if not self.image or any(letter.isspace() for letter in self.image):
            raise QueueError(f"--image: got '{self.image}', want a container image such as registry/distseg:1.0")
        if self.mount == Path("/") or not self.home.is_relative_to(self.mount):
            raise QueueError(f"--mount: got {self.mount}, want the home ({self.home}) or a folder above it, but not /")


def ray_job(job: Job, target: Target) -> dict[str, Any]:
    """The manifest of a job that waits.

    One pod for each of the job's workers, all or none of them admitted by Kueue, beside a head without resources of
    its own. QueueError for a job that runs or is over (it would run twice, or again by mistake), for fractions of GPUs,
    and for workers without CPUs.
    """
    if job.state not in (JobState.QUEUED, JobState.PAUSED):
        step = "submit it anew" if job.state is JobState.SUCCEEDED else f"see 'distseg jobs retry {job.id}'"
        if not job.state.over:
            step = f"'distseg jobs cancel {job.id}' would end it"
        raise QueueError(f"job {job.id}: is {job.state}, want one that waits (QUEUED or PAUSED); {step}")
    workers = 1 if job.alone else job.workers
    resources = {"cpu": _cpus(job, workers), **_gpus(job, workers)}
    pods = {
        "replicas": workers,
        "minReplicas": workers,
        "maxReplicas": workers,
        "groupName": "workers",
        "rayStartParams": {},
        "template": _pod("ray-worker", target, resources),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name_of(job),
            "labels": {
                "kueue.x-k8s.io/queue-name": target.queue,
                **({"kueue.x-k8s.io/priority-class": priority_class(job.priority)} if job.priority else {}),
                "app.kubernetes.io/managed-by": "distseg",
                "distseg/job": job.id,
                "distseg/owner": _label(job.owner),
            },
            "annotations": {"distseg/name": job.name, "distseg/owner": job.owner},
        },
        "spec": {
            "suspend": True,  # Kueue lets it go
            "submissionMode": "HTTPMode",  # the others pass the entrypoint through one shell more
            "entrypoint": shlex.join(job.command),
            **({"entrypointNumCpus": job.cpus, "entrypointNumGpus": job.gpus} if job.alone else {}),
            "runtimeEnvYAML": to_yaml(_runtime_env(job, target)),
            "backoffLimit": job.retries,
            **({"activeDeadlineSeconds": min(math.ceil(job.timeout_s), _SECONDS_MAX)} if job.timeout_s else {}),
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {
                "rayVersion": target.ray_version,
                "authOptions": {"mode": "token", "secretName": TOKEN_SECRET},
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": _pod("ray-head", target, _HEAD)},
                "workerGroupSpecs": [pods],
            },
        },
    }


def name_of(job: Job) -> str:
    """A DNS label of at most 47 characters that ends in the job's id and the number of its next attempt."""
    end = f"-{job.id}-{job.attempt + 1}"
    words = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).lstrip("-0123456789")
    return (words[: _NAME_CHARACTERS_MAX - len(end)].rstrip("-") + end).lstrip("-")


def priority_class(priority: int) -> str:
    """Name of Kueue's WorkloadPriorityClass for a priority, which an administrator makes once."""
    return f"distseg-{'minus-' * (priority < 0)}{abs(priority)}"


def check_working_dir(path: Path) -> None:
    """QueueError when Ray, reading the zip itself, would not start the command in what was zipped."""
    try:
        with zipfile.ZipFile(path) as archive:
            tops = {(name.partition("/")[0], "/" in name) for name in archive.namelist()}
    except FileNotFoundError as error:
        raise QueueError(f"{path}: the zipped working directory is gone; submit the job again") from error
    if len(tops) == 1 and all(is_folder for _, is_folder in tops):
        ((folder, _),) = tops
        raise QueueError(
            f"--working-dir: holds the folder '{folder}' and nothing else, and Ray would start the command in that; "
            "put a file beside it, or submit the job from within it"
        )


def to_yaml(value: Any) -> str:
    """YAML that every reader takes as it is meant: ``1e3``, ``y`` and the like are quoted, as not all agree on them."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=10_000)


def _represent_str(dumper: yaml.representer.BaseRepresenter, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None if _PLAIN.fullmatch(value) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)


class _Dumper(yaml.SafeDumper):
    yaml_representers = {**yaml.SafeDumper.yaml_representers, str: _represent_str}  # noqa: RUF012 - as in its base

    def ignore_aliases(self, data: Any) -> bool:
        """Equal parts are written out each time."""
        return True


def _pod(container: str, target: Target, resources: dict[str, str]) -> dict[str, Any]:
    return {
        "spec": {
            "securityContext": _UNPRIVILEGED,
            "containers": [
                {
                    "name": container,
                    "image": target.image,
                    "resources": {"requests": resources, "limits": resources},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "home", "mountPath": str(target.mount)}],
                }
            ],
            "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": target.claim}}],
        }
    }


def _runtime_env(job: Job, target: Target) -> dict[str, Any]:
    """What the queue gives a job's command, for its Ray workers too."""
    variables = {
        "DISTSEG_HOME": str(target.home),
        "DISTSEG_JOB_ID": job.id,
        "DISTSEG_JOB_ATTEMPT": str(job.attempt + 1),
        "DISTSEG_LEASE_GPUS": f"{job.gpus:g}",
        "DISTSEG_LEASE_CPUS": f"{job.cpus:g}",
        "PYTHONUNBUFFERED": "1",
    }
    folder = {"working_dir": f"file://{job.working_dir}"} if job.working_dir else {}
    return {"env_vars": variables, **folder}


def _cpus(job: Job, workers: int) -> str:
    """CPUs of one worker's pod; Ray counts them rounded up."""
    thousandths = round(1000 * job.cpus / workers)
    if thousandths < 1:
        raise QueueError(
            f"job {job.id}: --cpus: got {job.cpus:g} over {workers} workers, want some for each: a pod without CPUs "
            "gets no time; submit it again with more"
        )
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def _gpus(job: Job, workers: int) -> dict[str, str]:
    each, whole = job.gpus / workers, math.ceil(job.gpus)
    if not each.is_integer():
        instead = f"--gpus {whole}" if job.alone else f"--gpus {whole} --workers {whole}"
        raise QueueError(
            f"job {job.id}: --gpus: got {job.gpus:g} over {workers} worker{'s' * (workers > 1)}, {each:g} each; want "
            f"whole ones, as Kubernetes gives no parts of a GPU: submit it again with {instead} (trials still share a "
            "GPU by resources.gpus_per_worker)"
        )
    return {"nvidia.com/gpu": str(int(each))} if each else {}


def _label(words: str) -> str:
    """As much of some words as a label's value may hold."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", words)[:_LABEL_CHARACTERS_MAX].strip("-._")
