"""``distseg train`` on a Ray of its own: two workers, what is refused, and who sees a failure."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CONFIGS, distseg_json

from distseg import checkpoint, config
from distseg.config import with_overrides
from distseg.errors import (
    ClusterError,
    ConfigError,
    DistsegError,
    FencedError,
    HomeError,
    OutOfMemoryError,
    TrainingError,
)
from distseg.records import Status, TrialRecord, read_json_lines
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec
from distseg.train.worker import LocalWorker

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),  # Ray's own, when it is driven from this process
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two workers take two CPUs"),
]

OVERRIDES = ["model.width=2", "train.epochs=2", "train.batch_global=4"]
TINY = config.load_run(CONFIGS / "smoke.yaml", OVERRIDES)


def test_two_workers_finish_a_run(shards: Path, tmp_path: Path) -> None:
    words = [CONFIGS / "smoke.yaml", *OVERRIDES, "--data", shards, "--workers", "2"]
    printed = distseg_json(tmp_path, "train", *words)
    (folder,) = (tmp_path / "runs").iterdir()  # nothing but run folders
    record = TrialRecord.load(folder)
    assert printed["run"] == folder.name == record.trial_id
    assert (record.status, record.world_size, record.samples, record.epochs) == (Status.COMPLETED, 2, 4, 2)
    assert printed["metrics"] == record.metrics
    assert (printed["samples"], printed["resolution"]) == (4, [32, 32])
    assert config.load_run(folder / "config.yaml").model_dump(mode="json") == printed["config"]
    assert [row["epoch"] for row in read_json_lines(folder / "epochs.jsonl")] == [1, 2]
    assert checkpoint.load(folder / "checkpoints/best.pt")["metrics"] == record.metrics
    assert not list((tmp_path / "cache/ray").iterdir())  # Ray's own notes go with it


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from distseg.on_ray.session import session

    with session(cpus=2, one_run=True):
        yield


@pytest.mark.usefixtures("ray_session")
def test_more_workers_than_there_are_cpus() -> None:
    from distseg.on_ray.session import check_workers

    check_workers(2, 1, 0)
    with pytest.raises(ClusterError, match=r"^--workers: got 3 of 1 CPU and 0 GPU each, .*room for 2; want at most 2"):
        check_workers(3, 1, 0)


@pytest.mark.usefixtures("ray_session")
def test_workers_errors_reach_the_caller_as_they_are(shards: Path, tmp_path: Path) -> None:
    """Bad input stays bad input (exit code 2), and a run that is refused is left as it was."""
    from distseg.on_ray.train import fit

    def train(spec: RunSpec) -> TrialRecord:
        return fit(spec, storage=tmp_path / "ray", workers=2, cpus_per_worker=1, gpus_per_worker=0, own_ray=True)

    spec = RunSpec(TINY, str(shards), tmp_path / "runs/a", trial_id="a")
    diverging = with_overrides(TINY, {"optim.lr": 1e30, "optim.name": "sgd", "optim.clip_norm": None})
    with pytest.raises(TrainingError, match=r"^loss is (nan|inf) by step \d+; "):
        train(replace(spec, config=diverging))
    failed = TrialRecord.load(spec.folder)
    assert failed.status is Status.FAILED
    assert str(failed.reason).startswith("TrainingError: loss is ")

    other = replace(spec, folder=tmp_path / "runs/b", trial_id="b")
    run(other, LocalWorker(0, 1, torch.device("cpu")))
    before = (other.folder / "record.json").read_bytes()
    with pytest.raises(HomeError, match=r"last.pt: belongs to another config \(seed: saved 0, now 1\)"):
        train(replace(other, config=with_overrides(TINY, {"seed": 1})))
    assert (other.folder / "record.json").read_bytes() == before


@pytest.mark.parametrize(
    ("failure", "study", "reason"),
    [
        (OutOfMemoryError("too large"), None, "OutOfMemoryError: too large"),
        (ConfigError("refused"), None, "a worker was lost"),
        (ConfigError("wrong"), "s", "ConfigError: wrong"),
        (FencedError("elsewhere"), "s", "a worker was lost"),
    ],
)
def test_what_another_rank_failed_of_is_the_runs_failure(
    failure: DistsegError,
    study: str | None,
    reason: str,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 0 saw a broken connection; errors that mean to leave the record alone do."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    from distseg.on_ray import train

    spec = RunSpec(TINY, str(shards), tmp_path / "a", trial_id="a", study=study)
    before = run(
        replace(spec, config=with_overrides(TINY, {"train.epochs": 1})), LocalWorker(0, 1, torch.device("cpu"))
    )
    lost = {"status": Status.INTERRUPTED, "reason": "a worker was lost"}
    before.model_copy(update=lost).save(spec.folder)

    class Trainer:
        def __init__(self, *given: Any, **named: Any) -> None: ...

        def fit(self) -> None:
            raise WorkerGroupError("failed", {0: RuntimeError("Connection closed by peer"), 1: failure})

    monkeypatch.setattr(train, "wait_for_room", lambda *_: None)
    monkeypatch.setattr(train, "LeanTrainer", Trainer)
    monkeypatch.setattr(train, "NestedTrainer", Trainer)
    with pytest.raises(type(failure)):
        train.fit(spec, storage=tmp_path / "ray", workers=2, cpus_per_worker=1, gpus_per_worker=0)
    record = TrialRecord.load(spec.folder)
    assert record.reason == reason
    assert record.status is (Status.INTERRUPTED if reason == lost["reason"] else Status.FAILED)


def test_a_run_starts_without_the_helpers_that_it_has_no_use_for() -> None:
    """The names are private to Ray: a version that renames them must be noticed."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from distseg.on_ray.trainers import LeanTrainer

    def helpers(trainer: TorchTrainer) -> set[str]:
        return {type(each).__name__ for each in trainer._create_default_callbacks()}

    two = ScalingConfig(num_workers=2)
    stock = helpers(TorchTrainer(print, scaling_config=two))
    assert stock - helpers(LeanTrainer(print, cleaned=False, scaling_config=two)) == {"DatasetsCallback"}
    alone = helpers(LeanTrainer(print, cleaned=True, scaling_config=two))
    assert stock - alone == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def test_an_elastic_run_tries_again_as_long_as_it_gets_on(tmp_path: Path) -> None:
    from ray.train.v2._internal.execution.failure_handling import FailureDecision
    from ray.train.v2.api.exceptions import WorkerGroupError

    from distseg.on_ray.trainers import _AsLongAsItGetsOn

    checkpoint_file = tmp_path / "last.pt"
    policy = _AsLongAsItGetsOn(checkpoint_file)
    lost = WorkerGroupError("lost", {1: RuntimeError("connection reset by peer")})
    raised, retried = FailureDecision.RAISE, FailureDecision.RETRY
    assert [policy.make_decision(lost) for _ in range(6)] == [retried] * 5 + [raised]
    checkpoint_file.touch()
    assert [policy.make_decision(lost) for _ in range(6)] == [retried] * 5 + [raised]
    os.utime(checkpoint_file, (1, 1))
    both = WorkerGroupError("ours", {0: RuntimeError("connection reset by peer"), 1: TrainingError("loss is nan")})
    assert policy.make_decision(both) is raised
    assert policy.make_decision(lost) is retried
