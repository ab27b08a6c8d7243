"""Pictures of what a network answers: the confusion matrix, examples of confusions, the most confident mistakes.

Lengths are inches; pictures of images have y growing downwards.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nhn_tf.report import classes, figures
from nhn_tf.values.predictions import Predictions

_MOST_NAMED: Final = 40
_MOST_COUNTED: Final = 15
_LONGEST_NAME: Final = 14
_PAIRS: Final = 6
_EXAMPLES: Final = 6
_THUMB: Final = 0.62
_GAP: Final = 0.12
_TEXT: Final = 0.32


def confusion(answers: Predictions, *, narrow: bool = False) -> Figure:
    """The confusion matrix, each row the classes that a class is taken for; counts where there is room for them."""
    matrix, names = answers.confusion, answers.class_names
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(0.34 * len(names) + 1.6, 3.4), 4.2 if narrow else 8.0)
    with figures.style():
        figure = figures.new_figure(side, side)
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
        axes.grid(False)
        axes.set(xlabel="taken for", ylabel="shown")
        if len(names) <= _MOST_NAMED:
            size = 8.0 if len(names) <= _MOST_COUNTED else 5.5
            labels = [_short(name) for name in names]
            upright = max(map(len, labels)) > 3
            axes.set_xticks(range(len(names)), labels, rotation=90 if upright else 0, fontsize=size)
            axes.set_yticks(range(len(names)), labels, fontsize=size)
        if len(names) <= _MOST_COUNTED:
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    color = "white" if shares[row, column] > 0.55 else figures.INK
                    axes.text(column, row, str(count), ha="center", va="center", fontsize=7.5, color=color)
        figure.set_layout_engine("constrained")
    return figure


def mistakes(answers: Predictions, *, narrow: bool = False) -> Figure | None:
    """A contact sheet of the most confident mistakes; None without thumbnails."""
    count = min(len(answers.shown), classes.MOST_MISTAKES)
    if not count:
        return None
    columns = min(count, 4 if narrow else 8)
    cell = (_THUMB + 2.4 * _GAP, _THUMB + _TEXT + _GAP)
    with figures.style():
        figure, axes = _sheet(columns * cell[0], math.ceil(count / columns) * cell[1])
        for number in range(count):
            left, top = number % columns * cell[0], number // columns * cell[1] + _GAP / 2
            middle = left + cell[0] / 2
            _thumbnail(axes, answers.thumbnails[number], middle - _THUMB / 2, top)
            told, sure = _told(answers, int(answers.shown[number]))
            axes.text(middle, top + _THUMB + 0.04, f"{told}\n{sure}", ha="center", va="top", fontsize=6.8)
    return figure


def confusions(answers: Predictions, *, narrow: bool = False) -> Figure | None:
    """A row of examples for each of the most frequent confusions that there are thumbnails of; None without any."""
    most = 3 if narrow else _EXAMPLES
    shown = answers.shown
    rows = []
    for pair in np.argwhere(answers.confusion):
        count = int(answers.confusion[tuple(pair)])
        where = np.flatnonzero((answers.labels[shown] == pair[0]) & (answers.predicted[shown] == pair[1]))
        if pair[0] != pair[1] and len(where):
            rows.append((count, *pair.tolist(), where[:most]))
    rows.sort(key=lambda row: -row[0])
    if not (rows := rows[:_PAIRS]):
        return None
    label, pitch = 1.9, _THUMB + _GAP
    with figures.style():
        figure, axes = _sheet(label + most * pitch, len(rows) * pitch)
        for number, (count, true, taken, where) in enumerate(rows):
            top = number * pitch + _GAP / 2
            names = [_short(answers.class_names[index]) for index in (true, taken)]
            told = f"{names[0]} → {names[1]}\n{count:,} of {int(answers.confusion[true].sum()):,}"
            axes.text(0.05, top + _THUMB / 2, told, va="center", fontsize=8.5)
            for place, index in enumerate(where):
                _thumbnail(axes, answers.thumbnails[index], label + place * pitch, top)
    return figure


def _told(answers: Predictions, image: int) -> tuple[str, str]:
    true, taken = (_short(answers.class_names[side[image]], 6) for side in (answers.labels, answers.predicted))
    return f"{true} → {taken}", f"{100 * answers.confidence[image]:.1f}%"


def _sheet(width: float, height: float) -> tuple[Figure, Axes]:
    figure = figures.new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def _thumbnail(axes: Axes, image: np.ndarray, left: float, top: float) -> None:
    """uint8 [h, w, C] in a square of `_THUMB`, its sides in proportion."""
    height, width = (_THUMB * length / max(image.shape[:2]) for length in image.shape[:2])
    left, top = left + (_THUMB - width) / 2, top + (_THUMB - height) / 2
    extent = (left, left + width, top + height, top)
    colored = np.broadcast_to(image, (*image.shape[:2], 3))
    axes.imshow(colored, extent=extent, interpolation="nearest", aspect="auto", zorder=2)
    axes.set_autoscale_on(False)


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    """A class's name, cut where it would run into others."""
    name = " ".join(name.split())
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
