"""Pictures as bytes: the histogram of sensitivities, and that nothing of pyplot or the clock gets into a picture."""

import importlib.util
import math
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from nhn_tf.report import figures

pytestmark = pytest.mark.jax_slow

SCORES = {
    "layer0_op": np.array([[0.01, 0.03], [0.05, 0.0]], np.float32),
    "layer1_op": np.array([[0.02, 0.019], [0.5, 0.021]], np.float32),
}


def decoded(png, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def drawn(monkeypatch, scores, thresholds):
    """The axes that `std_histogram` fills."""
    made = []
    original = figures.new_figure
    monkeypatch.setattr(figures, "new_figure", lambda *size: made.append(original(*size)) or made[-1])
    figures.std_histogram(scores, thresholds)
    return made[0].axes


@pytest.mark.parametrize(
    "thresholds", [0.02, {"layer0_op": 0.02, "layer1_op": 0.02}, {"layer0_op": 0.04, "layer1_op": 0.02}]
)
def test_the_size_told_is_the_size_of_the_picture(thresholds, tmp_path):
    png, size = figures.std_histogram(SCORES, thresholds)
    assert decoded(png, tmp_path).shape == (*size, 3)


def test_kernels_below_the_threshold_count_as_pruned_and_the_one_at_it_as_kept(monkeypatch):
    (axes,) = drawn(monkeypatch, SCORES, 0.02)
    labels = axes.get_legend_handles_labels()[1]
    # Below 0.02: 0.01 and 0 of layer 0, 0.019 of layer 1 (float32 0.02 lies just below the float64 one).
    below = sum(int((array.astype(np.float64) < 0.02).sum()) for array in SCORES.values())
    assert sorted(labels) == [f"kept: {8 - below}", f"pruned: {below}", "threshold: 0.02"]
    assert axes.lines[0].get_xdata()[0] == 0.02


def test_no_bar_lies_on_both_sides_of_the_threshold(monkeypatch):
    (axes,) = drawn(monkeypatch, {"a": np.random.default_rng(0).random(500)}, 0.37)
    edges = np.array([bar.get_x() for bar in axes.patches] + [bar.get_x() + bar.get_width() for bar in axes.patches])
    assert np.abs(edges - 0.37).min() < 1e-12
    assert edges.max() >= 1.0 - 1e-3


def test_layers_with_thresholds_of_their_own_get_panels_of_their_own(monkeypatch):
    axes = drawn(monkeypatch, SCORES, {"layer0_op": 0.04, "layer1_op": 0.02})
    assert [a.get_title(loc="left") for a in axes] == ["layer0_op", "layer1_op"]
    assert [a.lines[0].get_xdata()[0] for a in axes] == [0.04, 0.02]


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        pytest.param({"a": np.zeros(9)}, 0.0, id="every kernel flat, nothing pruned"),
        pytest.param({"a": np.full(3, 0.1)}, math.inf, id="every kernel pruned"),
        pytest.param({"a": np.full(3, 1e-12)}, 1.0, id="threshold far above"),
        pytest.param({"a": np.full(3, 1.0)}, 1e-12, id="threshold far below"),
        pytest.param({"a": np.full(1, 0.1), "b": np.zeros((0, 3))}, 0.05, id="an empty layer"),
    ],
)
def test_extreme_scores_are_drawn(scores, threshold, tmp_path):
    png, size = figures.std_histogram(scores, threshold)
    assert decoded(png, tmp_path).shape[:2] == size


def test_one_layer_without_a_finite_threshold_is_drawn_beside_one_with():
    assert figures.std_histogram(SCORES, {"layer0_op": math.inf, "layer1_op": 0.02})[0]


@pytest.mark.parametrize(
    ("scores", "thresholds", "message"),
    [
        ({}, 0.1, "at least one score"),
        ({"a": np.zeros((0, 2))}, 0.1, "at least one score"),
        ({"a": np.array([0.1, math.nan])}, 0.1, "finite.*in a"),
        (SCORES, {"layer0_op": 0.1}, "none for layer1_op"),
    ],
)
def test_scores_that_cannot_be_drawn_are_refused(scores, thresholds, message):
    with pytest.raises(ValueError, match=message):
        figures.std_histogram(scores, thresholds)


def test_the_same_scores_give_the_same_bytes():
    assert figures.std_histogram(SCORES, 0.02) == figures.std_histogram(SCORES, 0.02)


def test_svg_carries_no_date_and_no_random_ids():
    def picture():
        with figures.style():
            figure = figures.new_figure(2, 2)
            axes = figure.subplots()
            axes.plot([0, 1], [0, 1], marker="o")
            axes.set_title("×—²")
        return figures.svg(figure)

    first, second = picture(), picture()
    assert first == second
    assert b"<dc:date>" not in first


def test_pictures_leave_matplotlib_as_it_was(monkeypatch):
    def settings():
        return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises
    fresh = importlib.util.module_from_spec(figures.__spec__)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = settings()
        figures.__spec__.loader.exec_module(fresh)
        fresh.std_histogram({"a": np.ones(3)}, 0.5)
        assert settings() == before
