"""The process that trains a study's trials one after another, as Tune drives it, without a Ray."""

import time
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.train._internal import storage
from ray.tune.trainable.function_trainable import wrap_function

from distseg.on_ray.session import ENVIRONMENT

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own, in this process


def slow_to_end(trial: dict[str, Any]) -> None:
    """A trial that is stopped at its first report, and still copies a checkpoint then."""
    try:
        tune.report({"trial": trial["name"]})
    finally:
        time.sleep(2.5)


def test_a_trial_that_ends_slowly_leaves_its_process_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # Tune changes into the trial's folder
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "_get_ray_train_session_dir", lambda: str(tmp_path))  # asks a Ray that runs
    files = storage.StorageContext(str(tmp_path), "study", trial_dir_name="trial")
    process = wrap_function(slow_to_end)({"name": "first"}, storage=files)
    try:
        assert process.train()["trial"] == "first"
        assert process.reset({"name": "second"}, storage=files)
        assert process.train()["trial"] == "second"
    finally:
        process.stop()
