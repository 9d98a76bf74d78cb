"""Ray Jobs as the queue's cluster: it executes, and decides nothing.

A command's own process is given nothing of Ray's ledger, so that it never waits inside Ray: there a job whose
resources are busy fails after 15 minutes, and cannot be stopped before. What its workers use is set aside by the queue.
Only a job that computes alone, in the command's process, is given its GPUs and CPUs by Ray itself.
"""

import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_nodes

from distseg.errors import BackendError, ClusterError
from distseg.queue.backend import Report, Status, Submission
from distseg.queue.models import Node

TIMEOUT_S = 20.0
_STATUS = {JobStatus.PENDING: Status.PENDING, JobStatus.RUNNING: Status.RUNNING}
_NODES_MAX = 10_000


class RayJobs:
    """A Ray cluster, reached by its dashboard's address (``http://HOST:8265``) with the token of ``RAY_AUTH_*``."""

    def __init__(self, address: str) -> None:
        """ClusterError when that is no address. Nothing is asked of the cluster yet."""
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise ClusterError(f"--address: got '{address}', want the dashboard's, such as http://127.0.0.1:8265")
        self.address = address.rstrip("/")
        self._connected: _Client | None = None

    def version(self) -> str:
        """Of the cluster's Ray."""
        with self._answering():
            return str(self._client()._do_request("GET", "/api/version").json()["ray_version"])

    def nodes(self) -> tuple[Node, ...]:
        with self._answering():
            found = list_nodes(
                address=self.address,
                filters=[("state", "=", "ALIVE")],
                limit=_NODES_MAX,
                timeout=10,
                raise_on_missing_output=False,  # it takes dead nodes that the filter leaves out for lost ones
            )
        return tuple(sorted((_node(state) for state in found), key=lambda node: node.name))

    def submit(self, submission: Submission) -> None:
        runtime_env: dict[str, Any] = {"env_vars": dict(submission.environment)}
        if submission.working_dir is not None:
            if not os.path.isfile(submission.working_dir):
                raise ClusterError(
                    f"{submission.working_dir}: the zipped working directory is gone; submit the job again"
                )
            runtime_env["working_dir"] = submission.working_dir
        with self._answering():
            try:
                self._client().submit_job(
                    entrypoint=shlex.join(submission.command),
                    submission_id=submission.id,
                    runtime_env=runtime_env,
                    metadata={"distseg_job": submission.id},
                    entrypoint_num_cpus=submission.cpus or None,
                    entrypoint_num_gpus=submission.gpus or None,
                )
            except RuntimeError as error:
                # the name is taken: an earlier dispatcher, or this one before it lost the answer, has submitted it
                if submission.id not in self.reports():
                    raise BackendError(f"Ray at {self.address}: {_line(error)}") from error

    def reports(self) -> dict[str, Report]:
        with self._answering():
            jobs = self._client().list_jobs()
        return {
            job.submission_id: Report(_STATUS.get(job.status, Status.ENDED), _line(job.message or ""))
            for job in jobs
            if job.submission_id  # the others are drivers that nobody submitted
        }

    def stop(self, submission_id: str) -> None:
        with self._answering():
            try:
                self._client().stop_job(submission_id)
            except RuntimeError as error:
                if submission_id in self.reports():
                    raise BackendError(f"Ray at {self.address}: {_line(error)}") from error

    def _client(self) -> "_Client":
        if self._connected is None:
            self._connected = _Client(self.address)
        return self._connected

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise BackendError(
                f"Ray at {self.address}: refuses our token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH "
                "to the file with the cluster's token"
            ) from error
        except (BackendError, ClusterError):
            raise
        except OSError as error:  # whatever the library that asks calls it
            self._connected = None
            raise BackendError(f"Ray at {self.address}: does not answer ({type(error).__name__})") from error
        except Exception as error:  # Ray raises RuntimeError, ServerUnavailable and others, with a traceback as text
            self._connected = None
            raise BackendError(f"Ray at {self.address}: {_line(error)}") from error


class _Client(JobSubmissionClient):
    """Ray's client asks without a time limit: a head that stands still would hold the dispatcher for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": TIMEOUT_S, **options})


def is_loopback(address: str) -> bool:
    """Only this machine reaches it."""
    host = urlsplit(address).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_open(address: str) -> bool:
    """Whether it lists its jobs to anybody who asks without a token; BackendError when it does not answer."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=TIMEOUT_S):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError as error:
        raise BackendError(f"Ray at {address}: does not answer ({type(error).__name__}); is it started?") from error


def _node(state: Any) -> Node:
    total = state.resources_total or {}
    return Node(
        name=state.node_id[:12], cpus=float(total.get("CPU", 0.0)), gpus=int(total.get("GPU", 0)), host=state.node_ip
    )


def _line(error: object) -> str:
    """The last line of what Ray says, which is where a traceback says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
