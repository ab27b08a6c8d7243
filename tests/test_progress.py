"""How far a search has come, as checkpoints hold it, and what its figures are compared with."""

import math

import pytest

from nhn_tf.search.progress import Progress
from nhn_tf.values.comparison import NO_ADDONS, RANDOM_SEARCH, Comparison

UPDATE = {"logs": {"loss": 0.5}, "genes": [[1, 0, 1]], "rewards": [math.nan]}
PASS = {"train_loss": 1.5, "lr": 0.05}
# What checkpoints have held from the first version on: their value, and the progress that it is.
LAYOUTS = [
    ({"step": 3, "lr": 0.05}, Progress("supernet", 3, {"lr": 0.05})),
    ({"supernet": PASS}, Progress("controller", 0, {"supernet": PASS})),
    (
        {"supernet": PASS, "controller": [UPDATE, UPDATE]},
        Progress("controller", 2, {"supernet": PASS, "controller": [UPDATE, UPDATE]}),
    ),
    (
        {"lr": 0.1, "individuals": [[1.5, 0.25, 0.5]]},
        Progress("individuals", 1, {"lr": 0.1, "individuals": [[1.5, 0.25, 0.5]]}),
    ),
    (
        {"ranked": {"controller": [0.5, 0.25], "random": [0.125]}},
        Progress("ranking", 3, {"ranked": {"controller": [0.5, 0.25], "random": [0.125]}}),
    ),
]


@pytest.mark.parametrize(("value", "progress"), LAYOUTS, ids=lambda item: getattr(item, "phase", None))
def test_every_phase_stands_in_a_checkpoint_as_it_always_has(value, progress):
    assert Progress.from_json(value) == progress
    assert progress.to_json() == value


def test_between_epochs_there_is_no_progress():
    assert Progress.from_json({}) is None


def test_advancing_keeps_what_is_done():
    begun = Progress("individuals", done={"lr": 0.1, "individuals": []})
    assert begun.advanced(1, individuals=[0.5]) == Progress("individuals", 1, {"lr": 0.1, "individuals": [0.5]})
    assert begun.done["individuals"] == []


def test_a_comparison_puts_both_figures_among_the_metrics_under_their_names():
    comparison = Comparison("mean_val_accuracy", 0.75, RANDOM_SEARCH, 0.5)
    assert comparison.metrics() == {"mean_val_accuracy": 0.75, "random_search_mean_val_accuracy": 0.5}
    assert comparison.gain == 0.25


def test_comparisons_are_found_among_metrics_again():
    metrics = {
        "val_accuracy": 0.75, "random_search_val_accuracy": 0.5, "no_addons_val_accuracy": 1, "evaluations": 12.0,
        "mean_val_accuracy": math.nan, "random_search_mean_val_accuracy": 0.5, "random_search_time": 3.0, "name": "x",
    }  # fmt: skip
    assert Comparison.read(metrics) == [
        Comparison("val_accuracy", 0.75, RANDOM_SEARCH, 0.5),
        Comparison("val_accuracy", 0.75, NO_ADDONS, 1),
    ]


def test_a_control_that_was_not_asked_for_is_none_and_is_not_found():
    comparison = Comparison("val_accuracy", 0.75, RANDOM_SEARCH, None)
    assert comparison.metrics()["random_search_val_accuracy"] is None
    assert Comparison.read(comparison.metrics()) == []
    assert math.isnan(comparison.gain)


def test_a_control_without_a_name_is_refused():
    with pytest.raises(ValueError, match="`control` must be among random search, no add-ons. Received: 'luck'"):
        Comparison("val_accuracy", 0.5, "luck", 0.5)
