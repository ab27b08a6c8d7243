"""The tracker that tells MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from nhn_tf.errors import UserError
from nhn_tf.runs.tracking import TrackedStage
from nhn_tf.storage.commands import typed

EXPERIMENT: Final = "nhn_tf"
STORE: Final = "mlruns"
"""Where MLflow keeps its files, in the working directory, if nothing else is said."""
ID: Final = "nhn_tf.id"
FIGURES: Final = "figures/"
"""How the names of a finished stage's figures begin."""
ARTIFACTS: Final = ("genotype.json", "metrics.csv")
MOST_PARAMETERS: Final = 100
"""In one call."""


class MlflowTracker:
    """Each stage is a run of MLflow, "demo/base": settings are parameters, epochs metrics, and its figures too.

    Nothing is sent to MLflow's makers: their telemetry is switched off unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Args:
      tracking_uri: where to; by default what MLFLOW_TRACKING_URI says, or files in `mlruns`.
      experiment: MLflow's name for all of it.

    Raises:
      UserError: MLflow is not installed.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = EXPERIMENT):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"file:{os.path.abspath(STORE)}"
        if tracking_uri.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow would rather have a database
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            how = typed('pip install "nhn-tf[mlflow]"')
            raise UserError(f"the tracker mlflow needs MLflow ({error}). Install it: {how}") from None
        self._client = MlflowClient(tracking_uri)
        self._experiment = experiment
        self._runs: dict[str, str] = {}
        self._steps: dict[str, int] = {}

    def on_stage_begin(self, stage: TrackedStage) -> None:
        experiment = self._experiment_id()
        found = self._client.search_runs([experiment], f"tags.`{ID}` = '{stage.id}'")
        if found:
            run = found[0].info.run_id
            self._client.update_run(run, status="RUNNING")
        else:
            tags = {ID: stage.id, "nhn_tf.stage": stage.name, "nhn_tf.run": str(stage.run.resolve())}
            name = f"{stage.run.resolve().name}/{stage.name}"
            run = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
        self._runs[stage.id] = run
        # Killed before it was noted, an epoch is told again.
        self._steps[stage.id] = max([m.step for m in self._client.get_metric_history(run, "seconds")], default=0)
        self._log_settings(run, stage.settings)

    def on_metrics(self, stage: TrackedStage, step: int, metrics: Mapping[str, float]) -> None:
        if step > self._steps[stage.id]:
            self._log(self._runs[stage.id], metrics, step)

    def on_stage_end(self, stage: TrackedStage, metrics: Mapping[str, Any]) -> None:
        run = self._runs[stage.id]
        known = self._client.get_run(run).data.metrics
        figures = {f"{FIGURES}{name}": value for name, value in metrics.items() if isinstance(value, (int, float))}
        self._log(run, {name: value for name, value in figures.items() if name not in known}, 0)
        for name in ARTIFACTS:
            if (stage.path / name).exists():
                self._client.log_artifact(run, str(stage.path / name))
        self._client.set_terminated(run)

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        return found.experiment_id if found else self._client.create_experiment(self._experiment)

    def _log_settings(self, run: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(run).data.params
        params = [Param(name, str(value)) for name, value in settings.items() if name not in known]
        for first in range(0, len(params), MOST_PARAMETERS):
            self._client.log_batch(run, params=params[first : first + MOST_PARAMETERS])

    def _log(self, run: str, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(run, metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()])
