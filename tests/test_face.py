"""`import nhn_tf`: light, and a door to each room; the whole pipeline on arrays."""

import subprocess
import sys

import numpy as np
import pytest

import nhn_tf
from nhn_tf.errors import RunError
from nhn_tf.settings.presets import SMOKE


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_import_loads_no_backend_and_the_runtime_no_keras():
    heavy = "print([m for m in ('keras', 'tensorflow', 'jax', 'matplotlib', 'numpy') if m in sys.modules])"
    assert python(f"import sys, nhn_tf; {heavy}") == "[]"
    assert python(f"import sys, nhn_tf; nhn_tf.sparse.load; {heavy}") == "['numpy']"


def test_each_door_leads_to_its_room():
    assert set(nhn_tf.__all__) - {"__version__"} <= set(dir(nhn_tf))
    assert nhn_tf.pruning.prune and nhn_tf.sparse.compile and nhn_tf.search.EnasSearch and nhn_tf.run.pipeline
    with pytest.raises(AttributeError, match="has no attribute 'rooms'"):
        nhn_tf.rooms  # noqa: B018


def striped(count, rng):
    """Images of upright and of lying stripes, [count, 8, 8], and what they show."""
    labels = np.arange(count) % 2
    stripes = np.tile(np.array([0.9, 0.1] * 4), (8, 1))
    images = np.stack([stripes if label else stripes.T for label in labels])
    return (images + 0.05 * rng.random(images.shape)).astype(np.float32), np.array(["lying", "upright"])[labels]


@pytest.mark.slow
def test_arrays_go_through_the_whole_pipeline_and_are_kept(tmp_path):
    images, labels = striped(96, np.random.default_rng(0))
    shorter = {"enas_epochs": 1, "base_epochs": 1, "lds_location_cycles": 1, "lds_direction_cycles": 1}
    asked = {"model_dir": tmp_path / "run", "preset": "smoke", **shorter, "train_limit": 0, "eval_limit": 0}
    done = nhn_tf.run.pipeline(images, labels, **asked)
    assert done["main_row"]["stage"] == "final"
    assert set(done["wall_s"]) == {"enas", "base", "prune", "pruned", "lds_location", "lds_direction", "final"}
    with pytest.raises(RunError, match="was given other images"):
        nhn_tf.run.pipeline(images[::-1], labels, **asked)
    kept = {**asked, "dataset": "arrays", "data_dir": str(tmp_path / "run" / "images.npz")}
    assert nhn_tf.run.pipeline(**kept)["main_row"] == done["main_row"]  # finished: nothing is run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "no setting `epochs`; those of a stage carry its name"),
        ({"base_depth": 3}, "no setting `base_depth`"),
        ({"base_epochs": 0}, "`epochs` must be between 1"),
        ({"preset": "tiny"}, "`preset` must be among"),
        ({"x": np.zeros((4, 8, 8))}, "`x` and `y` must be given together"),
        ({"class_names": ["a", "b"]}, "`val`, `test` and `class_names` go with `x` and `y`"),
        ({"time_limit": "20m"}, "`preset` and `time_limit` exclude each other"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_made(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        nhn_tf.run.pipeline(model_dir=tmp_path / "run", **{"preset": "smoke", **changes})
    assert not (tmp_path / "run").exists()


def test_settings_are_put_into_their_parts():
    changed = SMOKE.replaced(train_limit=7, precision="mixed_bfloat16", lds_location_cycles=9, base_filters=5)
    assert (changed.data.train_limit, changed.compute.precision) == (7, "mixed_bfloat16")
    assert (changed.lds_location.cycles, changed.base.filters) == (9, 5)
    assert changed.enas == SMOKE.enas
