"""Ops of one's own: registered by name, computed in the supernet, built, extracted, masked, written down."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning, sparse, stages
from nhn_tf.errors import UserError
from nhn_tf.layers import MaskedConv2D, own_op
from nhn_tf.models import MacroSupernet, complexity, network
from nhn_tf.models.extract import extract
from nhn_tf.models.superset import tile_genes
from nhn_tf.report import drawing
from nhn_tf.report.placement import lay_out
from nhn_tf.runs import RunDirectory
from nhn_tf.search import EnasSearch
from nhn_tf.settings import EnasConfig
from nhn_tf.storage import files, modules
from nhn_tf.values import space
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import OpError, Space
from tests.conftest import smoke_settings


def dilated(filters, name):
    return layers.Conv2D(filters, 3, dilation_rate=2, padding="same", use_bias=False, name=name)


def bottleneck(filters, name):
    parts = [
        layers.Conv2D(filters // 2, 1, use_bias=False, name="down"),
        layers.Conv2D(filters, 3, padding="same", name="up"),
    ]
    return keras.Sequential(parts, name=name)


@keras.saving.register_keras_serializable("tests")
class Residual(keras.Sequential):
    """Which does not compute what the graph of its layers says."""

    def call(self, inputs, training=None, mask=None):
        return inputs + super().call(inputs, training=training)


def identity(filters, name):
    return layers.Activation("linear", name=name)


OPS = ("conv3x3", "dilated", "bottleneck", "identity")
SPACE_OF = {"num_layers": 3, "num_segments": 1, "ops": OPS}
SKIPS = ((), (0,), (0, 1))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The ops above, for one test."""
    monkeypatch.setattr(space, "_own", {})
    space.register_op("dilated", dilated)
    space.register_op("bottleneck", bottleneck)
    space.register_op("identity", identity, batch_norm=False)


def test_a_genotype_is_written_with_the_names_of_own_ops_beside_the_codes_of_enas():
    genotype = Genotype(Space(**SPACE_OF), ("dilated", "conv3x3", "identity"), SKIPS)
    assert genotype.to_enas_text() == "dilated\n0 1\nidentity 1 1\n"
    assert Genotype.from_enas_text("dilated 0 1 identity 1 1", genotype.space) == genotype
    assert Genotype.from_enas_text(genotype.to_enas_text()).space.ops == (*space.OP_NAMES, "dilated", "identity")
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert genotype.genes().tolist() == [1, 0, 3, 1, 1, 1]


def test_a_genotype_of_an_op_that_is_not_registered_says_so_and_is_not_called_damaged(tmp_path, monkeypatch):
    genotype = Genotype(Space(**SPACE_OF), ("dilated", "conv3x3", "identity"), SKIPS)
    genotype.save(tmp_path)
    monkeypatch.setattr(space, "_own", {})
    with pytest.raises(OpError, match="Received: 'dilated', which is not registered in this process"):
        Genotype.load(tmp_path)
    with pytest.raises(OpError, match="--own_ops=MODULE"):
        Genotype.from_enas_text("dilated")
    space.register_op("dilated", dilated)
    space.register_op("bottleneck", bottleneck)
    space.register_op("identity", identity, batch_norm=False)
    assert Genotype.load(tmp_path) == genotype
    (tmp_path / "genotype.json").write_text("{}")
    with pytest.raises(files.DamagedFileError):
        Genotype.load(tmp_path)


def test_the_settings_take_registered_ops_alone():
    assert EnasConfig(ops=OPS).space.ops == OPS
    with pytest.raises(ValueError, match="Received: 'conv7x7', which is not registered"):
        EnasConfig(ops=("conv3x3", "conv7x7"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("conv3x3", identity), "is an op of ENAS's"),
        (("dilated", identity), "another op is registered as 'dilated'"),
        (("Dilated 3x3", identity), "up to 24 of a-z"),
        (("other", "identity"), "must be callable"),
    ],
)
def test_names_and_factories_that_are_none_are_refused(arguments, message):
    with pytest.raises(OpError, match=message):
        space.register_op(*arguments)


def test_the_very_same_op_may_be_registered_again_and_another_on_request():
    space.register_op("dilated", dilated)
    space.register_op("dilated", identity, replace=True)
    assert space.op_named("dilated").factory is identity


@pytest.mark.jax
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda filters, name: layers.Conv2D(2 * filters, 3, padding="same", name=name), "must keep the shape"),
        (lambda filters, name: layers.Conv2D(filters, 3, name=name), r"must keep the shape \(None, 8, 8, 4\)"),
        (lambda filters, name: layers.Conv2D(filters, 3, padding="same"), "must return a new Keras layer called 'bad'"),
        (lambda filters, name: np.tanh, "must return a new Keras layer"),
        (lambda filters, name: 1 / 0, "fails for 4 filters: ZeroDivisionError"),
        (lambda filters, name: layers.Dense(filters, name=name)(filters), "fails for 4 filters"),
        (lambda filters, name: layers.Reshape((3, 3, filters), name=name), "fails on maps"),
        (lambda filters, name: layers.BatchNormalization(name=name), "no state but trained weights"),
        (lambda filters, name: layers.Dropout(0.5, name=name), "no state but trained weights"),
        (lambda filters, name: layers.Activation("relu", activity_regularizer="l2", name=name), "must add no loss"),
        (lambda filters, name: keras.Sequential([layers.Conv2D(filters, 1)], name=name), "give each layer within it"),
        (lambda filters, name: Residual([layers.Conv2D(filters, 1, name="a")], name=name), "has a `call` of its own"),
    ],
)
def test_layers_that_cannot_stand_in_a_supernet_are_refused(factory, message):
    space.register_op("bad", factory)
    with pytest.raises(OpError, match=message):
        own_op.check(space.op_named("bad"), 4)


@pytest.mark.jax_slow
def test_only_the_chosen_own_op_learns_and_what_is_extracted_computes_the_same():
    keras.utils.set_random_seed(0)
    whole = Space(2, 1, OPS)
    supernet = MacroSupernet(whole, input_shape=(8, 8, 3), num_classes=3, filters=4)
    rng = np.random.default_rng(1)
    for variable in supernet.variables:
        if variable.path.endswith(("moving_mean", "moving_variance", "gamma", "beta")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    supernet.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    supernet.optimizer.build(supernet.trainable_variables)  # or TensorFlow traces the first step twice
    images = rng.normal(size=(4, 8, 8, 3)).astype(np.float32)
    kernels = [v for v in supernet.mixed_ops[1].trainable_variables if v.path.endswith("kernel")]
    for chosen in (("dilated", "bottleneck"), ("identity", "dilated")):
        genotype = Genotype(whole, chosen, ((), (0,)))
        fed = {"images": images, "genes": tile_genes(genotype.genes(), 4)}
        before = [keras.ops.convert_to_numpy(v.value).copy() for v in kernels]
        supernet.train_on_batch(fed, np.array([0, 1, 2, 0]))
        moved = {
            v.path.split("layer1_op/")[1].split("/")[0]
            for v, old in zip(kernels, before, strict=True)
            if (keras.ops.convert_to_numpy(v.value) != old).any()
        }
        assert moved == {"in_kernel", chosen[1]}
        found = extract(supernet, genotype)
        np.testing.assert_allclose(found.predict_on_batch(images), supernet.predict_on_batch(fed), rtol=2e-4, atol=2e-4)
        assert "nhn_tf" not in found.to_json()


def test_a_full_convolution_is_masked_like_the_built_in_ones_and_other_layers_are_not():
    mask = np.eye(4, dtype=bool)
    genotype = Genotype(Space(**SPACE_OF), ("dilated", "bottleneck", "identity"), SKIPS, Masks({"layer0_op": mask}))
    model = network.build(genotype, input_shape=(8, 8, 3), num_classes=3, form=network.Form(filters=4))
    layer = model.get_layer("layer0_op")
    assert isinstance(layer, MaskedConv2D) and layer.dilation_rate == (2, 2)
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    assert kernel[:, :, mask].any() and not kernel[:, :, ~mask].any()
    assert [x.name for x in model.layers if isinstance(x, MaskedConv2D)] == ["layer0_op"]
    assert type(model.get_layer("layer1_op")) is keras.Sequential
    assert not [x.name for x in model.layers if x.name.startswith("layer2_op_")]  # nothing follows the identity


def test_a_picture_names_own_ops():
    genotype = Genotype(Space(**SPACE_OF), ("dilated", "conv3x3", "identity"), SKIPS)
    boxes = lay_out(genotype).of("layer")
    assert [box.label for box in boxes] == ["dilated", "3×3 conv", "identity"]
    assert boxes[0].detail == "layer 0: dilated"
    legend = [text.get_text() for text in drawing.draw(genotype).axes[0].get_legend().texts]
    assert legend[:2] == ["3×3 convolution", "ops of your own"]


def test_own_ops_are_pruned_compacted_counted_and_compiled_where_keras_knows_their_layers():
    keras.utils.set_random_seed(0)
    genotype = Genotype(Space(**SPACE_OF), ("dilated", "bottleneck", "identity"), SKIPS)
    model = network.build(genotype, input_shape=(8, 8, 3), num_classes=3, form=network.Form(filters=4))
    # Dilation costs nothing: 64 pixels of 9 * 4 * 4. Within the bottleneck 64 * 4 * 2, then 64 * (9 * 2 * 4).
    flops = {name: cost.flops for name, cost in complexity.layer_costs(model).items()}
    assert flops["layer0_op"] == 64 * 144
    assert sum(n for name, n in flops.items() if name.startswith("layer1_op/")) == 64 * (8 + 72)
    assert not {name for name in complexity.uncounted(model) if "op" in name}
    pruned = pruning.prune(model, sparsity=0.75, layers=["layer0_op"])
    assert pruning.masks_of(pruned)["layer0_op"].sum() == 4
    small = pruning.compact(pruned)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(sparse.compile(small)(images), pruned.predict_on_batch(images), rtol=1e-3, atol=1e-4)


def test_the_scripts_import_modules_from_the_present_directory(tmp_path, monkeypatch):
    (tmp_path / "ops_of_mine.py").write_text(
        "from nhn_tf.values import space\nspace.register_op('mine', lambda filters, name: None)\n"
    )
    (tmp_path / "ops_in_ruins.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules.load("ops_of_mine", "own_ops")
    assert space.op_named("mine").kind == "own"
    with pytest.raises(UserError, match="`own_ops`=ops_nowhere: there is no such module"):
        modules.load("ops_nowhere", "own_ops")
    with pytest.raises(UserError, match="importing it fails: ZeroDivisionError"):
        modules.load("ops_in_ruins", "own_ops")


def test_what_names_no_module_is_told_so_and_none_ends_the_script_by_itself(tmp_path, monkeypatch):
    (tmp_path / "ops_that_exit.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "ops_that_need.py").write_text("import ops_nowhere.deeper\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("", "./ops_that_exit", "ops_that_exit.py", "a..b", "folder/ops"):
        with pytest.raises(UserError, match="must name a module as Python does"):
            modules.load(name, "own_ops")
    with pytest.raises(UserError, match=r"`own_ops`=ops_nowhere\.deeper: there is no such module"):
        modules.load("ops_nowhere.deeper", "own_ops")
    with pytest.raises(UserError, match="importing it fails: ModuleNotFoundError"):
        modules.load("ops_that_need", "own_ops")
    with pytest.raises(UserError, match=r"importing it fails: SystemExit\(0\)"):
        modules.load("ops_that_exit", "own_ops")


@pytest.mark.slow
@pytest.mark.jax
def test_a_search_with_own_ops_is_resumed_to_the_same_bits_and_its_network_is_trained_and_pruned(tmp_path, stop):
    from nhn_tf.storage import files, stopping

    runs = [RunDirectory(tmp_path / name) for name in ("whole", "stopped")]
    enas = smoke_settings("enas", ops=OPS, epochs=1)
    stages.run("enas", runs[0], enas)
    stop(3)
    with pytest.raises(stopping.Stopped):
        stages.run("enas", runs[1], enas)
    stopping.request(None)
    stages.run("enas", runs[1], enas)
    left = [run.stage("enas") for run in runs]
    assert left[0].genotype() == left[1].genotype()
    assert files.digest_arrays(left[0].weights()) == files.digest_arrays(left[1].weights())

    architecture = Genotype(enas.config.space, ("dilated", "bottleneck", "identity"), SKIPS).to_enas_text()
    stages.run("base", runs[0], smoke_settings("base", epochs=1, genotype=architecture))
    done = stages.run("prune", runs[0], smoke_settings("prune", sparsity=0.5))
    masks = runs[0].stage("prune").genotype().masks
    assert set(masks) == {"layer0_op"} and masks["layer0_op"].mean() == done["metrics"]["kernel_sparsity"] == 0.5


def dilated_otherwise(filters, name):
    return layers.Conv2D(filters, 3, dilation_rate=3, padding="same", use_bias=False, name=name)


def dilated_as_before(filters, name):
    return layers.Conv2D(filters, kernel_size=(3, 3), dilation_rate=(2, 2), padding="same", use_bias=False, name=name)


def test_an_op_whose_parts_keras_names_or_that_has_moved_is_the_same_op():
    def with_parts(double):
        def factory(filters, name):
            parts = [layers.Conv2D(filters, 3, padding="same", name="conv"), layers.ReLU(), layers.Lambda(double)]
            return keras.Sequential(parts, name=name)

        space.register_op("dilated", factory, replace=True)
        return own_op.digests(["dilated", "conv3x3"])

    first = with_parts(lambda x: 2 * x)
    layers.ReLU()
    assert first.keys() == {"dilated"}
    assert with_parts(lambda x: 2 * x) == first  # on another line
    assert layers.ReLU().name != "re_lu"  # Keras counts on


@pytest.mark.jax_slow
def test_what_was_begun_with_another_layer_of_the_name_is_not_gone_on_with(tmp_path):
    def search():
        config = EnasConfig(num_layers=2, num_segments=1, ops=("conv3x3", "dilated"), supernet_filters=4)
        return EnasSearch(config.space, config, input_shape=(8, 8, 3), num_classes=3, directory=tmp_path)

    search().save()
    run = RunDirectory(tmp_path / "run")
    architecture = Genotype(Space(2, 1, ("conv3x3", "dilated")), ("dilated", "conv3x3"), ((), (0,)))
    settings = smoke_settings("base", genotype=architecture.to_enas_text())
    with run.hold():
        run.ready("base", settings, input_genotype=architecture).begin("digest")
    space.register_op("dilated", dilated_as_before, replace=True)
    assert search().reload()
    assert run.ready("base", settings, input_genotype=architecture).config["own_ops"].keys() == {"dilated"}

    space.register_op("dilated", dilated_otherwise, replace=True)  # as a module that was edited registers it
    with pytest.raises(OpError, match="op 'dilated' makes another layer than when the search was begun"):
        search()
    with pytest.raises(OpError, match="op 'dilated' makes another layer than when stage 'base' in .* was begun"):
        run.ready("base", settings, input_genotype=architecture)
    space.register_op("dilated", dilated, batch_norm=False, replace=True)
    with pytest.raises(OpError, match="op 'dilated' makes another layer"):
        search()
