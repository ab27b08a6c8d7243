"""Pruning, liveness and compaction of whole models: the compacted model computes the same."""

from __future__ import annotations

import importlib
import math
import re
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

from nhn_tf import pruning
from nhn_tf.layers import FactorizedReduction, GroupedGlobalPool, MaskedConv2D
from nhn_tf.models import agreement, complexity, network
from nhn_tf.pruning.liveness import analyse
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space

compaction = importlib.import_module("nhn_tf.pruning.compact")  # The package has a function of that name.
TOLERANCE = 1e-4


def shake(model: keras.Model, seed: int) -> None:
    """Random weights as after training: no bias, shift or statistic is at its initial value; some gammas are 0."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.variables:
            shape = variable.shape
            if variable.name == "moving_variance":
                variable.assign(rng.uniform(0.5, 2.0, shape))
            elif variable.name == "gamma":
                variable.assign(rng.uniform(0.5, 1.5, shape) * (rng.random(shape) > 0.2))
            elif "kernel" in variable.name:
                fan_in = max(1, math.prod(shape[:-1]))
                variable.assign(rng.normal(0.0, 1.0, shape) / math.sqrt(fan_in))
            elif variable.name in ("bias", "beta", "moving_mean"):
                variable.assign(rng.normal(0.0, 0.5, shape))
        if isinstance(layer, MaskedConv2D):
            layer.set_mask(keras.ops.convert_to_numpy(layer.mask) > 0)


def images(model: keras.Model, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, *model.input_shape[1:])).astype(np.float32)


def mask_at_random(model: keras.Model, seed: int, dead_layers: float = 0.0, max_kept: float = 0.6) -> None:
    rng = np.random.default_rng(seed)
    for layer in pruning.masked_layers(model).values():
        density = 0.0 if rng.random() < dead_layers else rng.uniform(0.0, max_kept)
        layer.set_mask(rng.random(layer.mask.shape) < density)


def outputs(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(x, training=False))


def live_parameters(small: keras.Model, convolutions: list[str]) -> int:
    """Parameters, without the zeros of pruned kernels in the named convolutions."""
    found = complexity.model_cost(small).params
    for layer in small.layers:
        if layer.name in convolutions:
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            found -= int((~kernel.any((0, 1))).sum()) * math.prod(layer.kernel_size)
    return found


def check_compaction(model: keras.Model, seed: int = 0, *, keep_masks: bool = False) -> keras.Model:
    """Compacts and checks all that must hold of any model."""
    small = pruning.compact(model, keep_masks=keep_masks)
    x = images(model, seed)
    expected = outputs(model, x)
    np.testing.assert_allclose(outputs(small, x), expected, rtol=0, atol=TOLERANCE)

    counts = pruning.liveness(model)
    by_name = {layer.name: layer for layer in small.layers}
    for layer in model.layers:
        count = counts[layer.name]
        assert count.outputs == layer.output.shape[-1]
        if not count.live_outputs:
            assert layer.name not in by_name
            continue
        assert by_name[layer.name].output.shape[-1] == count.live_outputs
        unmasked = isinstance(layer, MaskedConv2D) and not keep_masks
        assert type(by_name[layer.name]) is (layers.Conv2D if unmasked else type(layer))
        weighted = any(v.name in ("kernel", "gamma", "pointwise_kernel", "kernel_a") for v in layer.variables)
        lost = count.live_outputs < count.outputs or count.live_inputs < count.inputs
        if weighted and lost:
            assert by_name[layer.name].count_params() < layer.count_params()
    assert pruning.live_parameters(model) == live_parameters(small, list(pruning.masked_layers(model)))
    if keep_masks:
        assert pruning.live_parameters(model) == complexity.model_cost(small).live_params
    assert small.count_params() <= model.count_params()
    return small


def resnet(*, conv=layers.Conv2D, use_bias: bool = False, relu=layers.ReLU) -> keras.Model:
    """Plain Keras: stem, an identity block, a strided block with a projection, pooling, classifier."""

    def block(x, filters, strides, name):
        shortcut = x
        if strides > 1:
            shortcut = layers.Conv2D(filters, 1, strides=strides, use_bias=use_bias, name=f"{name}_project")(x)
            shortcut = layers.BatchNormalization(name=f"{name}_project_bn")(shortcut)
        x = conv(filters, 3, strides=strides, padding="same", use_bias=use_bias, name=f"{name}_conv1")(x)
        x = layers.BatchNormalization(name=f"{name}_bn1")(x)
        x = relu(name=f"{name}_relu1")(x)
        x = conv(filters, 3, padding="same", use_bias=use_bias, name=f"{name}_conv2")(x)
        x = layers.BatchNormalization(name=f"{name}_bn2")(x)
        return relu(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, shortcut]))

    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(12, 3, padding="same", use_bias=use_bias, name="stem")(inputs)
    x = relu(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = block(x, 12, 1, "a")
    x = block(x, 16, 2, "b")
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(5, name="logits")(x), name="resnet")


def test_a_plain_resnet_is_pruned_compacted_and_matches(tmp_path):
    model = resnet()
    shake(model, 0)
    pruned = pruning.prune(model, sparsity=0.93, criterion="l2")
    assert list(pruning.masks_of(pruned)) == ["a_conv1", "a_conv2", "b_conv1", "b_conv2"]
    small = check_compaction(pruned)
    assert sum(c.dead_neurons for c in pruning.liveness(pruned).values()) > 10
    assert small.count_params() < 0.8 * model.count_params()

    model.save(tmp_path / "whole.keras")
    small.save(tmp_path / "small.keras")
    assert (tmp_path / "small.keras").stat().st_size < (tmp_path / "whole.keras").stat().st_size


def test_a_compacted_model_of_plain_layers_is_read_by_keras_alone(tmp_path):
    model = resnet()
    shake(model, 0)
    small = pruning.compact(pruning.prune(model, sparsity=0.9))
    small.save(tmp_path / "small.keras")
    with zipfile.ZipFile(tmp_path / "small.keras") as file:
        config = file.read("config.json").decode()
    named = set(re.findall(r'"module": "(\w+)|"registered_name": "(\w+)>', config))
    assert named == {("keras", "")}  # where Keras looks for what it makes the model of
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(again, images(model)), outputs(small, images(model)), rtol=0, atol=1e-5)


def test_masks_are_kept_on_request(tmp_path):
    model = resnet(conv=MaskedConv2D)
    shake(model, 0)
    mask_at_random(model, 0, max_kept=0.2)
    small = pruning.compact(model, keep_masks=True)
    assert list(pruning.masks_of(small)) == list(pruning.masks_of(model))
    plain = pruning.compact(model)
    assert not pruning.masked_layers(plain)
    for name, mask in pruning.masks_of(small).items():
        kernel = keras.ops.convert_to_numpy(plain.get_layer(name).kernel)
        np.testing.assert_array_equal(kernel.any((0, 1)), mask)
    small.save(tmp_path / "small.keras")
    assert pruning.masks_of(keras.saving.load_model(tmp_path / "small.keras")) == pruning.masks_of(small)


@pytest.mark.parametrize("keep_masks", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("relu", [layers.ReLU, layers.LeakyReLU], ids=["relu", "leaky"])
@pytest.mark.parametrize("use_bias", [False, True], ids=["no_bias", "bias"])
def test_random_masks_of_a_resnet(use_bias, relu, keep_masks):
    seed = 4 * use_bias + 2 * (relu is layers.ReLU) + keep_masks
    model = resnet(conv=MaskedConv2D, use_bias=use_bias, relu=relu)
    shake(model, seed)
    mask_at_random(model, seed, dead_layers=0.3, max_kept=0.2)
    check_compaction(model, keep_masks=keep_masks)


@st.composite
def genotypes(draw) -> Genotype:
    layers_per_segment, segments = draw(st.sampled_from([(3, 1), (2, 2), (1, 3)]))
    space = Space(num_layers=layers_per_segment * segments, num_segments=segments)
    seed = draw(st.integers(0, 10**6))
    return Genotype.from_genes(space, space.sample(np.random.default_rng(seed))[0])


def check_random_network(genotype: Genotype, filters: int, seed: int, dead: float, separable: bool) -> None:
    form = Form(filters=filters, separable_as_dense=not separable)
    model = network.build(genotype, input_shape=(8, 8, 2), num_classes=3, form=form, dropout=0.5)
    shake(model, seed)
    mask_at_random(model, seed, dead_layers=dead)
    check_compaction(model, seed, keep_masks=seed % 2 == 0)
    keras.backend.clear_session()


arguments = {
    "genotype": genotypes(),
    "filters": st.integers(4, 6),
    "seed": st.integers(0, 10**6),
    "dead": st.sampled_from([0.0, 0.5, 1.0]),
    "separable": st.booleans(),
}
slow_data = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=2, deadline=None, suppress_health_check=slow_data, derandomize=True)
@given(**arguments)
def test_random_genotypes_with_random_masks(genotype, filters, seed, dead, separable):
    check_random_network(genotype, filters, seed, dead, separable)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=slow_data)
@given(**arguments)
def test_many_random_genotypes_with_random_masks(genotype, filters, seed, dead, separable):
    check_random_network(genotype, filters, seed, dead, separable)


def functional(build, input_shape=(8, 8, 3)) -> keras.Model:
    inputs = keras.Input(input_shape, name="images")
    return keras.Model(inputs, build(inputs))


def chain(middle, *, padding: str, masks: dict[str, np.ndarray]) -> keras.Model:
    """conv (masked) with bias - `middle` - conv (masked), random weights, given masks."""

    def build(x):
        x = MaskedConv2D(4, 3, padding="same", name="first")(x)
        for layer in middle:
            x = layer(x)
        return MaskedConv2D(5, 3, padding=padding, name="second")(x)

    model = functional(build)
    shake(model, 1)
    pruning.apply_masks(model, masks)
    return model


def columns(*alive: int, inputs: int = 3, outputs: int = 4) -> np.ndarray:
    """A mask in which only the output channels `alive` have input kernels."""
    mask = np.zeros((inputs, outputs), bool)
    mask[:, list(alive)] = True
    return mask


def test_constants_before_a_valid_convolution_move_into_its_bias():
    model = chain([], padding="valid", masks={"first": columns(0, 2)})
    check_compaction(model)
    assert pruning.liveness(model)["first"].live_outputs == 2  # 1 and 3 emit their bias alone


@pytest.mark.jax
def test_constants_before_a_padded_convolution_share_one_kept_channel():
    model = chain([], padding="same", masks={"first": columns(0)})
    small = check_compaction(model)
    # 1, 2 and 3 emit constants, which zero padding makes visible at the border: one of them carries all three.
    assert pruning.liveness(model)["first"].live_outputs == 2
    assert small.get_layer("second").kernel.shape[2:] == (2, 5)


def test_constants_that_relu_makes_zero_need_no_carrier():
    model = chain([layers.ReLU()], padding="same", masks={"first": columns(0, 1)})
    model.get_layer("first").bias.assign([0.5, 0.5, -1.0, -2.0])
    check_compaction(model)
    assert pruning.liveness(model)["first"].live_outputs == 2


def test_a_carrier_without_connections_of_its_own_gets_them():
    read = np.ones((4, 5), bool)
    read[3] = False  # nothing reads channel 3, whose constant is the largest
    read[1, :3] = False
    model = chain([], padding="same", masks={"first": columns(0), "second": read})
    model.get_layer("first").bias.assign([0.1, 0.2, -0.3, 4.0])
    check_compaction(model)
    assert pruning.liveness(model)["first"].live_outputs == 2


def test_channels_that_nobody_reads_go():
    read = np.ones((4, 5), bool)
    read[[1, 2]] = False
    model = chain([layers.BatchNormalization(), layers.ReLU()], padding="same", masks={"second": read})
    check_compaction(model)
    assert pruning.liveness(model)["first"].live_outputs == 2


def test_clean_up_runs_to_a_fixpoint_in_both_directions():
    # a -> b -> c: b keeps input 0 only, so a's other outputs go; b's outputs but 0 are dead, c drops their kernels.
    def build(x):
        x = MaskedConv2D(4, 3, padding="valid", name="a")(x)
        x = MaskedConv2D(4, 3, padding="valid", name="b")(x)
        return MaskedConv2D(4, 3, padding="valid", name="c")(x)

    model = functional(build)
    shake(model, 0)
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    pruning.apply_masks(model, {"b": mask})
    check_compaction(model)
    counts = pruning.liveness(model)
    live = {name: (counts[name].live_inputs, counts[name].live_outputs, counts[name].live_kernels) for name in "abc"}
    assert live == {"a": (3, 1, 3), "b": (1, 1, 1), "c": (1, 4, 4)}
    assert counts["a"].dead_neurons == 3


def test_a_dead_branch_of_a_concatenation_is_dropped_whole():
    def build(x):
        dead = MaskedConv2D(4, 3, padding="same", name="dead")(x)
        dead = layers.BatchNormalization(name="dead_bn")(dead)
        joined = layers.Concatenate(name="join")([dead, MaskedConv2D(4, 3, padding="same", name="alive")(x)])
        return layers.Conv2D(5, 1, use_bias=False, name="mix")(layers.ReLU(name="relu")(joined))

    model = functional(build)
    shake(model, 0)
    pruning.apply_masks(model, {"dead": np.zeros((3, 4), bool)})
    small = check_compaction(model)
    assert not {"dead", "dead_bn"} & {layer.name for layer in small.layers}
    assert small.get_layer("mix").use_bias  # took up the constants


def test_a_normalisation_takes_up_constants_in_its_mean_rather_than_a_new_bias():
    def build(x):
        x = MaskedConv2D(4, 3, padding="same", name="conv")(x)
        return layers.BatchNormalization(name="bn")(layers.Conv2D(5, 1, use_bias=False, name="mix")(x))

    model = functional(build)
    shake(model, 0)
    pruning.apply_masks(model, {"conv": columns(0, 1)})
    small = check_compaction(model)
    assert not small.get_layer("mix").use_bias


@pytest.mark.parametrize("followed", [True, False], ids=["bn", "relu"])
def test_a_factorized_reduction_of_constants(followed):
    def build(x):
        x = MaskedConv2D(4, 3, padding="same", name="conv")(x)
        x = FactorizedReduction(5, name="reduce")(x)
        x = layers.BatchNormalization()(x) if followed else layers.ReLU()(x)
        return MaskedConv2D(3, 3, padding="same", name="last")(x)

    model = functional(build)
    shake(model, 0)
    read = np.ones((5, 3), bool)
    read[:3] = False  # the whole first path, filters_a = 3
    pruning.apply_masks(model, {"conv": columns(1, 2), "last": read})
    small = check_compaction(model)
    assert (small.get_layer("reduce").filters_a, small.get_layer("reduce").filters_b) == (0, 2)
    # Without a bias of its own or a normalisation to take constants up, it keeps its constant inputs.
    assert pruning.liveness(model)["conv"].live_outputs == (2 if followed else 4)


TAILS = {
    "flatten": lambda x: layers.Dense(3)(layers.Flatten()(x)),
    "average": lambda x: layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)),
    "maximum": lambda x: layers.Softmax()(layers.Dense(3)(layers.GlobalMaxPooling2D(keepdims=True)(x))),
    "grouped": lambda x: layers.Dense(3, use_bias=False)(GroupedGlobalPool()(x)),
    "pooled": lambda x: layers.Conv2D(3, 1)(
        layers.MaxPooling2D(3, 2, padding="same")(layers.AveragePooling2D(3, 1, padding="same")(x))
    ),
    "padded": lambda x: layers.Conv2D(3, 3)(layers.ZeroPadding2D(1)(x)),
    "cropped": lambda x: layers.Conv2D(3, 3)(layers.Cropping2D(1)(x)),
    "depthwise": lambda x: layers.Conv2D(3, 1)(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)),
    "depthwise_valid": lambda x: layers.Conv2D(3, 1)(layers.DepthwiseConv2D(3, activation="tanh")(x)),
    "separable": lambda x: layers.SeparableConv2D(3, 3, padding="same", depth_multiplier=2)(x),
    "separable_valid": lambda x: layers.SeparableConv2D(3, 3, use_bias=False, depth_multiplier=2)(x),
    "gelu": lambda x: layers.Conv2D(3, 1)(layers.Conv2D(6, 1, activation="gelu")(layers.Activation("sigmoid")(x))),
    "strided": lambda x: layers.Conv2D(3, 3, strides=2, padding="same")(layers.SpatialDropout2D(0.5)(x)),
    "dilated": lambda x: layers.Conv2D(3, 3, dilation_rate=2, padding="same")(layers.Identity()(x)),
    "frozen_bn": lambda x: layers.Conv2D(3, 3)(layers.BatchNormalization(center=False)(x, training=False)),
    "softmax_inside": lambda x: layers.Conv2D(3, 1)(layers.Conv2D(4, 1, activation="softmax")(x)),
    "output_is_add": lambda x: layers.Add()([x, layers.Conv2D(6, 1)(x)]),
    "average_of": lambda x: layers.Conv2D(3, 1)(layers.Average()([x, layers.ReLU()(x)])),
    "greatest": lambda x: layers.Conv2D(3, 1)(layers.Maximum()([x, layers.Subtract()([x, layers.ReLU()(x)])])),
    "gated": lambda x: layers.Conv2D(3, 1)(layers.Multiply()([x, layers.Conv2D(6, 1, activation="sigmoid")(x)])),
    "one_gate": lambda x: layers.Conv2D(3, 1)(layers.Multiply()([x, layers.Conv2D(1, 1, activation="sigmoid")(x)])),
    "arithmetic": lambda x: layers.Conv2D(3, 1)((2.0 - x) / 3 + keras.ops.relu(x) * x),
    "prelu": lambda x: layers.Conv2D(3, 1)(layers.PReLU(shared_axes=[1, 2])(x)),
    "prelu_anywhere": lambda x: layers.Conv2D(3, 1)(layers.PReLU()(x)),
    "transposed": lambda x: layers.Conv2DTranspose(3, 3, strides=2, padding="same")(x),
    "transposed_between": lambda x: layers.Conv2D(3, 1)(layers.Conv2DTranspose(4, 2, activation="relu")(x)),
    "reshaped": lambda x: layers.Dense(3)(layers.Reshape((-1,))(layers.Reshape((4, 16, 6))(x))),
    "turned": lambda x: layers.Conv2D(3, 1)(layers.Permute((2, 1, 3))(x)),
    "noisy": lambda x: layers.Conv2D(3, 1)(layers.GaussianNoise(0.1)(layers.GaussianDropout(0.1)(x))),
    "activation_layer": lambda x: layers.Conv2D(3, 1)(layers.Conv2D(6, 1, activation=layers.LeakyReLU(0.1))(x)),
    "asymmetric": lambda x: layers.Conv2D(3, (1, 7), padding="same")(x),
}


@pytest.mark.parametrize("tail", TAILS)
def test_layer_types(tail):
    def build(x):
        x = MaskedConv2D(6, 3, padding="same", name="conv")(x)
        return TAILS[tail](layers.LeakyReLU()(layers.BatchNormalization(name="bn")(x)))

    model = functional(build)
    shake(model, 2)
    pruning.apply_masks(model, {"conv": columns(0, 1, 2, outputs=6)})
    check_compaction(model)
    dead = pruning.liveness(model)["conv"].dead_neurons
    none = ("padded", "depthwise", "separable", "output_is_add", "gated", "one_gate", "transposed")
    kept_anyhow = {**dict.fromkeys((*none, "transposed_between"), 0), "strided": 2, "dilated": 2, "asymmetric": 2}
    assert dead == kept_anyhow.get(tail, 3)


@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_widths_are_rounded_up_to_a_multiple(multiple):
    model = resnet(conv=MaskedConv2D)
    shake(model, 0)
    mask_at_random(model, 3, max_kept=0.1)
    small, wide = pruning.compact(model), pruning.compact(model, multiple_of=multiple)
    np.testing.assert_allclose(outputs(wide, images(model)), outputs(model, images(model)), rtol=0, atol=TOLERANCE)
    for layer in wide.layers:
        if isinstance(layer, layers.Conv2D):
            whole, least = model.get_layer(layer.name).filters, small.get_layer(layer.name).filters
            assert layer.filters == whole or layer.filters % multiple == 0
            assert least <= layer.filters <= max(whole, least + multiple)
    with pytest.raises(ValueError, match="`multiple_of` must be at least 1"):
        pruning.compact(model, multiple_of=0)


def test_a_network_pruned_away_altogether_still_gives_its_constant():
    model = resnet(conv=MaskedConv2D)
    shake(model, 0)
    model = pruning.prune(model, threshold=1e6, allow_disconnected=True, layers=list(pruning.masks_of(model)))
    assert pruning.masks_of(model).kept == 0
    check_compaction(model)


def test_models_of_several_inputs_and_outputs_keep_their_structure():
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 2), name="right")
    x = MaskedConv2D(4, 3, name="conv")(layers.Concatenate()([left, right]))
    outputs_ = {"maps": layers.Conv2D(2, 1, name="maps")(x), "features": layers.GlobalAveragePooling2D()(x)}
    model = keras.Model({"left": left, "right": right}, outputs_)
    shake(model, 0)
    pruning.apply_masks(model, {"conv": columns(0, inputs=5)})
    small = pruning.compact(model)
    x = {name: np.random.default_rng(0).normal(size=(2, 8, 8, c)) for name, c in (("left", 3), ("right", 2))}
    expected, found = model(x), small(x)
    assert set(found) == {"maps", "features"}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=TOLERANCE)


def test_a_sequential_model_is_pruned_and_compacted():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(6, 3), layers.ReLU(), layers.Conv2D(6, 3, name="b")]
    )
    pruned = pruning.prune(model, sparsity=0.9)
    assert pruning.masks_of(pruned)["b"].sum() == 4
    small = pruning.compact(pruned)
    np.testing.assert_allclose(outputs(small, images(model)), outputs(pruned, images(model)), atol=TOLERANCE)
    assert small.count_params() < pruned.count_params()


def test_a_network_compacted_with_its_masks_trains_on():
    model = resnet(conv=MaskedConv2D)
    shake(model, 0)
    mask_at_random(model, 0, max_kept=0.3)
    small = pruning.compact(model, keep_masks=True)
    small.compile(keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3), "mse", run_eagerly=True)
    small.fit(images(model), np.ones((4, 5)), epochs=3, verbose=0)
    assert pruning.masked_layers(small)
    for layer in pruning.masked_layers(small).values():
        kernel, mask = (keras.ops.convert_to_numpy(v) for v in (layer.kernel, layer.mask))
        assert not kernel[:, :, mask == 0].any()


@pytest.mark.parametrize("keep_masks", [False, True])
def test_compacting_twice_changes_nothing_more(keep_masks):
    model = resnet(conv=MaskedConv2D)
    shake(model, 0)
    mask_at_random(model, 3, max_kept=0.2)
    once = pruning.compact(model, keep_masks=keep_masks)
    assert pruning.compact(once, keep_masks=keep_masks).count_params() == once.count_params()


def test_an_unmasked_model_is_left_whole():
    model = resnet()
    shake(model, 0)
    for variable in model.get_layer("a_bn2").trainable_variables:
        variable.assign(keras.ops.zeros(variable.shape))  # zeros that can still learn are no dead neurons
    assert check_compaction(model).count_params() == model.count_params()


class Doubled(layers.Layer):
    def call(self, inputs):
        return inputs * 2


class Squared(layers.Conv2D):
    def call(self, inputs):
        return super().call(inputs) ** 2


def _square(x):
    return x * x


WALLS = {
    "unknown": (lambda x: Doubled(name="odd")(x), r"its type is unknown. Known layers: Activation, "),
    "subclass": (lambda x: Squared(3, 3, name="odd")(x), "its type is unknown"),
    "grouped": (lambda x: layers.Conv2D(6, 3, groups=3, name="odd")(x), "must not be grouped. Received: groups=3"),
    "bn_axis": (lambda x: layers.BatchNormalization(axis=1, name="odd")(x), "its axis must be the channels.*axis=1"),
    "rows": (lambda x: layers.Concatenate(axis=1, name="odd")([x, x]), "its axis must be the channels.*axis=1"),
    "layer_norm": (lambda x: layers.LayerNormalization(name="odd")(x), "its type is unknown"),
    "training": (lambda x: layers.BatchNormalization(name="odd")(x, training=True), "called with training=True"),
    "transpose": (lambda x: layers.Permute((1, 3, 2), name="odd")(x), "must stay the last axis"),
    "folded": (lambda x: layers.Reshape((8, 4, 12), name="odd")(x), "must stay the last axis"),
    "attention": (lambda x: layers.MultiHeadAttention(2, 3, name="odd")(x, x), "its type is unknown"),
    "inner": (lambda x: layers.Conv2D(3, 1, activation=layers.PReLU(), name="odd")(x), "weights of their own"),
}


@pytest.mark.parametrize("case", WALLS)
def test_what_channels_cannot_be_followed_through_stays_whole_and_says_why(case):
    build, reason = WALLS[case]

    def wall(x):
        x = MaskedConv2D(6, 3, padding="same", name="before")(x)
        y = build(x)
        return layers.Conv2D(3, 1)(layers.ReLU()(layers.Conv2D(4, 1, name="behind")(y)))

    model = functional(wall)
    shake(model, 0)
    pruning.apply_masks(model, {"before": columns(0, 1, outputs=6)})
    small = pruning.compact(model)
    np.testing.assert_allclose(outputs(small, images(model)), outputs(model, images(model)), rtol=0, atol=TOLERANCE)
    assert pruning.liveness(model)["before"].dead_neurons == 0
    assert re.search(reason, analyse(model).rules["odd"].reason)


def test_an_activation_that_is_not_known_keeps_its_own_layers_channels():
    def build(x):
        x = MaskedConv2D(4, 3, name="first")(x)
        x = MaskedConv2D(4, 3, activation=_square, name="own")(x)
        return layers.Conv2D(2, 1)(x)

    model = functional(build)
    shake(model, 0)
    pruning.apply_masks(model, {"first": columns(0), "own": columns(0, inputs=4)})
    small = pruning.compact(model)
    np.testing.assert_allclose(outputs(small, images(model)), outputs(model, images(model)), rtol=0, atol=TOLERANCE)
    assert (pruning.liveness(model)["first"].live_outputs, pruning.liveness(model)["own"].live_outputs) == (1, 4)


def test_layers_of_several_outputs_and_subclassed_models_are_refused_by_name():
    two = functional(lambda x: keras.ops.split(x, 3, axis=-1)[0])
    with pytest.raises(ValueError, match="has 3 outputs; one is supported"):
        pruning.compact(two)

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    for refuse in (pruning.compact, pruning.prunable, pruning.summary):
        with pytest.raises(ValueError, match="subclassed model 'own'"):
            refuse(Own(name="own"))


def test_a_compacted_network_that_answers_otherwise_is_not_handed_out(monkeypatch):
    model = resnet(conv=MaskedConv2D)
    shake(model, 0)
    mask_at_random(model, 0)
    monkeypatch.setattr(compaction, "_unmasked", lambda weights: {**weights, "kernel": weights["kernel"] * 1.5})
    with pytest.raises(agreement.DisagreementError, match="compacted network must answer.*check=False skips"):
        pruning.compact(model)
    assert isinstance(pruning.compact(model, check=False), keras.Model)
