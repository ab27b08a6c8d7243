"""The stages that grow add-on neurons, and the final training, on real digits."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest

from nhn_tf import stages
from nhn_tf.models import network, weights
from nhn_tf.runs import RunDirectory, RunError
from nhn_tf.stages.feed import load_feed
from nhn_tf.storage import files
from tests.conftest import STAGES, smoke_settings


def run_up_to(smoke_run, path, last):
    """A copy of the run in which `last` is the last finished stage."""
    run = RunDirectory(path)
    shutil.copytree(smoke_run.path, run.path)
    for name in STAGES[STAGES.index(last) + 1 :]:
        shutil.rmtree(run.stage(name).path)
    return run


def test_the_base_is_bit_identical_before_and_after_both_searches(smoke_run):
    before = smoke_run.stage("pruned").weights()
    for name in ("lds_location", "lds_direction"):
        after = smoke_run.stage(name).weights()
        assert {path for path in after if not path.startswith("addon")} >= set(before)
        for path, array in before.items():
            np.testing.assert_array_equal(after[path], array, err_msg=path)


def test_directions_keep_a_tenth_and_the_final_network_nothing_else(smoke_run):
    for name in ("lds_direction", "final"):
        stage = smoke_run.stage(name)
        genotype, arrays = stage.genotype(), stage.weights()
        assert genotype.addons
        for number in range(len(genotype.addons)):
            mask = genotype.masks[f"addon{number}_conv"]
            assert mask.sum() == max(1, round(0.1 * mask.size))
            kernel = arrays[f"addon{number}_conv/kernel"]
            assert np.all(kernel[:, :, ~mask] == 0)
            assert np.all(np.abs(kernel[:, :, mask]).sum(axis=(0, 1)) > 0)


def test_the_genotype_only_grows_from_stage_to_stage(smoke_run):
    found = [smoke_run.stage(name).genotype() for name in STAGES]
    assert len({(g.space, g.ops, g.skips) for g in found}) == 1
    assert found[3].masks == found[2].masks
    assert set(found[5].masks) > set(found[2].masks)
    assert all(found[5].masks[name] is not None for name in found[2].masks)
    assert found[4].addons == found[5].addons == found[6].addons


def test_location_search_counts_its_evaluations_and_lists_its_candidates(smoke_run):
    stage = smoke_run.stage("lds_location")
    metrics, config = stage.done.metrics, smoke_settings("lds_location").config
    assert metrics["evaluations"] == config.cycles * config.population
    with open(stage / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"evolution", "random"}
    assert max(float(row["score"]) for row in rows if row["source"] == "evolution") == metrics["val_accuracy"]


def test_the_final_stage_reports_its_ablation(smoke_run):
    stage, settings = smoke_run.stage("final"), smoke_settings("final")
    metrics, genotype = stage.done.metrics, stage.genotype()
    feed = load_feed(settings)
    bare = network.build(
        dataclasses.replace(genotype, addons=(), masks=None),
        input_shape=feed.data.image_shape,
        num_classes=feed.data.num_classes,
        form=smoke_settings("base").config.form,
    )
    arrays = stage.weights()
    for path, variable in weights.variables_by_path(bare).items():
        if "seed_generator" not in path:
            variable.assign(arrays[path] if path in arrays else np.ones(variable.shape))
    images, labels = feed.test[0]
    assert len(labels) == len(feed.data.test)
    accuracy = float(np.mean(bare.predict_on_batch(images).argmax(axis=1) == labels))
    assert metrics["test_accuracy_without_addons"] == pytest.approx(accuracy, abs=1.5 / len(labels))
    assert "val_accuracy" not in metrics  # it trained on them
    assert metrics["live_params"] > smoke_run.stage("pruned").done.metrics["live_params"]


@pytest.mark.slow
def test_selecting_on_test_images_is_said_and_recorded(smoke_run, tmp_path, capsys):
    run = run_up_to(smoke_run, tmp_path / "run", "pruned")
    done = stages.run("lds_location", run, smoke_settings("lds_location", eval_split="test", cycles=1))
    assert "selects on test images" in capsys.readouterr().out
    assert done["metrics"]["eval_split"] == "test"


@pytest.mark.slow
def test_training_the_final_network_from_scratch_keeps_the_masks(smoke_run, tmp_path):
    run = run_up_to(smoke_run, tmp_path / "run", "lds_direction")
    stages.run("final", run, smoke_settings("final", init="scratch", epochs=1, ema=0.9))
    arrays = run.stage("final").weights()
    for name, mask in run.stage("final").genotype().masks.items():
        assert np.all(arrays[f"{name}/kernel"][:, :, ~mask] == 0)


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("lds_location", r"train\.py --stage=pruned"),
        ("lds_direction", r"search\.py --stage=lds_location"),
        ("final", r"search\.py --stage=lds_direction"),
    ],
)
def test_a_missing_predecessor_is_named(smoke_run, tmp_path, stage, command):
    run = run_up_to(smoke_run, tmp_path / "run", "prune")
    with pytest.raises(RunError, match=command):
        stages.run(stage, run, smoke_settings(stage))


def test_a_stage_begun_on_other_weights_is_refused(smoke_run, tmp_path):
    run = run_up_to(smoke_run, tmp_path / "run", "lds_location")
    pruned = run.stage("pruned")
    arrays = {name: array + 1 for name, array in pruned.weights().items()}
    files.save_npz(pruned / "weights.npz", arrays)
    files.write_sealed(pruned / "done.json", {**pruned.done.to_json(), "weights": files.digest_arrays(arrays)})
    with pytest.raises(RunError, match="begun on another result of stage 'pruned'"):
        stages.run("lds_location", run, smoke_settings("lds_location"))
