"""``distseg jobs render --target kuberay``: the fields of the manifest, and what cannot be rendered."""

import json
import re
import shlex
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distseg.cli import main as cli
from distseg.errors import QueueError
from distseg.home import Home
from distseg.queue import Job, JobState, Queue
from distseg.queue.kuberay import Target, check_working_dir, name_of, ray_job, to_yaml
from distseg.queue.models import JobSpec

TARGET = Target("registry/distseg:1", "team-a", "disk", Path("/shared"), Path("/shared/distseg"), "2.60.0")
WAITING = Job(
    seq=1,
    id="j0123abcd",
    name="train",
    owner="ada",
    command=("distseg", "train", "a.yaml"),
    working_dir=None,
    priority=0,
    gpus=4.0,
    cpus=16.0,
    workers=2,
    alone=False,
    retries=3,
    timeout_s=None,
    state=JobState.QUEUED,
    reason=None,
    attempt=0,
    failures=0,
    losses=0,
    not_before=0.0,
    submitted_at=0.0,
    started_at=None,
    finished_at=None,
)


def spec(**changes: Any) -> Any:
    return ray_job(replace(WAITING, **changes), TARGET)["spec"]


def workers(**changes: Any) -> Any:
    (group,) = spec(**changes)["rayClusterSpec"]["workerGroupSpecs"]
    return group


def resources(**changes: Any) -> Any:
    return workers(**changes)["template"]["spec"]["containers"][0]["resources"]


def test_what_a_job_declares_is_what_its_pods_ask_for() -> None:
    """4 GPUs and 16 CPUs over 2 workers: two pods of 2 and 8, all or none of them (gang)."""
    group = workers()
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    assert group["groupName"] != "head"  # Kueue keeps that name for itself
    wanted = {"cpu": "8", "nvidia.com/gpu": "2"}
    assert resources() == {"requests": wanted, "limits": wanted}
    assert resources(gpus=0.0)["limits"] == {"cpu": "8"}
    assert resources(cpus=7.0)["limits"]["cpu"] == "3500m"
    head = spec()["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}  # the workers' ledger is the pods', not the head's


def test_what_kueue_and_the_operator_insist_on() -> None:
    manifest = ray_job(WAITING, TARGET)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert manifest["spec"]["suspend"] is True
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "distseg-ray-token"}
    assert cluster["rayVersion"] == "2.60.0"  # required with a token


def test_limits_and_retries() -> None:
    assert spec()["backoffLimit"] == 3
    assert "activeDeadlineSeconds" not in spec()
    assert spec(timeout_s=3600.2)["activeDeadlineSeconds"] == 3601
    assert spec(timeout_s=0.5)["activeDeadlineSeconds"] == 1
    assert spec(timeout_s=1e12)["activeDeadlineSeconds"] == 2**31 - 1  # all that the field holds


def test_priority_is_a_class_of_kueues() -> None:
    def label(priority: int) -> Any:
        labels = ray_job(replace(WAITING, priority=priority), TARGET)["metadata"]["labels"]
        return labels.get("kueue.x-k8s.io/priority-class")

    assert [label(0), label(7), label(-7)] == [None, "distseg-7", "distseg-minus-7"]


def test_the_command_goes_through_one_shell_unharmed() -> None:
    command = ("python", "-c", "print('$HOME', \"`id`\")\n", "a b", "é", "--", "")
    rendered = spec(command=command)
    assert tuple(shlex.split(rendered["entrypoint"])) == command
    assert rendered["submissionMode"] == "HTTPMode"  # others pass it through a second shell


def test_environment_and_home_are_those_of_the_queue() -> None:
    environment = yaml.safe_load(spec(attempt=2)["runtimeEnvYAML"])
    assert environment == {
        "env_vars": {
            "DISTSEG_HOME": "/shared/distseg",
            "DISTSEG_JOB_ID": "j0123abcd",
            "DISTSEG_JOB_ATTEMPT": "3",
            "DISTSEG_LEASE_GPUS": "4",
            "DISTSEG_LEASE_CPUS": "16",
            "PYTHONUNBUFFERED": "1",
        }
    }
    cluster = spec()["rayClusterSpec"]
    for template in (cluster["headGroupSpec"]["template"], workers()["template"]):
        (container,) = template["spec"]["containers"]
        assert container["image"] == "registry/distseg:1"
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container["volumeMounts"] == [{"name": "home", "mountPath": "/shared"}]
        assert template["spec"]["volumes"] == [{"name": "home", "persistentVolumeClaim": {"claimName": "disk"}}]
    zipped = spec(working_dir="/shared/distseg/queue/working_dirs/1.zip")["runtimeEnvYAML"]
    assert yaml.safe_load(zipped)["working_dir"] == "file:///shared/distseg/queue/working_dirs/1.zip"


def test_a_command_that_computes_alone_holds_its_pods_resources_itself() -> None:
    alone = {"alone": True, "workers": 1, "gpus": 1.0, "cpus": 4.0}
    assert (spec(**alone)["entrypointNumCpus"], spec(**alone)["entrypointNumGpus"]) == (4.0, 1.0)
    assert workers(**alone)["replicas"] == 1
    assert "entrypointNumCpus" not in spec()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("train", "train-j0123abcd-1"),
        ("Ünder_Score & 1e3!", "nder-score-1e3-j0123abcd-1"),
        ("1st -- try --", "st-try-j0123abcd-1"),
        ("---", "j0123abcd-1"),
        ("日本語", "j0123abcd-1"),
        ("x" * 80, "x" * 35 + "-j0123abcd-1"),
        ("a" * 34 + "-" * 20, "a" * 34 + "-j0123abcd-1"),
    ],
)
def test_odd_names_become_unique_dns_labels(name: str, wanted: str) -> None:
    found = name_of(replace(WAITING, name=name))
    assert found == wanted
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(found) <= 47
    assert found != name_of(replace(WAITING, name=name, attempt=1))
    assert ray_job(replace(WAITING, name=name), TARGET)["metadata"]["annotations"]["distseg/name"] == name


@pytest.mark.parametrize("owner", ["ada", "Ada Lovelace <a@b.c>", "-x-", "ü" * 200, "1e3", "y"])
def test_labels_hold_what_labels_may(owner: str) -> None:
    labels = ray_job(replace(WAITING, owner=owner), TARGET)["metadata"]["labels"]
    assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", labels["distseg/owner"])


def test_yaml_has_one_meaning() -> None:
    """go-yaml reads a bare ``1e3`` as a number and ``y`` as true, where PyYAML writes both bare."""
    words = {"a": "1e3", "b": "y", "c": "0x1f", "d": "é\n", "e": "one\ntwo\n", "f": "null", "g": ["12", 12, True]}
    text = to_yaml(words)
    assert yaml.safe_load(text) == words
    assert {'"1e3"', '"y"', '"0x1f"', '"12"', "12"} <= {word.rpartition(" ")[2] for word in text.splitlines()}
    manifest = ray_job(replace(WAITING, owner="1e3", command=("a\n", "'")), TARGET)
    assert yaml.safe_load(to_yaml(manifest)) == json.loads(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 0.5, "workers": 1}, "--gpus: got 0.5 over 1 worker, 0.5 each; .*again with --gpus 1 --workers 1 "),
        ({"gpus": 1.0, "workers": 4}, "--gpus: got 1 over 4 workers, 0.25 each; .*again with --gpus 1 --workers 1 "),
        ({"gpus": 1.5, "workers": 2}, r"0.75 each; .*again with --gpus 2 --workers 2 \(trials still share a GPU"),
        ({"gpus": 0.5, "workers": 1, "alone": True}, r"submit it again with --gpus 1 \(trials"),
        ({"cpus": 0.0}, "--cpus: got 0 over 2 workers, want some for each"),
        ({"state": JobState.RUNNING}, "is RUNNING, want one that waits .*; 'distseg jobs cancel j0123abcd'"),
        ({"state": JobState.SUCCEEDED}, "is SUCCEEDED, want one that waits .*; submit it anew"),
        ({"state": JobState.FAILED}, "is FAILED, want one that waits .*; see 'distseg jobs retry j0123abcd'"),
    ],
)
def test_what_cannot_be_rendered_is_refused_in_a_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(QueueError, match=f"^job j0123abcd: .*{message}") as refused:
        ray_job(replace(WAITING, **changes), TARGET)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "value"), [("queue", "Team A"), ("claim", "-x"), ("queue", "a" * 64), ("image", ""), ("image", "a b")]
)
def test_names_of_objects(option: str, value: str) -> None:
    with pytest.raises(QueueError, match=f"^--{option}: got '{value}', want "):
        replace(TARGET, **{option: value})


@pytest.mark.parametrize("mount", ["/", "/data", "/shared/distseg/queue", "/share"])
def test_a_claim_that_would_not_hold_the_home(mount: str) -> None:
    with pytest.raises(
        QueueError, match=rf"^--mount: got {mount}, want the home \(/shared/distseg\) or a folder above"
    ):
        replace(TARGET, mount=Path(mount))
    assert replace(TARGET, mount=TARGET.home)


def test_a_working_directory_that_ray_would_enter(tmp_path: Path) -> None:
    """Ray takes a zip's only folder for the working directory itself, when it reads the zip from a URL."""
    for number, names in enumerate([["a/b.py", "a/c.py"], ["a/b.py", "c.py"], ["b.py"], ["a/b.py", "c/d.py"]]):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            for name in names:
                archive.writestr(name, "")
    with pytest.raises(QueueError, match="--working-dir: holds the folder 'a' and nothing else"):
        check_working_dir(tmp_path / "0.zip")
    for number in (1, 2, 3):
        check_working_dir(tmp_path / f"{number}.zip")
    with pytest.raises(QueueError, match="is gone; submit the job again"):
        check_working_dir(tmp_path / "none.zip")


# the command


@pytest.fixture
def render(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["distseg", "jobs", "render", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert (end.value.code or 0) == code
        printed = capsys.readouterr()
        return printed.out, printed.err

    return run


def test_the_command_prints_yaml_and_leaves_the_queue_alone(home: Home, render: Any) -> None:
    queue = Queue.open(home)
    first = queue.submit(JobSpec(("true",), name="first"))
    job = queue.submit(JobSpec(("echo", "a b"), name="second", gpus=1, priority=2, after=("first",)))
    before = queue.events("second")
    out, err = render("--target", "kuberay", job.id, "--queue", "lab", "--claim", "disk")
    manifest = yaml.safe_load(out)
    assert manifest["metadata"]["name"] == f"second-{job.id}-1"
    assert manifest["spec"]["entrypoint"] == "echo 'a b'"
    (container,) = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert container["image"] == "distseg:cuda"
    assert container["volumeMounts"][0]["mountPath"] == str(home.root.parent)
    assert err.splitlines() == [
        f"note: job {job.id} also waits here, where 'distseg jobs serve' may start it: 'distseg jobs pause {job.id}'",
        f"note: Kubernetes will not wait for first ({first.id})",
        "note: priority 2 needs Kueue's WorkloadPriorityClass 'distseg-2', of that value",
    ]
    assert queue.events("second") == before
    queue.pause("first")
    out, err = render("first")
    assert "distseg:cpu" in out
    assert err == ""
    queue.database.close()


def test_the_command_refuses_in_one_line(home: Home, render: Any) -> None:
    queue = Queue.open(home)
    queue.submit(JobSpec(("true",), name="half", gpus=0.5))
    for words in (("half",), ("nobody",), ("half", "--queue", "A B")):
        out, err = render(*words, code=2)
        assert out == ""
        assert err.startswith("distseg: error: ")
        assert err.count("\n") == 1
    assert "'slurm' is not" in render("half", "--target", "slurm", code=2)[1]
    queue.cancel("half")
    assert "is CANCELLED, want one that waits" in render("half", code=2)[1]
    queue.database.close()
