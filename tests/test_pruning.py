"""`prune` on whole models: which convolutions, which kernels, and what training leaves of them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning
from nhn_tf.layers import MaskedConv2D, MaskedDense
from nhn_tf.models import complexity
from nhn_tf.values.masks import Masks

# Of the grouped convolution in the model.
pytestmark = pytest.mark.filterwarnings("ignore:`compact` will keep")


def array(variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


def plain_model(seed: int = 0) -> keras.Model:
    """Plain Keras layers: stem, a 3x3, a 5x5, a 1x1 and a grouped convolution."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.ReLU(name="relu")(layers.Conv2D(8, 3, padding="same", name="stem")(inputs))
    x = layers.Conv2D(
        16, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(1e-2), name="three"
    )(x)
    x = layers.Conv2D(16, 5, padding="same", use_bias=False, name="five")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(8, 1, name="one")(x)
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    model = keras.Model(inputs, layers.Dropout(0.1, name="dropout")(layers.Dense(4, name="logits")(x)))
    rng = np.random.default_rng(seed)
    for name in ("three", "five"):  # kernels from flat to steep in both, as after training
        kernel = model.get_layer(name).kernel
        kernel.assign(rng.normal(size=kernel.shape) * rng.uniform(0.0, 0.2, kernel.shape[2:]))
    return model


MODEL = plain_model()


def test_three_by_three_and_five_by_five_kernels_behind_the_stem_are_prunable():
    assert list(pruning.prunable(MODEL)) == ["three", "five"]
    assert list(pruning.prunable(MODEL, ["one", "stem"])) == ["stem", "one"]


@pytest.mark.jax
def test_a_threshold_prunes_exactly_the_kernels_whose_std_is_below_it():
    pruned = pruning.prune(MODEL, threshold=0.05)
    for name, mask in pruning.masks_of(pruned).items():
        kernel = array(MODEL.get_layer(name).kernel)
        for i, j in np.ndindex(mask.shape):
            entries = kernel[:, :, i, j].astype("float64").ravel()
            std = np.sqrt(np.mean((entries - entries.mean()) ** 2))
            assert mask[i, j] == (std >= 0.05)
        np.testing.assert_array_equal(array(pruned.get_layer(name).kernel), kernel * mask)
    assert 0 < pruning.masks_of(pruned).sparsity < 1


@pytest.mark.parametrize("criterion", pruning.CRITERIA)
def test_sparsity_is_met_over_all_or_in_each_layer(criterion):
    overall = pruning.masks_of(pruning.prune(MODEL, sparsity=0.85, criterion=criterion))
    assert overall.sparsity == pytest.approx(0.85, abs=0.005)
    for mask in pruning.masks_of(pruning.prune(MODEL, sparsity=0.85, criterion=criterion, scope="layer")).values():
        assert 1 - mask.mean() == pytest.approx(0.85, abs=0.005)


def test_the_model_is_copied_with_its_weights_and_names():
    pruned = pruning.prune(MODEL, sparsity=0.0)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(pruned(x), MODEL(x), atol=1e-6)
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in MODEL.layers]
    changed = {layer.name for layer in pruned.layers if isinstance(layer, MaskedConv2D)}
    assert changed == {"three", "five"}
    assert not any(isinstance(layer, MaskedConv2D) for layer in MODEL.layers)
    pruned.get_layer("logits").bias.assign(np.ones(4))
    assert not array(MODEL.get_layer("logits").bias).any()


@pytest.mark.parametrize(("first", "second", "criterion"), [(0.7, 0.3, "l1"), (0.3, 0.5, "random")])
def test_pruning_twice_never_revives_a_kernel(first, second, criterion):
    once = pruning.prune(MODEL, sparsity=first)
    twice = pruning.masks_of(pruning.prune(once, sparsity=second, criterion=criterion))
    for name, mask in pruning.masks_of(once).items():
        assert (twice[name] <= mask).all()
    assert twice.sparsity == pytest.approx(max(first, second), abs=0.005)


def test_pruning_to_the_same_target_twice_changes_nothing():
    once = pruning.prune(MODEL, sparsity=0.7)
    assert pruning.masks_of(pruning.prune(once, sparsity=0.7)) == pruning.masks_of(once)


def test_masks_can_be_read_and_set_again():
    source, target = pruning.prune(MODEL, sparsity=0.6), pruning.prune(MODEL, sparsity=0.0)
    pruning.apply_masks(target, pruning.masks_of(source))
    pruning.apply_masks(target, pruning.masks_of(source))
    assert pruning.masks_of(target) == pruning.masks_of(source)
    for a, b in zip(source.variables, target.variables, strict=True):
        np.testing.assert_array_equal(array(a), array(b))


def test_masks_that_do_not_fit_change_nothing():
    model = pruning.prune(MODEL, sparsity=0.0)
    none = np.zeros((8, 16), bool)
    with pytest.raises(ValueError, match="Received: stem"):
        pruning.apply_masks(model, {"three": none, "stem": none})
    with pytest.raises(ValueError, match=r"'five' must be of shape \(16, 16\)"):
        pruning.apply_masks(model, {"three": none, "five": none})
    assert pruning.masks_of(model).sparsity == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_pruned_kernels_stay_exactly_zero_in_training(optimizer):
    pruned = pruning.prune(MODEL, sparsity=0.8)
    made = {
        "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
        "adamw": lambda: keras.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.5),
    }[optimizer]()
    before = array(pruned.get_layer("three").kernel)
    pruned.compile(made, "mse", run_eagerly=True)
    rng = np.random.default_rng(0)
    pruned.fit(rng.normal(size=(8, 8, 8, 3)), rng.normal(size=(8, 4)), batch_size=4, epochs=2, verbose=0)
    for name, mask in pruning.masks_of(pruned).items():
        assert not array(pruned.get_layer(name).kernel)[:, :, ~mask].any()
    assert (array(pruned.get_layer("three").kernel) != before).any()


def test_layers_that_would_end_empty_are_rescued_by_name():
    with pytest.warns(UserWarning, match="layer '(three|five)' was to go; its strongest was kept") as warned:
        pruned = pruning.prune(MODEL, threshold=10.0)
    assert sum("its strongest was kept" in str(warning.message) for warning in warned) == 2
    for name, mask in pruning.masks_of(pruned).items():
        assert mask.sum() == 1
        std = array(MODEL.get_layer(name).kernel).std((0, 1))
        assert mask.flat[std.argmax()]
    emptied = pruning.prune(MODEL, threshold=10.0, allow_disconnected=True)
    assert pruning.masks_of(emptied).kept == 0


def test_a_proposal_changes_nothing_and_says_what_prune_would_do():
    proposal = pruning.propose(MODEL, sparsity=0.9, criterion="l2")
    assert proposal.masks == pruning.masks_of(pruning.prune(MODEL, sparsity=0.9, criterion="l2"))
    scores = pruning.score({n: array(layer.kernel) for n, layer in pruning.prunable(MODEL).items()}, "l2")
    for name, mask in proposal.masks.items():
        np.testing.assert_array_equal(mask, scores[name] >= proposal.thresholds[name])


def test_a_pruned_model_survives_a_file(tmp_path):
    pruned = pruning.prune(MODEL, sparsity=0.5)
    pruned.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert pruning.masks_of(loaded) == pruning.masks_of(pruned)


def test_summary_lists_every_layer_with_weights_and_the_totals():
    inputs = keras.Input((8, 8, 3))
    x = MaskedConv2D(4, 3, padding="same", name="conv")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x)))
    mask = np.zeros((3, 4), bool)
    mask[0, :2] = True  # outputs 2 and 3 are dead: their biases move into that of the logits
    pruning.apply_masks(model, {"conv": mask})
    lines = [line.split() for line in pruning.summary(model).splitlines()]
    # 64 positions; 12 kernels of 9 before, 2 after. Inputs 1 and 2 are read no more but stay, for a model's do.
    assert lines[1] == ["conv", "2", "/", "12", "2", "112", "20", "0.007", "0.001"]
    assert lines[2] == ["logits", "0", "10", "6", "0.000", "0.000"]
    assert lines[3] == ["total", "2", "/", "12", "2", "122", "26", "0.007", "0.001"]
    assert pruning.live_parameters(model) == 26
    assert sum(pruning.live_costs(model).values(), complexity.Cost()).live_flops == 64 * 18 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of `threshold` and `sparsity`"),
        ({"threshold": 0.1, "sparsity": 0.1}, "exactly one of `threshold` and `sparsity`"),
        ({"sparsity": 1.0}, r"in \[0, 1\). Received: 1.0"),
        ({"sparsity": "0.5"}, r"in \[0, 1\). Received: '0.5'"),
        ({"threshold": "0.1"}, "finite and at least 0. Received: '0.1'"),
        ({"sparsity": 0.5, "seed": 0.5}, "`seed` must be a whole number .* Received: 0.5"),
        ({"sparsity": 0.5, "criterion": "size"}, "std, l1, l2, random"),
        ({"sparsity": 0.5, "scope": "model"}, "global, layer"),
        ({"sparsity": 0.5, "layers": ["grouped"]}, "Received: grouped. It has: stem, three, five, one, logits"),
        ({"sparsity": 0.5, "layers": "three"}, 'must be "all" or a list'),
        ({"sparsity": 0.5, "layers": []}, 'must be "all" or a list'),
        ({"sparsity": 0.5, "include": ["seven"]}, "`include` must name .* Received: seven"),
        ({"sparsity": 0.5, "exclude": ["six*"]}, "`exclude` must name .* Received: six"),
        ({"sparsity": 0.5, "exclude": ["*"]}, "nothing to prune"),
        ({"sparsity": {"th*": 1.0}}, r"in \[0, 1\). Received: {'th\*': 1.0}"),
        ({"sparsity": 0.5, "structure": "rows"}, "`structure` must be kernels or channels"),
        ({"sparsity": {"three": 0.5}, "structure": "channels"}, "the latter with one `sparsity`"),
        ({"sparsity": {}}, r"in \[0, 1\). Received: {}"),
        ({"sparsity": {"three": 0.5}, "layers": ["five"]}, "names the layers itself"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pruning.prune(MODEL, **arguments)


def test_layers_are_chosen_by_name_pattern_or_all():
    assert list(pruning.prunable(MODEL, "all")) == ["three", "five", "one", "logits"]
    assert list(pruning.prunable(MODEL, include=["o*"], exclude=["five"])) == ["three", "one"]


def test_dense_networks_and_decoders_are_pruned_behind_their_first_layer():
    table, code = keras.Input((6,)), keras.Input((4,))
    dense = keras.Model(table, layers.Dense(3, name="c")(layers.Dense(8, name="b")(layers.Dense(8, name="a")(table))))
    assert list(pruning.prunable(dense, "all")) == ["b", "c"]
    maps = layers.Reshape((2, 2, 4))(layers.Dense(16)(code))
    decoder = keras.Model(code, layers.Conv2D(3, 3, name="conv")(layers.Conv2DTranspose(4, 3, strides=2)(maps)))
    assert list(pruning.prunable(decoder)) == ["conv"]
    single = keras.Model(table, layers.Dense(3, name="a")(table))
    with pytest.raises(ValueError, match="nothing to prune: no Conv2D, no Dense layer .* Pass names in `include`"):
        pruning.prune(single, sparsity=0.5, layers="all")


def test_each_kind_of_connection_meets_the_target_by_itself():
    pruned = pruning.prune(MODEL, sparsity=0.75, layers="all", allow_disconnected=True)
    masks = pruning.masks_of(pruned)
    assert isinstance(pruned.get_layer("logits"), MaskedDense)
    for names in (("three", "five"), ("one",), ("logits",)):
        gone = sum(int((~masks[name]).sum()) for name in names)
        assert gone == round(0.75 * sum(masks[name].size for name in names))
    # Single numbers go by their magnitude.
    weights = np.abs(array(MODEL.get_layer("one").kernel)[0, 0])
    assert weights[masks["one"]].min() > weights[~masks["one"]].max()


@pytest.mark.jax_slow
def test_pruned_dense_weights_stay_zero_and_are_compacted_away(tmp_path):
    pruned = pruning.prune(MODEL, sparsity={"logits": 0.75, "one": 0.5})
    pruned.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 8, 8, 3)).astype("float32")
    pruned.fit(x, rng.normal(size=(8, 4)), epochs=2, verbose=0)
    mask = pruning.masks_of(pruned)["logits"]
    assert 1 - mask.mean() == 0.75
    assert not array(pruned.get_layer("logits").kernel)[~mask].any()
    small = pruning.compact(pruned)
    np.testing.assert_allclose(small(x), pruned(x), atol=1e-5)
    assert type(small.get_layer("logits")) is layers.Dense
    pruned.save(tmp_path / "model.keras")
    assert pruning.masks_of(keras.saving.load_model(tmp_path / "model.keras")) == pruning.masks_of(pruned)


def test_a_dictionary_gives_each_layer_its_share():
    masks = pruning.masks_of(pruning.prune(MODEL, sparsity={"three": 0.5, "*e": 0.25}))
    assert {name: round(1 - mask.mean(), 2) for name, mask in masks.items()} == {
        "three": 0.5,
        "five": 0.25,
        "one": 0.25,
    }


def test_whole_channels_go_until_as_few_kernels_live_as_asked_for():
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for name in ("stem", "a", "b", "c"):
        x = layers.Conv2D(16, 3, padding="same", activation="relu", use_bias=False, name=name)(x)
    model = keras.Model(inputs, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x)))
    pruned = pruning.prune(model, sparsity=0.7, structure="channels", scope="layer")
    masks = pruning.masks_of(pruned)
    for name, mask in masks.items():
        assert (mask.all(axis=0) | ~mask.any(axis=0)).all()
        means = pruning.score({name: array(model.get_layer(name).kernel)})[name].mean(axis=0)
        assert means[mask[0]].min() > means[~mask[0]].max()
    # Of each layer's 16 channels n stay: a keeps 16 n kernels, b and c n * n, together about 0.3 * 3 * 16 * 16.
    kept = {int(mask[0].sum()) for mask in masks.values()}
    assert kept == {7}  # 16 * 7 + 2 * 49 = 210 of 230; with 8 it is 256
    small = pruning.compact(pruned)
    assert [small.get_layer(name).filters for name in ("stem", "a", "b", "c")] == [16, 7, 7, 7]
    assert not any("masked" in line for line in pruning.summary(pruned).splitlines())


def test_the_models_own_outputs_keep_their_channels():
    pruned = pruning.prune(MODEL, sparsity=0.5, structure="channels", layers=["three", "logits"])
    assert list(pruning.masks_of(pruned)) == ["three"]


def test_a_summary_says_where_no_channel_is_dead():
    pruned = pruning.prune(MODEL, sparsity=0.2, scope="layer")
    assert pruning.summary(pruned).splitlines()[-1].startswith("no channel is dead: ")


def test_frozen_layers_and_own_convolutions_are_left_whole_and_named():
    class Scaled(layers.Conv2D):
        def call(self, inputs):
            return 2 * super().call(inputs)

    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="stem")(inputs)
    for name, kind, trainable in (
        ("frozen", layers.Conv2D, False),
        ("own", Scaled, True),
        ("free", layers.Conv2D, True),
    ):
        x = kind(4, 3, padding="same", name=name, trainable=trainable)(x)
    model = keras.Model(inputs, x)
    with pytest.warns(UserWarning, match=r"left whole: .*frozen \(frozen: it could not be retrained\).*own \(.*Scaled"):
        pruned = pruning.prune(model, sparsity=0.5)
    assert list(pruning.masks_of(pruned)) == ["free"]
    assert list(pruning.prunable(model, include=["frozen"])) == ["frozen", "free"]


def test_models_with_nothing_to_prune_or_broken_weights_are_refused():
    with pytest.raises(ValueError, match="nothing to prune"):
        pruning.prune(keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)]), sparsity=0.5)
    with pytest.raises(ValueError, match="no weights yet"):
        pruning.prune(keras.Sequential([layers.Conv2D(4, 3)]), sparsity=0.5)
    with pytest.raises(ValueError, match=r"must be a keras.Model. Received: str"):
        pruning.prune("model.keras", sparsity=0.5)
    broken = plain_model()
    kernel = array(broken.get_layer("five").kernel)
    kernel[0, 0, 0, 0] = np.nan
    broken.get_layer("five").kernel.assign(kernel)
    with pytest.raises(ValueError, match="layer 'five' holds NaN"):
        pruning.prune(broken, sparsity=0.5)


def test_a_model_without_masked_layers_has_no_masks():
    assert pruning.masks_of(MODEL) == Masks({})


def test_kernels_that_are_kept_between_dead_channels_are_warned_of():
    # Half of the first layer's kernels stay, all of output channels that the second layer's kernels do not read.
    images = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="stem")(images)
    x = layers.Conv2D(8, 3, name="first")(x)
    model = keras.Model(images, layers.Conv2D(4, 3, name="second")(x))
    for name, strong in (("first", np.s_[..., :4]), ("second", np.s_[..., 3:7, :])):
        kernel = array(model.get_layer(name).kernel) * 1e-3
        kernel[strong] *= 1e3
        model.get_layer(name).kernel.assign(kernel)
    # 16 of 32 kernels in each are strong; only input channel 3 of the second is one that the first still makes.
    with pytest.warns(UserWarning, match=r"32 of 64 kernels are kept, but only 8 of them \(12% of all\)"):
        pruned = pruning.prune(model, sparsity=0.5)
    counts = pruning.liveness(pruned)
    assert (counts["first"].live_kernels, counts["second"].live_kernels) == (4, 4)


def test_a_layer_of_which_hardly_anything_stays_is_warned_of():
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(20, 3, name="stem")(images)
    x = keras.layers.Conv2D(20, 3, name="flat")(x)
    model = keras.Model(images, keras.layers.Conv2D(40, 3, name="steep")(x))
    kernel = model.get_layer("flat").kernel
    scale = np.full(tuple(kernel.shape), 1e-3, np.float32)
    scale[..., 0] = 10.0
    kernel.assign(keras.ops.convert_to_numpy(kernel) * scale)
    with pytest.warns(UserWarning, match=r"layer 'flat' keeps 20 of 400 kernels and 1 of 20 output channels.*scope"):
        pruning.prune(model, sparsity=0.4)
    pruning.prune(model, sparsity=0.4, scope="layer")
