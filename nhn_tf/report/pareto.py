"""Accuracy against cost of every architecture that the search ranked: its own beside those of random search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from nhn_tf.report import figures
from nhn_tf.runs import StageRecord
from nhn_tf.storage.files import DamagedFileError

Json = dict[str, Any]
Row = tuple[float, float, str]
"""Cost, accuracy, and what proposed the architecture."""

LABELS: Final = {
    "live_params": "live parameters",
    "multiply_adds": "multiply-adds of an image",
    "latency_ms": "milliseconds an image",
}
"""The columns of trials.csv that may be a search's cost, in words."""
# What trials.csv calls what proposed a candidate -> label, mark, colour.
_SOURCES: Final = {
    "controller": ("controller", "o", figures.BLUE),
    "random": ("random search", "^", figures.ORANGE),
}


def collect(stage: StageRecord) -> Json | None:
    """The Pareto front of the ranked architectures; None where trials.csv, as older ones, knows no cost.

    Returns:
      Under "cost" its column there; under "computed" how many architectures each side ranked, "ranked", and in "front"
      [cost, accuracy, source] of those that no other dominates, the cheapest first: none costs no more and is better,
      or costs less and is as good.

    Raises:
      DamagedFileError: trials.csv is not what a search of architectures leaves.
    """
    if not (rows := _rows(stage)):
        return None
    ranked = {name: sum(source == name for _, _, source in rows) for name in _SOURCES}
    source = f"{stage.directory}/trials.csv"
    return {"source": source, "cost": _column(stage), "computed": {"ranked": ranked, "front": front(rows)}}


def _column(stage: StageRecord) -> str:
    columns = {"flops": "multiply_adds", "latency": "latency_ms"}
    return columns.get(stage.config["config"].get("objective"), "live_params")


def _rows(stage: StageRecord) -> list[Row]:
    """(cost, accuracy, source) of each that could be measured."""
    if not stage.trials or "accuracy" not in stage.trials[0]:
        return []
    try:
        return [_row(row, _column(stage)) for row in stage.trials if row["accuracy"]]
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{stage / 'trials.csv'} has no readable costs ({error}). Restore a copy.") from None


def _row(cells: Mapping[str, str], column: str) -> Row:
    """A row of trials.csv, `column` its cost.

    Raises:
      KeyError, ValueError: it is none of a search's.
    """
    cost, accuracy, source = float(cells[column]), float(cells["accuracy"]), cells["source"]
    if not (math.isfinite(cost) and math.isfinite(accuracy) and source in _SOURCES):
        raise ValueError(f"{column} {cost}, accuracy {accuracy}, source {source!r}")
    return cost, accuracy, source


def front(rows: Iterable[Row]) -> list[Row]:
    """Those of (cost, accuracy, source) that no other one dominates, the cheapest first."""
    best, kept = -math.inf, []
    for row in sorted(rows, key=lambda row: (row[0], -row[1])):
        if row[1] > best:
            best = row[1]
            kept.append(row)
    return kept


def draw(stage: StageRecord, *, narrow: bool = False) -> Figure | None:
    """A point for each ranked architecture, and the front of each side as steps; None as for `collect`.

    Args:
      stage: the search of architectures.
      narrow: as wide as a phone.
    """
    if not (rows := _rows(stage)):
        return None
    with figures.style():
        figure = figures.new_figure(figures.NARROW if narrow else 7.2, 3.6)
        axes = figure.subplots()
        for name, (label, marker, color) in _SOURCES.items():
            if points := [row for row in rows if row[2] == name]:
                costs, accuracies, _ = zip(*points, strict=True)
                axes.scatter(costs, accuracies, marker=marker, color=color, s=14, alpha=0.5, label=label)
                x, y, _ = zip(*front(points), strict=True)
                axes.step([*x, max(costs)], [*y, y[-1]], where="post", color=color, linewidth=1.2)
        axes.set(xlabel=LABELS[_column(stage)], ylabel="validation accuracy")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None))
        figure.legend(loc="outside lower center", ncols=2)
        figure.set_layout_engine("constrained")
    return figure
