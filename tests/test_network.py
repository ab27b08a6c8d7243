"""The derived network: names, sizes, masks, add-ons, and that it computes what the genotype says."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from nhn_tf.models import network, weights
from nhn_tf.models.derived_cost import derived_cost
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import OP_NAMES, Space

# The 24-layer architecture published with ENAS (its released code's script for the final macro network).
ENAS_24 = """
0
3 0
0 1 0
2 0 0 1
2 0 0 0 0
3 1 1 0 1 0
2 0 0 0 0 0 1
2 0 1 1 0 1 1 1
1 0 1 1 1 0 1 0 1
0 0 0 0 0 0 0 0 0 0
2 0 0 0 0 0 1 0 0 0 0
0 1 0 0 1 1 0 0 0 0 1 1
2 0 1 0 0 0 0 0 1 0 1 1 0
1 0 0 1 0 0 0 1 1 1 0 1 0 1
0 1 1 0 1 0 1 0 0 0 0 0 1 0 0
2 0 0 1 0 0 0 0 0 0 0 1 0 1 0 1
2 0 1 0 0 0 1 0 0 1 1 1 1 0 0 1 0
2 0 0 0 0 1 0 1 0 1 0 0 1 0 1 0 0 1
3 0 1 1 0 1 0 0 0 0 0 1 0 1 0 1 0 0 0
3 0 1 1 0 0 0 0 0 0 0 0 0 1 1 0 0 0 0 1
0 1 0 0 1 0 1 1 0 0 0 1 0 0 0 0 0 1 1 0 0
3 0 1 0 1 1 0 0 1 0 1 1 0 1 1 0 1 0 0 1 0 0
0 1 0 1 0 1 0 0 0 0 0 0 0 0 1 0 1 0 0 1 0 0 0
0 1 1 0 0 0 1 1 1 0 1 0 0 0 1 0 1 0 0 1 1 0 0 0
"""

SMALL = Space(num_layers=4, num_segments=2)


def genotype(ops=("conv3x3", "sep_conv5x5", "max_pool3x3", "avg_pool3x3"), skips=((), (0,), (0, 1), ()), **kwargs):
    return Genotype(SMALL, ops, skips, **kwargs)


def build(of, *, form=Form(filters=4), **kwargs):
    return network.build(of, form=form, **{"input_shape": (8, 8, 3), "num_classes": 5, **kwargs})


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def array(value):
    return ops.convert_to_numpy(value)


def test_layers_have_the_names_that_masks_and_weights_go_by():
    model = build(genotype())
    assert {layer.name for layer in model.layers} == {
        "images", "stem_conv", "stem_bn",
        "layer0_in_conv", "layer0_in_bn", "layer0_in_relu", "layer0_op", "layer0_op_bn", "layer0_op_relu",
        "layer1_in_conv", "layer1_in_bn", "layer1_in_relu", "layer1_op", "layer1_op_bn", "layer1_op_relu",
        "layer1_concat", "layer1_mix_relu", "layer1_mix_conv", "layer1_mix_bn",
        # After layer 1: output 2 is layer 2's input; outputs 0 and 1 are joined by layer 2.
        "transition1_reduce0", "transition1_bn0", "transition1_reduce1", "transition1_bn1",
        "transition1_reduce2", "transition1_bn2",
        "layer2_in_conv", "layer2_in_bn", "layer2_in_relu", "layer2_op",
        "layer2_concat", "layer2_mix_relu", "layer2_mix_conv", "layer2_mix_bn",
        # Layer 3 joins nothing: mixed, not concatenated.
        "layer3_in_conv", "layer3_in_bn", "layer3_in_relu", "layer3_op",
        "layer3_mix_relu", "layer3_mix_conv", "layer3_mix_bn",
        "global_pool", "dropout", "logits",
    }  # fmt: skip
    assert model.input_shape == (None, 8, 8, 3)
    assert model.output_shape == (None, 5)
    assert model.get_layer("layer3_op").output.shape == (None, 4, 4, 8)


def test_direct_layers_have_pointwise_convolutions_only_where_skips_join():
    model = build(genotype(), form=Form(filters=4, layer_form="direct"))
    assert [layer.name for layer in model.layers if layer.name.startswith("layer")] == [
        "layer0_in_relu", "layer0_op", "layer0_op_bn", "layer0_op_relu",
        "layer1_concat", "layer1_in_conv", "layer1_in_bn", "layer1_in_relu", "layer1_op", "layer1_op_bn",
        "layer1_op_relu",
        "layer2_concat", "layer2_in_conv", "layer2_in_bn", "layer2_in_relu", "layer2_op", "layer3_op",
    ]  # fmt: skip
    assert model.get_layer("layer3_op").input is model.get_layer("layer2_op").output
    assert np.isfinite(array(model(numbers(2, 8, 8, 3)))).all()


def test_the_release_activates_before_the_first_convolution_and_not_behind_the_op():
    model = build(genotype(), form=Form(filters=4, layer_form="release"))
    names = [layer.name for layer in model.layers]
    assert [name for name in names if name.startswith(("layer0", "layer1"))] == [
        "layer0_relu", "layer0_in_conv", "layer0_in_bn", "layer0_in_relu", "layer0_op", "layer0_op_bn",
        "layer1_relu", "layer1_in_conv", "layer1_in_bn", "layer1_in_relu", "layer1_op", "layer1_op_bn",
        "layer1_concat", "layer1_mix_relu", "layer1_mix_conv", "layer1_mix_bn",
    ]  # fmt: skip
    assert model.count_params() == build(genotype(), form=Form(filters=4)).count_params()


def test_average_pooling_halves_maps_by_their_means():
    model = build(genotype(), form=Form(filters=4, reduction="avg_pool"))
    pool, reduce = (model.get_layer(f"transition1_{part}2") for part in ("pool", "reduce"))
    both = keras.Model(model.input, [pool.input, reduce.output])
    before, after = (array(value) for value in both(numbers(2, 8, 8, 3)))
    means = before.reshape(2, 4, 2, 4, 2, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(after, means @ array(reduce.kernel)[0, 0], atol=1e-5)
    assert after.shape == (2, 4, 4, 8)


def test_only_outputs_that_are_read_again_are_reduced():
    names = {layer.name for layer in build(genotype(skips=((), (0,), (), (1,)))).layers}
    assert {name for name in names if "reduce" in name} == {"transition1_reduce1", "transition1_reduce2"}


def test_the_published_enas_network_builds_and_runs():
    model = build(Genotype.from_enas_text(ENAS_24), form=Form(filters=2))
    assert len([layer for layer in model.layers if layer.name.endswith("_op")]) == 24
    assert array(model(numbers(1, 8, 8, 3))).shape == (1, 5)


def test_twelve_layers_of_dense_convolutions_have_the_papers_size():
    # Two 3x3 and two 5x5 a segment, 96 filters. The paper's 16.3M lies between no skips and ENAS's target of 40%.
    rng = np.random.default_rng(0)
    counts = []
    for probability in (0.0, 0.4):
        skips = tuple(tuple(np.flatnonzero(rng.random(k) < probability).tolist()) for k in range(12))
        of = Genotype(Space(), ("conv3x3", "conv5x5") * 6, skips)
        # As many as the network has that is built, says test_objective, which takes seconds at this width.
        counts.append(derived_cost(of, input_shape=(32, 32, 3), num_classes=10, form=Form()).params / 1e6)
    assert 14.5 < counts[0] < 16.3 < counts[1] < 18.5


def test_small_network_size_counted_by_hand():
    of = Genotype(Space(2, 1), ("conv3x3", "max_pool3x3"), ((), (0,)))
    model = build(of)
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    stem = 9 * 3 * 4 + 8
    first = (16 + 8) + (9 * 16 + 8)
    second = (16 + 8) + (8 * 4 + 8)  # in_conv, mixing of 2 * 4 channels
    head = 8 * 8 * 4 + (4 * 5 + 5)
    assert count == stem + first + second + head


@pytest.mark.parametrize("as_dense", [True, False])
def test_separable_convolutions_become_dense_ones_on_request(as_dense):
    layer = build(genotype(), form=Form(filters=4, separable_as_dense=as_dense)).get_layer("layer1_op")
    assert type(layer).__name__ == ("MaskedConv2D" if as_dense else "SeparableConv2D")
    assert layer.kernel_size == (5, 5)


def test_width_grows_at_transitions_and_smooth_init_can_be_switched_off():
    model = build(genotype(), form=Form(filters=4, width_growth=3, smooth_init=False))
    assert model.get_layer("layer1_mix_bn").output.shape[-1] == 4
    assert model.get_layer("layer2_mix_bn").output.shape[-1] == 12
    assert type(model.get_layer("layer0_op").kernel_initializer).__name__ == "HeNormal"
    assert type(build(genotype()).get_layer("layer0_op").kernel_initializer).__name__ == "SmoothInit"


def test_masks_are_set_on_the_layers_they_name():
    mask = np.random.default_rng(0).random((4, 4)) < 0.5
    model = build(genotype(masks=Masks({"layer0_op": mask})))
    np.testing.assert_array_equal((array(model.get_layer("layer0_op").kernel.value) != 0).any(axis=(0, 1)), mask)
    assert (array(model.get_layer("layer1_op").kernel.value) != 0).all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"layer2_op": np.ones((8, 8), bool)}, "must name full k x k convolutions"),
        ({"layer9_op": np.ones((4, 4), bool)}, "'layer9_op'"),
        ({"layer0_op": np.ones((4, 8), bool)}, "layer 'layer0_op' must be bool"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        build(genotype(masks=Masks(masks)))


def test_an_addon_adds_its_convolution_to_its_targets_output():
    # Into layer 1 from its segment's input (the stem's output): out = mix_bn + bn(conv3x3(stem)).
    addons = (Addon(target=1, kernel_size=3, source=0),)
    plain, grown = build(genotype()), build(genotype(addons=addons))
    report = weights.transfer(weights.to_arrays(plain), grown)
    assert not report.unused
    assert {path.split("/")[0] for path in report.missing} == {"addon0_conv", "addon0_bn"}
    x = numbers(2, 8, 8, 3)

    def output_of(model, name):
        return array(keras.Model(model.input, model.get_layer(name).output)(x))

    addon = output_of(grown, "addon0_bn")
    np.testing.assert_allclose(
        output_of(grown, "addon0_add"), output_of(plain, "layer1_mix_bn") + addon, rtol=1e-4, atol=1e-5
    )
    kernel = array(grown.get_layer("addon0_conv").kernel.value)
    expected = ops.conv(output_of(plain, "stem_bn"), kernel, padding="same", data_format="channels_last")
    np.testing.assert_allclose(addon, array(expected) / np.sqrt(1 + 1e-5), rtol=1e-3, atol=1e-4)


def test_addons_read_inside_their_segment_and_take_masks():
    mask = np.zeros((8, 8), bool)
    mask[0, 1] = True
    of = genotype(addons=(Addon(3, 5, 1), Addon(3, 3, 0), Addon(2, 3, 0)))
    assert [addon.target for addon in of.addons] == [2, 3, 3]
    model = build(dataclasses.replace(of, masks=Masks({"addon2_conv": mask})))
    # Sorted: 0 is (2, 3, 0), 1 is (3, 3, 0), 2 is (3, 5, 1), which reads layer 2's output with its own add-on.
    assert model.get_layer("addon2_conv").input is model.get_layer("addon0_add").output
    assert model.get_layer("addon1_conv").input is model.get_layer("transition1_bn2").output
    assert (array(model.get_layer("addon2_conv").kernel.value) != 0).any(axis=(0, 1)).sum() == 1


def test_a_network_trains_a_step_and_survives_serialisation(tmp_path):
    model = build(genotype(), form=Form(filters=4, separable_as_dense=False), dropout=0.3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)
    x = numbers(8, 8, 8, 3)
    assert np.isfinite(model.train_on_batch(x, np.arange(8) % 5))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(x)), array(model(x)))


def test_every_op_builds_in_every_place():
    rng = np.random.default_rng(0)
    for genes in SMALL.sample(rng, 4):
        assert build(Genotype.from_genes(SMALL, genes), form=Form(filters=3)).count_params() > 0
    assert {op for genes in SMALL.sample(rng, 50) for op in Genotype.from_genes(SMALL, genes).ops} == set(OP_NAMES)


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="multiples of 2"):
        build(genotype(), input_shape=(8, 9, 3))
