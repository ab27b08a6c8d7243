"""A stage as a whole in TensorBoard: a row of the HParams table, its figures, its command and its genotype.

The table has one row for each stage of each run below `--logdir`, all with the same columns: the settings of every kind
of stage, empty where a stage has none of that name, and the figures by which runs are compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import struct_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from nhn_tf.runs.event_writer import EventWriter
from nhn_tf.runs.settings import Settings
from nhn_tf.settings import PRESETS
from nhn_tf.settings.stages import CONFIGURED
from nhn_tf.values.genotype import Genotype

FIGURES: Final = "figures/"
"""How the tags of a stage's figures begin, so that TensorBoard folds them into one group."""
EXPORT: Final = "export"
"""The run below a stage's own that holds what was measured of its exports."""
LATENCY: Final = f"{FIGURES}latency_ms"
"""Of the fastest export, milliseconds an image."""

_COMPARED: Final = (
    ("", f"{FIGURES}test_error", "test error, %"),
    ("", f"{FIGURES}live_params", "live parameters"),
    ("", f"{FIGURES}score", "score"),
    (EXPORT, LATENCY, "latency, ms"),
    ("", f"{FIGURES}val_accuracy", "validation accuracy"),
    ("", f"{FIGURES}live_flops", "live multiply-adds"),
    ("", f"{FIGURES}kernel_sparsity", "kernel sparsity"),
)
"""(run below the stage's own, tag, name of the column)."""
_DIFFERENT: Final = ("stage", "preset", "seed", "dataset", "epochs")
"""The columns that tell runs apart; TensorBoard shows five at first, these."""


class Session:
    """What TensorBoard is told of a stage as a whole.

    Args:
      directory: of the stage's own run in TensorBoard.
      stage: the stage's name.
      settings: the stage's.
      run: the directory of the run that it is part of.
    """

    def __init__(self, directory: Path, stage: str, settings: Settings, *, run: Path):
        self._directory = directory
        self._command = settings.command(stage, run)
        self._settings = {"stage": stage, **_columns(settings)}
        self._began = time.time()

    def write(self, genotype: Genotype | None, metrics: Mapping[str, Any] | None = None) -> None:
        """Writes everything in place of what was written before.

        Args:
          genotype: what the stage begins from, or has come to.
          metrics: its figures, once it has finished.
        """
        events = EventWriter(self._directory)  # from step 0: TensorBoard drops what earlier ones wrote
        start = plugin_data_pb2.SessionStartInfo(start_time_secs=self._began)
        for name, value in self._settings.items():
            start.hparams[name].CopyFrom(_value(value))
        events.hparams(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=_experiment()))
        events.hparams(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start))
        events.text("command", code(self._command), 0)
        if genotype is not None:
            events.text("genotype", code(_in_words(genotype)), 0)
        for name, value in (metrics or {}).items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                events.scalar(f"{FIGURES}{name}", value, 0)
        if metrics is not None:
            end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
            events.hparams(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))
        events.close()


def code(text: str) -> str:
    """Markdown that shows a text as it stands."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _in_words(genotype: Genotype) -> str:
    """A genotype in ENAS's text form, and a line for each add-on."""
    lines = [
        f"add-on of layer {a.target}: {a.kernel_size}x{a.kernel_size} from source {a.source}" for a in genotype.addons
    ]
    return "\n".join([genotype.to_enas_text().rstrip("\n"), *lines])


def _columns(settings: Settings) -> dict[str, Any]:
    """The values of a stage's settings in the table, by column."""
    general = {"preset": settings.preset, "seed": settings.seed, "dataset": settings.data.dataset}
    return {**general, "precision": settings.compute.precision, **settings.config.to_json()}


def _experiment() -> api_pb2.Experiment:
    """The table's columns; the same in every stage, since TensorBoard takes those of any."""
    paper = PRESETS["paper"]
    columns: dict[str, Any] = {"stage": ""}
    for stage in CONFIGURED:
        columns |= _columns(Settings.of(paper, stage))
    figures = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(group=run, tag=tag), display_name=title)
        for run, tag, title in _COMPARED
    ]
    settings = [
        api_pb2.HParamInfo(name=name, type=_kind(value), differs=name in _DIFFERENT) for name, value in columns.items()
    ]
    return api_pb2.Experiment(hparam_infos=settings, metric_infos=figures)


def _kind(value: Any) -> api_pb2.DataType.ValueType:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_FLOAT64 if isinstance(value, (int, float)) else api_pb2.DATA_TYPE_STRING


def _value(value: Any) -> struct_pb2.Value:
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=value)
    return struct_pb2.Value(string_value=value if isinstance(value, str) else ", ".join(value))
