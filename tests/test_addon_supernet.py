"""The supernets of the location-direction search: what they compute, what learns, and what is not computed."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from nhn_tf.layers import DirectedConv2D, Frozen, backend
from nhn_tf.models import DirectionSupernet, LocationSupernet, network, tile_genes, weights
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import Space

# Sources of the four layers: 1, 2, 1, 2; so 12 locations.
SPACE = Space(num_layers=4, num_segments=2)
MASK = np.random.default_rng(0).random((3, 3)) < 0.5
BASE = Genotype(
    SPACE,
    ("conv3x3", "sep_conv3x3", "max_pool3x3", "conv3x3"),
    ((), (0,), (0, 1), (2,)),
    masks=Masks({"layer0_op": MASK, "layer3_op": np.random.default_rng(1).random((6, 6)) < 0.5}),
)
TINY = Genotype(Space(1, 1), ("conv3x3",), ((),))
KIND = {"input_shape": (8, 8, 2), "num_classes": 3}
FORM = Form(filters=3)
BATCH = 6
NONE = np.full(8, -1)
# 3x3 into layer 1 from its segment's input, into layer 3 from layer 2; 5x5 into layer 3 from its segment's input.
CODE = np.array([-1, 0, -1, 1, -1, -1, -1, 0])
HIGH = np.array([-1, -1, -1, 1, -1, -1, -1, -1])


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def inputs(genes, seed=0):
    return {"images": numbers(BATCH, 8, 8, 2, seed=seed), "genes": tile_genes(genes, BATCH)}


def labels():
    return np.arange(BATCH) % 3


def answers(model, fed):
    """What a plain network makes of the images among a supernet's inputs, without a graph for the one call."""
    return ops.convert_to_numpy(model(fed["images"], training=False))


def perturbed(model, seed=0):
    """A model's arrays with batch norms and statistics as after some training."""
    rng = np.random.default_rng(seed)
    arrays = weights.to_arrays(model)
    for path, array in arrays.items():
        name = path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            arrays[path] = rng.uniform(0.5, 1.5, array.shape).astype("float32")
        elif name in ("beta", "moving_mean"):
            arrays[path] = rng.normal(0, 0.3, array.shape).astype("float32")
    return arrays


@pytest.fixture(scope="module")
def base():
    model = network.build(BASE, **KIND, form=FORM)
    weights.from_arrays(model, perturbed(model))
    return model


def compiled(model, rate=0.1, momentum=0.0):
    model.compile(
        optimizer=keras.optimizers.SGD(rate, momentum=momentum),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=backend.default_jit_compile(),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def scaled_up(supernet):
    """Gives every add-on a scale other than 0, as after some training."""
    rng = np.random.default_rng(5)
    for path, variable in supernet.addon_variables.items():
        if path.endswith("gamma"):
            variable.assign(rng.uniform(0.5, 1.0, variable.shape))
    return supernet


@pytest.fixture(scope="module")
def trained(base):
    """A location supernet and its variables before and after some steps under two codes."""
    supernet = LocationSupernet(BASE, **KIND, form=FORM)
    supernet.load_base(weights.to_arrays(base))
    compiled(supernet, momentum=0.9)
    before = weights.to_arrays(supernet)
    for step in range(3):
        for code in (CODE, HIGH):
            supernet.train_on_batch(inputs(code, seed=step), labels())
    return supernet, before, weights.to_arrays(supernet)


def location(base):
    supernet = LocationSupernet(BASE, **KIND, form=FORM)
    supernet.load_base(weights.to_arrays(base))
    return supernet


def grown(genotype, arrays):
    model = network.build(genotype, **KIND, form=FORM)
    weights.from_arrays(model, arrays)
    return model


def test_without_add_ons_the_supernet_is_the_network(base):
    supernet = location(base)
    expected = answers(base, inputs(NONE))
    np.testing.assert_allclose(supernet.predict_on_batch(inputs(NONE)), expected, rtol=1e-6, atol=1e-6)
    # Fresh add-ons change nothing either.
    np.testing.assert_allclose(supernet.predict_on_batch(inputs(CODE)), expected, rtol=1e-6, atol=1e-6)


def test_the_base_has_the_networks_paths_and_masks(base):
    supernet = LocationSupernet(BASE, **KIND, form=FORM)
    assert supernet.base_variables.keys() == weights.to_arrays(base).keys()
    np.testing.assert_array_equal(ops.convert_to_numpy(supernet.base_variables["layer0_op/mask"]), MASK)
    kernel = ops.convert_to_numpy(supernet.base_variables["layer0_op/kernel"])
    assert (kernel[:, :, ~MASK] == 0).all()


def test_every_gene_matters(base):
    supernet = scaled_up(location(base))
    silent = supernet.predict_on_batch(inputs(NONE))
    seen = [silent]
    for index, sources in enumerate(supernet.locations.num_sources):
        for source in range(sources):
            genes = NONE.copy()
            genes[index] = source
            logits = supernet.predict_on_batch(inputs(genes))
            assert min(np.abs(logits - other).max() for other in seen) > 1e-5, (index, source)
            seen.append(logits)
    assert len(seen) == 1 + 12


def test_a_trained_code_is_the_network_with_its_add_ons(trained):
    supernet, _, _ = trained
    for code in (CODE, HIGH):
        genotype = dataclasses.replace(BASE, addons=supernet.locations.to_addons(code))
        model = grown(genotype, supernet.network_arrays(genotype))
        np.testing.assert_allclose(supernet.predict_on_batch(inputs(code)), answers(model, inputs(code)), atol=1e-5)


def test_only_add_ons_learn_and_have_slots(trained):
    supernet, before, after = trained
    for path in supernet.base_variables:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    # 12 kernels, and gamma and beta of 8 stacks of batch norms.
    assert len(supernet.trainable_variables) == 12 + 16
    names = [variable.path for variable in supernet.optimizer.variables]
    assert len([name for name in names if "momentum" in name]) == 28
    assert not [name for name in names if "_op_" in name or "conv" in name]


def test_what_no_code_chose_stays_as_it_was_bit_for_bit(trained):
    _, before, after = trained
    for path, array in after.items():
        chosen = {
            "layer1_add_on3x3": [0],
            "layer3_add_on3x3": [1],
            "layer3_add_on5x5": [0],
        }.get(path.split("/")[0], [])
        if "add_on" in path and "/bn/" in path:
            for source in range(len(array)):
                same = np.array_equal(array[source], before[path][source])
                assert same == (source not in chosen), (path, source)
        elif "add_on" in path:
            assert np.array_equal(array, before[path]) == (int(path[-1]) not in chosen), path


@pytest.mark.jax_slow
def test_a_step_is_that_of_the_plain_network_with_a_frozen_base(base):
    # The oracle has no switch and no gate: Keras's own gradients through every layer.
    supernet = compiled(scaled_up(location(base)))
    for code in (CODE, HIGH):
        supernet.reset_metrics()  # the loss that Keras returns is the mean since
        genotype = dataclasses.replace(BASE, addons=supernet.locations.to_addons(code))
        oracle = grown(genotype, supernet.network_arrays(genotype))
        for layer in oracle.layers:
            layer.trainable = layer.name.startswith("addon")
        compiled(oracle)
        for step in range(2):
            fed = inputs(code, seed=step)
            losses = supernet.train_on_batch(fed, labels()), oracle.train_on_batch(fed["images"], labels())
            np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
        expected = weights.to_arrays(oracle)
        for path, array in supernet.network_arrays(genotype).items():
            np.testing.assert_allclose(array, expected[path], atol=2e-5, err_msg=path)


@pytest.mark.jax
def test_a_closed_gate_gives_zero_gradients_and_an_open_one_the_right_ones():
    weight = ops.convert_to_tensor(numbers(4, 4))
    first, second = keras.Variable(numbers(2, 4)), keras.Variable(numbers(2, 4, seed=1))

    def gradients(needed):
        class Probe(keras.Model):
            def __init__(self):
                super().__init__()
                self.first, self.second = first, second

            def call(self, images):
                gate = images[0, 0] > 0
                y = backend.gate_gradient(
                    lambda a, b: ops.tanh(ops.matmul(a, weight)) + b, [self.first, self.second], gate
                )
                return ops.sum(y * y) + 0 * images

        model = Probe()
        model.compile(optimizer=keras.optimizers.SGD(1.0), loss=lambda y, p: ops.mean(p), jit_compile=False)
        before = [ops.convert_to_numpy(v).copy() for v in (first, second)]
        model.train_on_batch(np.full((1, 1), 1.0 if needed else -1.0, "float32"), np.zeros((1, 1), "float32"))
        steps = [old - ops.convert_to_numpy(v) for old, v in zip(before, (first, second), strict=True)]
        return before, steps

    _, closed = gradients(False)
    assert not np.any(closed[0]) and not np.any(closed[1])
    (a, b), (da, db) = gradients(True)
    hidden = np.tanh(a @ np.asarray(weight))
    y = hidden + b
    np.testing.assert_allclose(db, 2 * y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(da, (2 * y * (1 - hidden**2)) @ np.asarray(weight).T, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="looks into TensorFlow's execution")
def test_a_closed_gate_does_not_run_the_backward_pass():
    import tensorflow as tf

    runs = []

    @tf.custom_gradient
    def counted(x):
        def backward(dy):
            return tf.numpy_function(lambda value: (runs.append(1), value)[1], [dy], tf.float32)

        return 2.0 * x, backward

    @tf.function
    def gradient(x, needed):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = backend.gate_gradient(counted, [x], needed)
        return tape.gradient(y, x)

    x = tf.constant([1.0, 2.0])
    assert gradient(x, tf.constant(False)).numpy().tolist() == [0, 0]
    assert not runs
    gradient(x, tf.constant(True))
    assert len(runs) == 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="looks into TensorFlow's graph")
def test_the_graph_holds_no_gradient_of_a_frozen_kernel_and_nothing_below_the_first_possible_add_on(base):
    import tensorflow as tf

    supernet = location(base)

    @tf.function
    def gradients(images, genes):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(supernet({"images": images, "genes": genes}, training=True))
        return tape.gradient(loss, [variable.value for variable in supernet.trainable_variables])

    fed = inputs(CODE)
    graph = gradients.get_concrete_function(fed["images"], fed["genes"]).graph.as_graph_def()
    bodies = [(graph.node, [])]
    bodies += [(function.node_def, function.ret.values()) for function in graph.library.function]
    computed = 0
    for nodes, returned in bodies:
        # TensorFlow writes a convolution's two gradients always, and computes one only if it is read.
        read = {name.lstrip("^").split(":")[0] for node in nodes for name in node.input}
        read |= {name.split(":")[0] for name in returned}
        computed += sum(node.op == "Conv2DBackpropFilter" and node.name in read for node in nodes)
    assert computed == 12  # the add-ons' own
    # A gate for every part above layer 0: 3 layers, the reductions of outputs 1 and 2, the head; none for the stem,
    # layer 0 and the reduction of the stem's output, below which no add-on can be.
    assert len(supernet.frozen) == 1 + 4 + 3 + 1
    assert sum(node.op in ("If", "StatelessIf") for node in graph.node) == 3 + 2 + 1


def test_a_part_below_which_nothing_is_active_needs_no_backward_pass(base):
    genotype = dataclasses.replace(BASE, addons=(Addon(2, 3, 0),))
    supernet = DirectionSupernet(genotype, directions=2, **KIND, form=FORM)
    assert [supernet.is_active(None, layer) for layer in range(-1, 4)] == [False, False, False, True, True]


def test_a_frozen_part_ignores_training_mode_and_survives_serialisation():
    x = keras.Input((4, 4, 2))
    part = keras.Model([x], keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x)))
    layer = Frozen(part)
    again = Frozen.from_config(layer.get_config())
    images = numbers(3, 4, 4, 2)
    np.testing.assert_array_equal(layer([images], training=True), layer([images], training=False))
    np.testing.assert_array_equal(again([images], training=True), layer([images]))
    assert not layer.trainable_variables


# Directions.

ADDONS = (Addon(1, 3, 0), Addon(3, 3, 1), Addon(3, 5, 0))
GROWN = dataclasses.replace(BASE, addons=ADDONS)


def direction(base, arrays=None, directions=3):
    supernet = DirectionSupernet(GROWN, directions=directions, **KIND, form=FORM)
    supernet.load_base(weights.to_arrays(base))
    if arrays is not None:
        supernet.load_addons(arrays)
    return supernet


def some_masks(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.random((3, size, size)) < 0.4 for name, size in zip(
        ("addon0_conv", "addon1_conv", "addon2_conv"), (3, 6, 6), strict=True
    )}  # fmt: skip


def test_dense_directions_are_the_location_supernets_add_ons(base, trained):
    locations, _, _ = trained
    supernet = direction(base, locations.network_arrays(GROWN))
    np.testing.assert_allclose(
        supernet.predict_on_batch(inputs([2])), locations.predict_on_batch(inputs(CODE)), atol=1e-5
    )


def test_a_direction_is_the_network_with_its_masks_after_training(base):
    supernet = compiled(scaled_up(direction(base)))
    masks = some_masks()
    supernet.set_directions(masks)
    before = weights.to_arrays(supernet)
    for step in range(2):
        supernet.train_on_batch(inputs([1], seed=step), labels())
    after = weights.to_arrays(supernet)
    for path in supernet.base_variables:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    for name, mask in masks.items():
        moved = (after[f"{name}/kernel"] != before[f"{name}/kernel"]).any(axis=(0, 1))
        np.testing.assert_array_equal(moved, mask[1])  # without momentum, only what the direction holds
    genotype = dataclasses.replace(GROWN, masks=BASE.masks.merge({name: mask[1] for name, mask in masks.items()}))
    arrays = supernet.network_arrays(genotype)
    for name, mask in masks.items():
        assert (arrays[f"{name}/kernel"][:, :, ~mask[1]] == 0).all()
        assert (arrays[f"{name}/kernel"][:, :, mask[1]] != 0).all()
    model = grown(genotype, arrays)
    np.testing.assert_allclose(supernet.predict_on_batch(inputs([1])), answers(model, inputs([1])), atol=1e-5)
    assert np.abs(supernet.predict_on_batch(inputs([0])) - supernet.predict_on_batch(inputs([1]))).max() > 1e-5


@pytest.mark.parametrize("kind", ["location", "direction"])
def test_supernets_survive_serialisation(base, tmp_path, kind):
    supernet = scaled_up(LocationSupernet(TINY, **KIND, form=FORM) if kind == "location" else direction(base))
    if kind == "direction":
        supernet.set_directions(some_masks())
    genes = np.zeros(supernet.gene_length, int) if kind == "location" else [1]
    supernet.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict_on_batch(inputs(genes)), supernet.predict_on_batch(inputs(genes)))


def test_mixed_precision_trains():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        supernet = compiled(LocationSupernet(TINY, **KIND, form=FORM))
        code = np.zeros(supernet.gene_length, int)
        assert np.isfinite(supernet.train_on_batch(inputs(code), labels()))
        assert supernet.predict_on_batch(inputs(code)).dtype == np.float32
    finally:
        keras.config.set_dtype_policy(before)


def test_what_does_not_fit_is_refused(base):
    with pytest.raises(ValueError, match="must have no add-ons yet"):
        LocationSupernet(GROWN, **KIND, form=FORM)
    with pytest.raises(ValueError, match="without add-ons"):
        DirectionSupernet(BASE, directions=2, **KIND, form=FORM)
    supernet = direction(base)
    for genes in ([3], [-1], [0, 0], [0.5]):
        with pytest.raises(ValueError, match=r"one direction of 0\.\.2"):
            supernet.check_genes(genes)
    with pytest.raises(ValueError, match="must be bool"):
        supernet.set_directions({"addon0_conv": np.ones((2, 3, 3), bool)})
    arrays = weights.to_arrays(base)
    before = weights.to_arrays(supernet)
    del arrays["stem_conv/kernel"]
    with pytest.raises(ValueError, match="missing: stem_conv/kernel"):
        supernet.load_base(arrays)
    with pytest.raises(ValueError, match="missing: addon0_bn/beta"):
        supernet.load_addons(arrays)
    for path, array in weights.to_arrays(supernet).items():
        np.testing.assert_array_equal(array, before[path])


def test_a_directed_convolution_survives_serialisation():
    layer = DirectedConv2D(3, 3, directions=2, padding="same")
    again = DirectedConv2D.from_config(layer.get_config())
    assert (again.directions, again.filters, again.kernel_size, again.use_bias) == (2, 3, (3, 3), False)
    assert again.compute_output_shape((None, 4, 4, 2), ()) == (None, 4, 4, 3)
