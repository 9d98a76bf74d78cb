"""A study's trials as runs of an MLflow experiment, for those who keep their experiments there."""

import logging
from typing import Any

from distseg.errors import InputError
from distseg.records import Status, TrialRecord
from distseg.search.events import Event
from distseg.search.study import Study

_TRIAL = "distseg.trial"
_STATUS = "distseg.status"


class MlflowRuns:
    """Writes a study's events to an MLflow server or store: a run for each trial, found again after a resume.

    The study's own record stays the truth: where MLflow does not answer later on, that is said and the study goes on
    without it. Each call is tried again several times, while no trial is started or stopped: one such is enough.
    """

    def __init__(self, study: Study, uri: str) -> None:
        """InputError when MLflow is not installed, or nobody answers at ``uri``."""
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise InputError("--mlflow: the package mlflow is not installed; 'pip install mlflow-skinny'") from error
        self._study = study
        self._silent = False
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(study.info.name)
            self._experiment = found.experiment_id if found else self._client.create_experiment(study.info.name)
            runs = self._client.search_runs([self._experiment], max_results=10000)
        except Exception as error:  # MLflow's own, and those of whichever store and connection it uses
            raise InputError(
                f"--mlflow {uri}: {' '.join(str(error).split())}; want the URI of an MLflow server"
            ) from error
        self._runs: dict[str, str] = {run.data.tags[_TRIAL]: run.info.run_id for run in runs if _TRIAL in run.data.tags}

    def __call__(self, event: Event) -> None:
        """Takes in one event."""
        if self._silent:
            return
        try:
            self._write(event)
        except Exception as error:  # as above; an unreachable tracker must not end a study
            self._silent = True
            logging.getLogger(__name__).warning(
                "MLflow does not answer; the study goes on, and tells it nothing more until it is resumed: %s", error
            )

    def _write(self, event: Event) -> None:
        name = event.trial_id
        if name not in self._runs:
            tags = {_TRIAL: name, "distseg.data_digest": self._study.info.data_digest}
            run = self._client.create_run(self._experiment, run_name=f"{self._study.info.name}-{name}", tags=tags)
            self._runs[name] = run.info.run_id
            for path, value in self._study.log.asked[name].items():
                self._client.log_param(self._runs[name], path, value)
        run_id = self._runs[name]
        if event.kind == "report" and event.score is not None:
            self._client.log_metric(run_id, self._study.info.metric, event.score, step=event.epoch)
        elif event.kind == "end":
            record = TrialRecord.load(self._study.trial_folder(name))
            for metric, value in record.metrics.items():
                if isinstance(value, float):
                    self._client.log_metric(run_id, f"best.{metric}", value)
            self._client.set_tag(run_id, _STATUS, str(event.status))
            self._client.set_terminated(run_id, "FAILED" if event.status == Status.FAILED else "FINISHED")
