"""The stages `prune` and `pruned` on real digits."""

import csv
import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest

from nhn_tf import pruning, stages, training
from nhn_tf.data import datasets
from nhn_tf.errors import UserError
from nhn_tf.models import network, weights
from nhn_tf.runs import RunDirectory, RunError
from nhn_tf.stages import networks
from nhn_tf.stages.feed import Feed, load_feed
from nhn_tf.storage import files
from tests import commands
from tests.conftest import STAGES, smoke_settings


def masked_kernels(arrays):
    """Kernel [kh, kw, Cin, Cout] and mask [Cin, Cout] of every masked convolution in a weights.npz."""
    paths = [path.removesuffix("/mask") for path in arrays if path.endswith("/mask")]
    return {path: (arrays[f"{path}/kernel"], arrays[f"{path}/mask"].astype(bool)) for path in paths}


@pytest.fixture
def trained(smoke_run, tmp_path):
    """A copy of the run up to the trained base network."""
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(smoke_run.path, run.path)
    for name in STAGES[STAGES.index("prune") :]:
        shutil.rmtree(run.stage(name).path)
    return run


def test_sparsity_is_what_was_asked_for_and_the_figures_agree(smoke_run):
    stage = smoke_run.stage("prune")
    metrics, masks = stage.done.metrics, stage.genotype().masks
    assert metrics["kernel_sparsity"] == masks.sparsity == pytest.approx(0.5, abs=1 / masks.total)
    assert metrics["live_params"] < metrics["params"]
    assert metrics["live_flops"] < metrics["flops"]
    assert metrics["test_accuracy_before"] == smoke_run.stage("base").done.metrics["test_accuracy"]
    with open(stage / "layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["params"]) for row in rows) == metrics["params"]
    assert sum(int(row["live_params"]) for row in rows) == metrics["live_params"]
    assert (stage / "sensitivities.png").read_bytes().startswith(b"\x89PNG")


def test_an_absolute_threshold_prunes_exactly_the_flat_kernels(trained):
    kernels = {path: kernel for path, kernel in trained.stage("base").weights().items() if path.endswith("_op/kernel")}
    flat = {path: kernel.reshape(-1, *kernel.shape[2:]).std(axis=0) for path, kernel in kernels.items()}
    threshold = round(float(np.median(np.concatenate([s.ravel() for s in flat.values()]))), 4)
    stages.run("prune", trained, smoke_settings("prune", threshold=str(threshold), allow_disconnected=True))
    masks = trained.stage("prune").genotype().masks
    assert {f"{name}/kernel" for name in masks} == set(flat)
    for path, sensitivity in flat.items():
        np.testing.assert_array_equal(masks[path.removesuffix("/kernel")], sensitivity >= threshold)


def test_pruned_kernels_are_zero_before_and_after_retraining(smoke_run):
    for name in ("prune", "pruned"):
        kernels = masked_kernels(smoke_run.stage(name).weights())
        assert not all(mask.all() for _, mask in kernels.values())
        for kernel, mask in kernels.values():
            assert np.all(kernel[:, :, ~mask] == 0)
            assert np.all(np.abs(kernel[:, :, mask]).sum(axis=(0, 1)) > 0)


def test_retraining_inherits_masks_and_moves_the_weights(smoke_run):
    before, after = smoke_run.stage("prune"), smoke_run.stage("pruned")
    assert before.genotype() == after.genotype()
    changed = [not np.array_equal(array, after.weights()[path]) for path, array in before.weights().items()]
    assert sum(changed) > len(changed) / 2
    assert after.done.metrics["live_params"] == before.done.metrics["live_params"]


def test_the_compacted_network_agrees_on_the_test_images(smoke_run):
    data = datasets.load(smoke_settings("prune").data, seed=0)
    stage = smoke_run.stage("pruned")
    model = network.build(
        stage.genotype(), input_shape=data.image_shape, num_classes=data.num_classes,
        form=smoke_settings("base").config.form,
    )  # fmt: skip
    weights.transfer(stage.weights(), model)
    small = pruning.compact(model)
    images = Feed(data, smoke_settings("prune")).test[0][0]
    difference = np.abs(model.predict_on_batch(images) - small.predict_on_batch(images)).max()
    assert difference <= 1e-4
    assert small.count_params() <= model.count_params()


@pytest.mark.slow
def test_gradual_pruning_reaches_its_target(trained):
    stages.run("prune", trained, smoke_settings("prune", schedule="gradual"))
    assert trained.stage("prune").done.metrics["kernel_sparsity"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_interrupted_gradual_pruning_ends_bit_for_bit_the_same(trained, tmp_path, monkeypatch):
    from tests.test_stages import InterruptedError_, interrupt_after

    settings = smoke_settings("prune", schedule="gradual")
    twin = RunDirectory(tmp_path / "twin")
    shutil.copytree(trained.path, twin.path)
    stages.run("prune", trained, settings)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedError_):
            stages.run("prune", twin, settings)
    stages.run("prune", twin, settings)
    assert twin.stage("prune").genotype() == trained.stage("prune").genotype()
    assert twin.stage("prune").done.weights == trained.stage("prune").done.weights


def test_a_layer_that_would_lose_everything_keeps_its_strongest_kernel(trained, capsys):
    done = stages.run("prune", trained, smoke_settings("prune", threshold="1000.0"))
    assert "its strongest stays" in capsys.readouterr().out
    masks = trained.stage("prune").genotype().masks
    assert [int(mask.sum()) for mask in masks.values()] == [1] * len(masks)
    assert done["metrics"]["kernel_sparsity"] < 1


def test_the_random_control_keeps_as_many_kernels_of_the_base(trained):
    settings = smoke_settings("prune", control=True)
    done = stages.run("prune", trained, settings)
    feed = load_feed(settings)
    control = network.build(
        trained.stage("base").genotype(),
        input_shape=feed.data.image_shape,
        num_classes=feed.data.num_classes,
        form=smoke_settings("base").config.form,
    )
    weights.transfer(trained.stage("base").weights(), control)
    masks = trained.stage("prune").genotype().masks
    drawn = pruning.random_masks(masks, seed=settings.seed)
    assert drawn != masks
    assert drawn.kept == masks.kept
    pruning.apply_masks(control, drawn)
    images, labels = feed.test[0]
    accuracy = float(np.mean(control.predict_on_batch(images).argmax(axis=1) == labels))
    assert done["metrics"]["random_test_accuracy"] == pytest.approx(accuracy, abs=1.5 / len(labels))


def test_recalibration_measures_the_statistics_of_the_pruned_network(smoke_run, trained):
    settings = smoke_settings("prune", recalibrate=True, control=True)
    done = stages.run("prune", trained, settings)
    left, measured = smoke_run.stage("prune").weights(), trained.stage("prune").weights()
    moved = {path for path, array in measured.items() if not np.array_equal(array, left[path])}
    assert moved
    assert all(path.endswith(("moving_mean", "moving_variance")) for path in moved)

    feed = load_feed(settings)
    model = networks.inherited(smoke_run.stage("prune"), feed.data)
    pruning.recalibrate(model, feed.train(settings.config))
    again = weights.to_arrays(model)
    for path in moved:
        np.testing.assert_allclose(again[path], measured[path], rtol=1e-4, atol=1e-5)
    assert done["metrics"]["test_accuracy"] == pytest.approx(training.accuracy(model, feed.test))


def test_weights_that_are_not_finite_are_refused_by_name(trained):
    stage = trained.stage("base")
    arrays = stage.weights()
    path = next(path for path in arrays if path.endswith("_op/kernel"))
    arrays[path][0, 0, 0, 0] = np.nan
    files.save_npz(stage / "weights.npz", arrays)
    files.write_sealed(stage / "done.json", {**stage.done.to_json(), "weights": files.digest_arrays(arrays)})
    with pytest.raises(UserError, match=path.removesuffix("/kernel")):
        stages.run("prune", trained, smoke_settings("prune"))


def test_a_network_without_full_convolutions_says_what_to_do(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("nhn_tf.stages.train.fit", lambda *_, **__: None)
    path = tmp_path / "arc.txt"
    path.write_text("4\n5 0\n4 0 0\n")
    settings = dataclasses.replace(smoke_settings("base", genotype=str(path), epochs=1), overwrite=True)
    stages.run("base", trained, settings)
    with pytest.raises(UserError, match=r"no full 3x3 or 5x5 convolution.*\n.*`ops`"):
        stages.run("prune", trained, smoke_settings("prune"))
    assert not trained.stage("prune").path.exists()


def test_what_builds_on_a_stage_that_has_been_run_again_is_refused(smoke_run, tmp_path):
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(smoke_run.path, run.path)
    base = run.stage("base")
    arrays = {name: array + 1 for name, array in base.weights().items()}
    files.save_npz(base / "weights.npz", arrays)
    files.write_sealed(base / "done.json", {**base.done.to_json(), "weights": files.digest_arrays(arrays)})
    for stage in ("pruned", "lds_location", "final"):
        with pytest.raises(RunError, match="stage 'prune' .* that no stage holds any more"):
            stages.run(stage, run, smoke_settings(stage))


def test_retraining_before_pruning_names_the_command(trained):
    with pytest.raises(RunError, match=r"python prune\.py --model_dir=\S+ --preset=smoke"):
        stages.run("pruned", trained, smoke_settings("pruned"))


@pytest.mark.parametrize(
    ("flags", "culprit"),
    [
        (["--threshold=0.02", "--sparsity=0.5"], "exclude each other"),
        (["--threshold=auto", "--sparsity=1"], "--sparsity"),
        (["--sparsity=-0.1"], "--sparsity"),
        (["--threshold=low"], "--threshold"),
        (["--threshold=-1"], "--threshold"),
        (["--criterion=entropy"], "--criterion"),
    ],
)
def test_wrong_flags_end_in_a_sentence(flags, culprit, tmp_path):
    command = [sys.executable, "prune.py", "--preset=smoke", f"--model_dir={tmp_path / 'run'}", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert culprit in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_without_a_trained_base_ends_in_a_sentence(tmp_path):
    result = commands.call("prune", "--preset=smoke", f"--model_dir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert "train.py --stage=base" in result.stderr
    assert "Traceback" not in result.stderr
