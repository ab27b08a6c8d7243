"""Pruning of 1x1 convolutions in a run's own networks: `prune.py --pointwise_sparsity`."""

import contextlib
import dataclasses
import io

import keras
import numpy as np
import pytest

from nhn_tf import pruning, sparse, stages
from nhn_tf.export.plain import plain
from nhn_tf.layers import MaskedConv2D
from nhn_tf.models import agreement, network, weights
from nhn_tf.models.addon_supernet import LocationSupernet
from nhn_tf.runs import RunDirectory
from nhn_tf.runs.settings import config_digest
from nhn_tf.settings import PRESETS
from nhn_tf.stages import networks
from nhn_tf.stages.feed import load_feed
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import Space
from tests.conftest import before, smoke_settings

TINY = Genotype(Space(num_layers=2, num_segments=1, ops=("conv3x3",)), ("conv3x3", "conv3x3"), ((), (0,)))
FORM = Form(filters=4)


def settings(**changes):
    return smoke_settings("prune", pointwise_sparsity=0.7, **changes)


@pytest.fixture(scope="module")
def run(smoke_run, tmp_path_factory):
    """A run whose stage `pruned` trained with 1x1 kernels masked."""
    run = before(smoke_run, "prune", tmp_path_factory.mktemp("pointwise") / "run")
    with contextlib.redirect_stdout(io.StringIO()):
        stages.run("prune", run, settings())
        stages.run("pruned", run, smoke_settings("pruned"))
    return run


def kernels_1x1(arrays):
    """Layer name to 1x1 kernel [Cin, Cout]."""
    return {
        path.removesuffix("/kernel"): array[0, 0]
        for path, array in arrays.items()
        if path.endswith("conv/kernel") and array.shape[:2] == (1, 1)
    }


def test_the_smallest_weights_go_and_the_figures_say_how_many(run):
    stage = run.stage("prune")
    masks, metrics = stage.genotype().masks, stage.done.metrics
    base = kernels_1x1(run.stage("base").weights())
    pointwise = Masks({name: masks[name] for name in base})
    rest = Masks({name: masks[name] for name in masks if name not in base})
    assert len(base) >= 4 and rest
    assert metrics["pointwise_sparsity"] == pointwise.sparsity == pytest.approx(0.7, abs=1 / pointwise.total)
    assert metrics["kernel_sparsity"] == rest.sparsity == pytest.approx(0.5, abs=1 / rest.total)
    kept = np.concatenate([np.abs(base[name])[masks[name]] for name in base])
    gone = np.concatenate([np.abs(base[name])[~masks[name]] for name in base])
    assert gone.max() <= kept.min()  # holds unless a layer's strongest had to be rescued, which none is here
    assert metrics["pointwise_params_removed"] >= metrics["pointwise_sparsity"] - 1e-9


def test_kxk_kernels_are_pruned_as_without_it(run, smoke_run):
    alone = smoke_run.stage("prune").genotype().masks
    both = run.stage("prune").genotype().masks
    assert {name: both[name].tolist() for name in alone} == {name: mask.tolist() for name, mask in alone.items()}


def test_masked_weights_stay_zero_in_training(run):
    masks = run.stage("pruned").genotype().masks
    assert masks == run.stage("prune").genotype().masks
    pruned, trained = (kernels_1x1(run.stage(name).weights()) for name in ("prune", "pruned"))
    for name, kernel in trained.items():
        assert not kernel[~masks[name]].any()
        assert not np.array_equal(kernel, pruned[name])


def test_live_parameters_are_those_of_the_compacted_network_that_are_not_zero(run, smoke_run):
    feed = load_feed(settings())
    model = networks.inherited(run.stage("pruned"), feed.data)
    small = pruning.compact(model)
    zeros = sum(
        int((keras.ops.convert_to_numpy(layer.kernel) == 0).sum())
        for layer in small.layers
        if isinstance(layer, keras.layers.Conv2D)
    )
    params = sum(int(np.prod(variable.shape)) for variable in small.trainable_variables)
    assert run.stage("pruned").done.metrics["live_params"] == params - zeros
    assert params - zeros < smoke_run.stage("pruned").done.metrics["live_params"]


def test_the_export_and_the_sparse_runtime_compute_what_keras_does(run):
    feed = load_feed(settings())
    model = networks.inherited(run.stage("pruned"), feed.data)
    images = feed.test[0][0][:8]
    expected = model.predict_on_batch(images)
    small = plain(pruning.compact(model))
    np.testing.assert_allclose(small.predict_on_batch(images), expected, atol=1e-4)
    np.testing.assert_allclose(sparse.compile(small)(images), expected, atol=1e-4)


def test_gradual_pruning_brings_each_kind_to_its_own_share(smoke_run, tmp_path):
    run = before(smoke_run, "prune", tmp_path / "run")
    done = stages.run("prune", run, settings(schedule="gradual", control=True))
    assert done["metrics"]["pointwise_sparsity"] == pytest.approx(0.7, abs=0.01)
    assert done["metrics"]["kernel_sparsity"] == pytest.approx(0.5, abs=0.02)


def test_random_masks_keep_as_many_of_each_kind():
    rng = np.random.default_rng(0)
    masks = {"a": rng.random((30, 30)) < 0.1, "b": rng.random((30, 30)) < 0.9, "c": rng.random((30, 30)) < 0.8}
    drawn = pruning.random_masks(masks, kinds={"a": "kxk", "b": "1x1", "c": "1x1"})
    assert drawn["a"].sum() == masks["a"].sum()
    assert drawn["b"].sum() + drawn["c"].sum() == masks["b"].sum() + masks["c"].sum()
    assert drawn["b"].sum() != masks["b"].sum()


def test_only_1x1_convolutions_that_masks_name_are_masked():
    mask = np.random.default_rng(0).random((4, 4)) < 0.5
    masks = Masks({"layer0_in_conv": mask})
    model = network.build(dataclasses.replace(TINY, masks=masks), input_shape=(8, 8, 3), num_classes=2, form=FORM)
    assert isinstance(model.get_layer("layer0_in_conv"), MaskedConv2D)
    assert type(model.get_layer("layer1_in_conv")) is keras.layers.Conv2D
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.get_layer("layer0_in_conv").mask) > 0, mask)
    whole = network.build(TINY, input_shape=(8, 8, 3), num_classes=2, form=FORM)
    weights.transfer(weights.to_arrays(whole), model)
    network.set_masks(model.layers, dataclasses.replace(TINY, masks=masks))
    masked = pruning.prune(whole, sparsity=0.0, layers=["layer0_in_conv"])
    pruning.apply_masks(masked, masks)
    agreement.check_same(masked, lambda inputs: agreement.run(model, inputs)[0], "the network of the genotype")


def test_1x1_convolutions_that_halve_maps_take_masks():
    mask = np.random.default_rng(0).random((4, 8)) < 0.5
    halved = dataclasses.replace(TINY, space=Space(num_layers=2, num_segments=2, ops=("conv3x3",)))
    genotype = dataclasses.replace(halved, masks=Masks({"transition1_reduce1": mask}))
    form = dataclasses.replace(FORM, reduction="avg_pool")
    model = network.build(genotype, input_shape=(8, 8, 3), num_classes=2, form=form)
    kernel = keras.ops.convert_to_numpy(model.get_layer("transition1_reduce1").kernel)
    np.testing.assert_array_equal(kernel[0, 0] != 0, mask)
    with pytest.raises(ValueError, match="full k x k convolutions of the network, or 1x1 ones"):
        network.build(genotype, input_shape=(8, 8, 3), num_classes=2, form=FORM)


def test_the_supernet_of_addons_keeps_masks_of_1x1_convolutions_when_it_is_copied():
    mask = np.random.default_rng(0).random((4, 4)) < 0.5
    genotype = dataclasses.replace(TINY, masks=Masks({"layer1_mix_conv": np.concatenate([mask, mask])}))
    supernet = LocationSupernet(genotype, input_shape=(8, 8, 3), num_classes=2, form=FORM)
    copy = LocationSupernet.from_config(supernet.get_config())
    assert {path: v.shape for path, v in copy.base_variables.items()} == {
        path: v.shape for path, v in supernet.base_variables.items()
    }
    copy.load_base({path: keras.ops.convert_to_numpy(v) for path, v in supernet.base_variables.items()})
    found = keras.ops.convert_to_numpy(copy.base_variables["layer1_mix_conv/mask"])
    np.testing.assert_array_equal(found > 0, np.concatenate([mask, mask]))


def test_a_network_without_1x1_convolutions_is_pruned_with_a_warning(smoke_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nhn_tf.stages.train.fit", lambda *_, **__: None)
    run = before(smoke_run, "prune", tmp_path / "run")
    path = tmp_path / "arc.txt"
    path.write_text("0\n0 0\n0 0 0\n")
    base = dataclasses.replace(
        smoke_settings("base", genotype=str(path), epochs=1, layer_form="direct"), overwrite=True
    )
    stages.run("base", run, base)
    done = stages.run("prune", run, settings())
    assert "no 1x1 convolution for `pointwise_sparsity` to prune" in capsys.readouterr().out
    assert "pointwise_sparsity" not in done["metrics"]


def test_runs_from_before_it_go_on():
    now = smoke_settings("prune").to_json()
    earlier = {name: value for name, value in now["config"].items() if not name.startswith("pointwise")}
    assert config_digest({**now, "config": earlier}) == config_digest(now)
    assert config_digest(settings().to_json()) != config_digest(now)


@pytest.mark.slow
def test_later_stages_build_on_it(run, tmp_path):
    whole = RunDirectory(run.path)
    for name in ("lds_location", "lds_direction", "final"):
        stages.run(name, whole, smoke_settings(name))
    final = whole.stage("final")
    masks = final.genotype().masks
    for name, kernel in kernels_1x1(final.weights()).items():
        np.testing.assert_array_equal(masks[name], whole.stage("prune").genotype().masks[name])
        assert not kernel[~masks[name]].any()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prune", "pruned"])
def test_interrupted_stages_end_bit_for_bit_the_same(run, smoke_run, tmp_path, monkeypatch, stage):
    from tests.test_stages import InterruptedError_, interrupt_after

    asked = settings(schedule="gradual") if stage == "prune" else smoke_settings(stage)
    twins = [before(run, stage, tmp_path / name) for name in ("one", "two")]
    stages.run(stage, twins[0], asked)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(InterruptedError_):
            stages.run(stage, twins[1], asked)
    stages.run(stage, twins[1], asked)
    assert twins[0].stage(stage).genotype() == twins[1].stage(stage).genotype()
    assert twins[0].stage(stage).done.weights == twins[1].stage(stage).done.weights


@pytest.mark.slow
def test_random_pruning_draws_each_kind_by_itself(run, tmp_path):
    from nhn_tf.runs import Settings

    copy = before(run, "lds_location", tmp_path / "run")
    stages.run("random_pruning", copy, Settings.of(PRESETS["smoke"], "random_pruning", name="smoke"))
    found, drawn = copy.stage("prune").genotype().masks, copy.stage("random_pruning").genotype().masks
    pointwise = kernels_1x1(copy.stage("base").weights())
    for names in (pointwise, set(found) - set(pointwise)):
        assert sum(found[name].sum() for name in names) == sum(drawn[name].sum() for name in names)
    assert found != drawn
