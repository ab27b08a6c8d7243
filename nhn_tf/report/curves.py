"""How the stages converged: the searches beside their controls, the trainings beside each other.

Points come from metrics.csv, level lines from done.json.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nhn_tf.report import figures, results
from nhn_tf.report.reading import Run
from nhn_tf.runs import StageRecord
from nhn_tf.runs.record import Table

_TRAININGS: Final = {"base": "Base network", "pruned": "Pruned network", "final": "Final network"}
_ADDON_SEARCHES: Final = {"lds_location": "Search for locations", "lds_direction": "Search for directions"}
_COLORS: Final = (figures.BLUE, figures.GREEN, figures.ORANGE, figures.PURPLE, figures.MUTED)

_LEVEL_COLORS: Final = {"found": figures.BLUE, "random search": figures.ORANGE, "no add-ons": figures.MUTED}

# Level lines of the architecture search: how their figure in done.json begins -> label, colour.
_LEVELS: Final = {
    "": ("best found, all of validation", figures.BLUE),
    "random_search_": ("best of random search, all of validation", figures.ORANGE),
    "random_search_mean_": ("mean of random search, all of validation", figures.MUTED),
}


def draw(run: Run, *, narrow: bool = False) -> dict[str, Figure]:
    """The figures that the run has points for, by file name without ending.

    Args:
      run: as it was read.
      narrow: one panel below the other, as wide as a phone.
    """
    with figures.style():
        drawn = {
            "enas": _architecture_search(run.stages["enas"], narrow),
            "training": _training([run.stages[name] for name in _TRAININGS], narrow),
            "lds": _addon_searches([run.stages[name] for name in _ADDON_SEARCHES], narrow),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _architecture_search(stage: StageRecord, narrow: bool) -> Figure | None:
    """Mean reward and baseline of each epoch; the controls as level lines."""
    if not any("reward" in row for row in stage.history):
        return None
    figure = figures.new_figure(*((figures.NARROW, 3.8) if narrow else (7.2, 3.6)))
    axes = figure.subplots()
    _curve(axes, stage.history, "reward", "mean reward of an epoch's architectures", figures.BLUE)
    _curve(axes, stage.history, "baseline", "baseline", figures.GREEN, linewidth=1.2)
    _curve(axes, stage.history, "random_reward", "mean reward of random ones", figures.ORANGE, linewidth=1.2)
    metrics = results.finite(stage.metrics)
    is_accuracy = stage.config["config"].get("objective", "accuracy") == "accuracy"
    for prefix, (label, color) in _LEVELS.items():
        if (name := f"{prefix}{'val_accuracy' if is_accuracy else 'val_reward'}") in metrics:
            axes.axhline(metrics[name], color=color, linestyle="--", linewidth=1.2, label=label)
    _finish(axes, "Architecture search", "epoch", "validation accuracy" if is_accuracy else "reward")
    return _with_legend_below(figure, [axes], columns=1 if narrow else 2)


def _training(stages: Sequence[StageRecord], narrow: bool) -> Figure | None:
    """A panel for each training: accuracy on training and validation images, and on the test images at the end."""
    stages = [stage for stage in stages if any("accuracy" in row for row in stage.history)]
    if not stages:
        return None
    figure, grid = _panels(len(stages), narrow)
    for axes, stage in zip(grid, stages, strict=True):
        _curve(axes, stage.history, "accuracy", "training, augmented", figures.GREY)
        _curve(axes, stage.history, "val_accuracy", "validation", figures.BLUE)
        test = results.finite(stage.metrics).get("test_accuracy")
        if test is not None:
            axes.axhline(test, color=figures.ORANGE, linestyle="--", linewidth=1.2, label="test, at the end")
        _finish(axes, _TRAININGS[stage.name], "epoch", "accuracy" if narrow or axes is grid[0] else "")
    return _with_legend_below(figure, grid, columns=1 if narrow else 3)


def _addon_searches(stages: Sequence[StageRecord], narrow: bool) -> Figure | None:
    """A panel for each half of the add-on search: fitness of each cycle, and what it is to be compared with."""
    stages = [stage for stage in stages if _fitness_columns(stage.history)]
    if not stages:
        return None
    figure, grid = _panels(len(stages), narrow, same_scale=False)
    for axes, stage in zip(grid, stages, strict=True):
        for column, color in zip(_fitness_columns(stage.history), _COLORS, strict=False):
            _curve(axes, stage.history, column, column.replace("_", " "), color)
        for value, label, color, style in _levels(stage):
            axes.axhline(value, color=color, linestyle=style, linewidth=1.2, label=label)
        _zoom(axes)
        _finish(axes, _ADDON_SEARCHES[stage.name], "cycle", "accuracy" if narrow or axes is grid[0] else "")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.2))
    figure.set_layout_engine("constrained")
    return figure


def _levels(stage: StageRecord) -> list[tuple[float, str, str, str]]:
    """Level lines of an add-on search: value, label, colour, style; those that would lie on each other are one."""
    rows = results.controls(stage)
    levels = [("found", row["figure"], row["found"]) for row in rows]
    levels += [(row["control"], row["figure"], row["control_value"]) for row in rows]
    together: dict[float, list[tuple[str, bool]]] = {}
    for what, name, value in dict.fromkeys(levels):
        together.setdefault(round(value, 4), []).append((what, name.startswith("mean_")))
    lines = []
    for value, members in together.items():
        best = [what for what, is_mean in members if not is_mean]
        means = [f"mean of {what}" for what, is_mean in members if is_mean and what not in best]
        label = "\n   = ".join(textwrap.wrap(" = ".join([*best, *means]), 40)).replace("=\n", "\n")
        style = ":" if all(is_mean for _, is_mean in members) else "--"
        lines.append((value, label, _LEVEL_COLORS[members[0][0]], style))
    return lines


def _fitness_columns(history: Table) -> list[str]:
    """Columns that hold fitness, in the order of the file, as many as there are colours."""
    names = dict.fromkeys(
        name for row in history for name in row if name.endswith("_fitness") and name != "nan_fitness"
    )
    return list(names)[: len(_COLORS)]


def _panels(count: int, narrow: bool, *, same_scale: bool = True) -> tuple[Figure, list[Axes]]:
    """Panels side by side, or where it must be narrow one below the other."""
    if narrow:
        figure = figures.new_figure(figures.NARROW, 2.9 * count + 0.5)
        return figure, list(figure.subplots(count, 1, sharey=same_scale, squeeze=False)[:, 0])
    figure = figures.new_figure(max(3.4 * count, 5.4), 3.4 if same_scale else 4.0)
    return figure, list(figure.subplots(1, count, sharey=same_scale, squeeze=False)[0])


def _zoom(axes: Axes) -> None:
    """Fits the scale to the curves and the level lines, and no more."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    low, high = float(values.min()), float(values.max())
    margin = max(0.06 * (high - low), 0.002)
    axes.set_ylim(low - margin, high + margin)


def _curve(
    axes: Axes, history: Sequence[Mapping[str, float]], column: str, label: str, color: str, *, linewidth: float = 1.8
) -> None:
    """A column over the epochs that have it; a single point becomes a dot."""
    points = [(number, row[column]) for number, row in enumerate(history, 1) if column in row]
    if points:
        marker = "o" if len(points) == 1 else ""
        axes.plot(*zip(*points, strict=True), color=color, linewidth=linewidth, marker=marker, label=label)


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None))


def _with_legend_below(figure: Figure, grid: Sequence[Axes], *, columns: int) -> Figure:
    """One legend for all panels, each label once."""
    entries: dict[str, Artist] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)
    figure.set_layout_engine("constrained")
    return figure
