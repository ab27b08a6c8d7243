"""Pictures of a whole run: when its stages ran, where its networks stand in table 1, how sensitive its kernels are."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nhn_tf.report import cells, figures, published
from nhn_tf.report.reading import Run
from nhn_tf.runs import StageRecord

Json = dict[str, Any]

_UNITS: Final = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
# Marks and colours of table 1's blocks; shapes differ, so that colours need not be told apart.
_MARKS: Final = {
    published.HANDCRAFTED: ("s", figures.MUTED),
    published.RANDOM_SEARCH: ("^", figures.GREEN),
    published.EVOLUTIONARY: ("D", figures.ORANGE),
}
_SCORES: Final = (1, 2, 4)


def timeline(stages: list[Json], *, narrow: bool = False) -> Figure | None:
    """A bar for each finished stage, one after the other; None before one has finished.

    Args:
      stages: as in results.json.
      narrow: as wide as a phone.
    """
    done = [stage for stage in stages if "wall_s" in stage]
    if not done:
        return None
    seconds = [stage["wall_s"] for stage in done]
    size, unit = next((s, u) for s, u in _UNITS if sum(seconds) >= 2 * s or s == 1.0)
    ends = np.array(list(itertools.accumulate(seconds))) / size
    widths = np.array(seconds) / size
    with figures.style():
        figure = figures.new_figure(figures.NARROW if narrow else 7.2, 0.34 * len(done) + 0.8)
        axes = figure.subplots()
        axes.barh(range(len(done)), widths, left=ends - widths, color=figures.BLUE, height=0.6)
        for row, (end, width, stage) in enumerate(zip(ends, widths, done, strict=True)):
            behind, before = end <= 0.75 * ends[-1], end - width >= 0.25 * ends[-1]  # else on the bar
            place: dict[str, Any] = {"ha": "left" if behind else "right", "va": "center", "fontsize": 8}
            if not (behind or before):
                place["color"] = "white"
            text = f" {cells.clock(stage['wall_s'])} "
            axes.text(end - width if before and not behind else end, row, text, **place)
        axes.set_yticks(range(len(done)), [stage["stage"] for stage in done])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=unit, xlim=(0, max(float(ends[-1]), 1e-9)))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        figure.set_layout_engine("constrained")
    return figure


def score_plane(table: Json, *, narrow: bool = False) -> Figure:
    """Test error against parameters of table 1's rows and the measured ones, with lines of equal score.

    Args:
      table: as in results.json.
      narrow: as wide as a phone.
    """
    with figures.style():
        figure = figures.new_figure(figures.NARROW if narrow else 7.2, 4.6)
        axes = figure.subplots()
        axes.set(xscale="log", xlabel="parameters, millions", ylabel="test error, percent")
        for block, (marker, color) in _MARKS.items():
            rows = [row for row in table["paper"] if row["block"] == block and row["params_m"] is not None]
            points = [(row["params_m"], row["test_error"]) for row in rows]
            axes.scatter(
                [x for x, _ in points], [y for _, y in points], marker=marker, color=color, s=26, label=block, zorder=3
            )
        measured = [(row["live_params"] / 1e6, row["test_error"], row["method"]) for row in table["measured"]]
        if measured:
            x, y, _ = zip(*measured, strict=True)
            axes.scatter(x, y, marker="*", color=figures.BLUE, s=110, label="measured here", zorder=4)
            for place in measured:
                around = [withStroke(linewidth=2.5, foreground="white")]
                offset: dict[str, Any] = {"xytext": (6, 4), "textcoords": "offset points"}
                axes.annotate(place[2], place[:2], **offset, fontsize=7.5, path_effects=around, zorder=5)
        top = max([8.0, *(error * 1.08 for _, error, _ in measured)])
        axes.set_ylim(0, top)
        low, high = axes.get_xlim()
        for score in _SCORES:
            params = np.geomspace(low, min(high, 25 * score * 0.9999), 200)
            errors = 2 * np.sqrt(score**2 - (params / 25) ** 2)
            axes.plot(params, errors, color=figures.GREY, linewidth=0.9, linestyle="--", zorder=1)
            axes.text(low, errors[0], f" score {score}", fontsize=7, color=figures.MUTED, va="bottom")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        figure.legend(loc="outside lower center", ncols=2)
        figure.set_layout_engine("constrained")
    return figure


def histograms(run: Run, *, narrow: bool = False) -> Figure | None:
    """A panel for each pruned layer: the standard deviations of its kernels, those pruned in grey, and its threshold.

    None where pruning was gradual, or the weights that it began from are no longer those of the base network.
    """
    base, prune = run.stages["base"], run.stages["prune"]
    if not (base.is_done and prune.is_done) or prune.config["config"].get("schedule") == "gradual":
        return None
    masks = prune.genotype().masks
    if masks is None or prune.config.get("input_weights") != base.done.weights:
        return None
    arrays = base.weights()
    kernels = {name: arrays[path] for name in masks if (path := f"{name}/kernel") in arrays}
    scores = {name: kernel.std(axis=(0, 1)) for name, kernel in kernels.items() if kernel.shape[:2] != (1, 1)}
    return figures.kept_histograms(scores, masks, _thresholds(prune), narrow=narrow) if scores else None


def _thresholds(prune: StageRecord) -> dict[str, float]:
    """The standard deviation below which a layer's kernels went, where that decided and layers.csv tells it."""
    if prune.config["config"].get("criterion") != "std":
        return {}
    return {row["layer"]: float(cut) for row in prune.layers if (cut := row.get("threshold"))}
