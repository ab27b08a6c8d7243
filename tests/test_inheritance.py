"""How much of what pruning keeps it would have kept before training."""

import csv
import dataclasses

import keras
import numpy as np
import pytest

from nhn_tf import pruning, stages
from nhn_tf.runs import RunDirectory
from nhn_tf.stages import networks
from nhn_tf.stages.feed import load_feed
from tests.conftest import before, smoke_settings


def test_shares_are_those_counted_by_hand():
    kept = {"a": np.array([[1, 1], [0, 0]], bool), "b": np.array([[1, 0, 0, 0]], bool)}
    initially = {"a": np.array([[1, 0], [0, 0]], bool), "b": np.array([[1, 1, 0, 0]], bool)}
    found = pruning.Inheritance.of(kept, initially)
    assert found.kept_as_at_initialisation == pytest.approx(2 / 3)  # both layers' first, of three kept
    assert found.kept_by_chance == pytest.approx(3 / 8)
    assert found.layers == {"a": (0.5, 0.25), "b": (1.0, 0.5)}


def test_the_base_is_made_anew_as_its_stage_began_and_pruning_it_untrained_is_warned_of(
    smoke_run, tmp_path, monkeypatch, capsys
):
    run = before(smoke_run, "base", tmp_path / "run")
    monkeypatch.setattr("nhn_tf.stages.train.fit", lambda *_, **__: None)
    settings = dataclasses.replace(smoke_settings("base", dropout=0.5), seed=0)
    stages.run("base", run, settings)
    record = RunDirectory(run.path).stage("base")
    keras.utils.set_random_seed(7)
    initial = networks.initial(record, load_feed(settings).data)
    arrays = record.weights()
    kernels = [v for v in initial.trainable_variables if v.path.endswith("kernel")]
    assert len(kernels) > 5
    for variable in kernels:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), arrays[variable.path])

    done = stages.run("prune", run, smoke_settings("prune"))  # of a network that has learned nothing
    assert done["metrics"]["kept_as_at_initialisation"] == 1.0
    assert done["metrics"]["kept_by_chance"] == pytest.approx(0.5, abs=0.01)
    assert "would have stayed before training, too" in capsys.readouterr().out


def test_what_pruning_kept_is_told_by_layer_and_in_all(smoke_run):
    stage = smoke_run.stage("prune")
    metrics, masks = stage.done.metrics, stage.genotype().masks
    with open(stage / "layers.csv", newline="") as file:
        rows = {row["layer"]: row for row in csv.DictReader(file)}
    shares = {name: float(rows[name]["kept_as_at_initialisation"]) for name in masks}
    total = sum(shares[name] * masks[name].sum() for name in masks) / masks.kept
    assert metrics["kept_as_at_initialisation"] == pytest.approx(total, abs=1e-4)
    assert all(row["kept_by_chance"] == "" for name, row in rows.items() if name not in masks)
    assert metrics["decay_e_folds"] < 0.1
