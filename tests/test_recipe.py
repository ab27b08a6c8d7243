"""What belongs to pruning a network well: statistics measured anew, and a teacher."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning, stages, training
from nhn_tf.data import Augmentation, Batches
from nhn_tf.data.mixing import Mixing
from nhn_tf.data.normalization import Normalization
from nhn_tf.data.splits import Split
from nhn_tf.layers import BatchNorm
from nhn_tf.settings import TrainConfig
from nhn_tf.stages import networks
from nhn_tf.stages.feed import load_feed
from nhn_tf.training.optimizers import make_optimizer
from tests.conftest import before, smoke_settings


def array(variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


@pytest.mark.jax
@pytest.mark.parametrize("kind", [layers.BatchNormalization, BatchNorm])
def test_recalibrated_statistics_are_those_of_all_the_data(kind):
    model = keras.Sequential([keras.Input((4, 4, 3)), kind(name="bn", momentum=0.99)])
    rng = np.random.default_rng(0)
    images = rng.normal([1.0, -2.0, 5.0], [1.0, 2.0, 3.0], size=(50, 4, 4, 3)).astype("float32")
    pruning.recalibrate(model, images, batch_size=16)  # the last batch is smaller
    norm = model.get_layer("bn")
    np.testing.assert_allclose(array(norm.moving_mean), images.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(array(norm.moving_variance), images.var((0, 1, 2)), rtol=1e-4)
    assert norm.momentum == 0.99


def test_images_for_several_inputs_are_nested_as_the_model_takes_them():
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(10, 4, 4, 2)).astype("float32") for _ in range(2))
    for given in ([left, right], {"left": left, "right": right}):
        inputs = [keras.Input((4, 4, 2), name=name) for name in ("left", "right")]
        inputs = dict(zip(given, inputs, strict=True)) if isinstance(given, dict) else inputs
        norm = layers.BatchNormalization()
        model = keras.Model(inputs, norm(layers.Add()(keras.tree.flatten(inputs))))
        pruning.recalibrate(model, given, batch_size=5)
        np.testing.assert_allclose(array(norm.moving_mean), (left + right).mean((0, 1, 2)), atol=1e-6)
    with pytest.raises(ValueError, match="`data` must hold images, or yield batches of them. Received: NoneType"):
        pruning.recalibrate(model, None)


def norms() -> keras.Model:
    inputs = keras.Input((4, 4, 2))
    inner = keras.Sequential([keras.Input((4, 4, 2)), layers.BatchNormalization(name="within")])
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    return keras.Model(inputs, layers.Dense(2, name="dense")(frozen(inner(inputs))))


def test_nothing_but_the_statistics_of_unfrozen_layers_changes():
    model = norms()
    before = {variable.path: array(variable) for variable in model.variables}
    pruning.recalibrate(model, [(np.full((2, 4, 4, 2), 3.0, "float32"), np.zeros(2))] * 3, steps=2)
    changed = {v.path for v in model.variables if (array(v) != before[v.path]).any()}
    assert {path.split("/")[-2] for path in changed} == {"within"}
    assert {path.split("/")[-1] for path in changed} == {"moving_mean", "moving_variance"}
    with pytest.raises(ValueError, match="at least one batch"):
        pruning.recalibrate(model, [])


def test_a_network_without_batch_normalisation_needs_no_data():
    pruning.recalibrate(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), [])


def classifier(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv", activation="relu")(layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x)))


CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


@pytest.mark.jax
def test_the_distilled_loss_by_hand():
    student, teacher = classifier(0), classifier(1)
    distiller = pruning.Distiller(student, teacher, temperature=2.0, weight=0.25)
    distiller.compile("sgd", CROSSENTROPY)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 6, 6, 2)).astype("float32"), np.array([0, 1, 2, 1, 0])
    found = float(distiller.compute_loss(x, y, distiller(x), training=True))
    mine, theirs = array(student(x)), array(teacher(x))
    labels = -np.log(softmax(mine)[np.arange(5), y]).mean()
    p, q = softmax(theirs / 2), softmax(mine / 2)
    assert found == pytest.approx(0.75 * labels + 0.25 * 4 * (p * np.log(p / q)).sum(-1).mean(), rel=1e-4)
    assert float(distiller.compute_loss(x, y, distiller(x), training=False)) == pytest.approx(labels, rel=1e-4)


@pytest.mark.jax
def test_weights_of_samples_count_for_the_teacher_too():
    distiller = pruning.Distiller(classifier(0), classifier(1), weight=1.0)
    distiller.compile("sgd", CROSSENTROPY)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
    each = [float(distiller.compute_loss(one[None], np.zeros(1), distiller(one[None]))) for one in x]
    for weights in (np.array([0.5, 0.0]), np.array([[0.5], [0.0]])):
        found = float(distiller.compute_loss(x, np.zeros(2), distiller(x), sample_weight=weights))
        assert found == pytest.approx(0.5 * each[0] / 2, rel=1e-4)
    assert each[1] > 0


@pytest.mark.jax
def test_a_distiller_comes_back_from_a_file(tmp_path):
    distiller = pruning.Distiller(
        pruning.prune(classifier(0), sparsity=0.5), classifier(1), temperature=2.0, weight=0.25
    )
    distiller.compile("sgd", CROSSENTROPY)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    x, y = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32"), np.zeros(4)
    expected, found = (float(one.compute_loss(x, y, one(x), training=True)) for one in (distiller, loaded))
    assert found == pytest.approx(expected, rel=1e-6)
    assert pruning.masks_of(loaded.student) == pruning.masks_of(distiller.student)
    assert not loaded.teacher.trainable


@pytest.mark.jax_slow
def test_a_pruned_student_learns_from_its_unpruned_self_and_is_pruned_on():
    teacher = classifier(1)
    student = pruning.prune(teacher, sparsity=0.0)
    distiller = pruning.Distiller(student, teacher, weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.05), CROSSENTROPY, metrics=["accuracy"], jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6, 6, 2)).astype("float32"), rng.integers(0, 3, 32)
    before = [array(variable) for variable in teacher.variables]
    schedule = pruning.PruningSchedule(sparsity=0.5, end_step=4, every=1)
    history = distiller.fit(x, y, batch_size=8, epochs=6, verbose=0, callbacks=[schedule]).history
    assert pruning.masks_of(student).sparsity == 0.5
    assert history["loss"][-1] < history["loss"][1]
    for variable, value in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)
    assert teacher.trainable
    np.testing.assert_allclose(distiller.predict(x, verbose=0), student.predict(x, verbose=0), atol=1e-6)


@pytest.mark.jax
def test_a_network_with_dropout_teaches_itself():
    """JAX gives away the arrays that a step changes: a copy must not hold the same state of a random generator."""
    images = keras.Input((4,))
    model = keras.Model(images, layers.Dense(2, name="classes")(layers.Dropout(0.5)(images)))
    distiller = pruning.Distiller(model, model)
    distiller.compile("sgd", CROSSENTROPY)
    assert np.isfinite(distiller.train_on_batch(np.ones((4, 4), "float32"), np.zeros(4)))


@pytest.mark.jax_slow
def test_a_teacher_sees_the_very_images_that_its_student_sees():
    split = Split(np.random.default_rng(0).integers(0, 256, (12, 6, 6, 2), np.uint8), np.arange(12, dtype=np.int32) % 3)
    mixing, augmentation = Mixing(3, cutmix=0.5, mixup=0.5), Augmentation(pad=2, flip=True, cutout=2)
    batches = Batches(
        split, batch_size=4, normalization=Normalization.of(split), augmentation=augmentation, mixing=mixing,
        shuffle=True, seed=0, drop_remainder=True,
    )  # fmt: skip
    model = classifier(0)
    distiller = pruning.Distiller(model, model, weight=1.0)
    training.compile_classifier(distiller, make_optimizer(TrainConfig(epochs=2, l2=0.0), 3))
    assert training.fit(distiller, batches, epochs=2)["loss"] == pytest.approx(0, abs=1e-6)
    assert set(training.state(distiller)) == {  # a checkpoint has no teacher
        *(f"model/{variable.path}" for variable in model.variables),
        *(f"optimizer/{variable.path}" for variable in distiller.optimizer.variables),
    }


def test_the_base_as_it_was_trained_is_the_teacher_of_a_stage(smoke_run):
    settings = smoke_settings("pruned", distill=0.5)
    feed = load_feed(settings)
    base, config = smoke_run.stage("base"), settings.config
    teacher = networks.teacher(smoke_run.path, feed.data, config)
    assert training.accuracy(teacher, feed.test) == base.metrics["test_accuracy"]
    assert not pruning.masks_of(teacher) or pruning.masks_of(teacher).sparsity == 0
    assert networks.teacher(smoke_run.path, feed.data, config.replaced(distill=0)) is None
    assert networks.teacher(smoke_run.path, feed.data, smoke_settings("base").config) is None


@pytest.mark.slow
def test_a_stage_with_a_teacher_learns_something_else(smoke_run, tmp_path):
    run = before(smoke_run, "pruned", tmp_path / "run")
    stages.run("pruned", run, smoke_settings("pruned", distill=0.5))
    plain, taught = smoke_run.stage("pruned"), run.stage("pruned")
    assert taught.done.weights != plain.done.weights
    assert taught.history[-1]["val_loss"] != plain.history[-1]["val_loss"]
    assert taught.weights().keys() == plain.weights().keys()


def test_probabilities_are_softened_as_their_logarithms():
    teacher, student = classifier(0), classifier(1)
    logits = pruning.Distiller(student, teacher, weight=1.0)
    probabilities = pruning.Distiller(
        *(keras.Sequential([model, layers.Softmax()]) for model in (student, teacher)), weight=1.0, from_logits=False
    )
    logits.compile("sgd", CROSSENTROPY)
    probabilities.compile("sgd", "sparse_categorical_crossentropy")
    x, y = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32"), np.zeros(4)
    losses = [float(one.compute_loss(x, y, one(x), training=True)) for one in (logits, probabilities)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0.0}, "`temperature` must be above 0"), ({"weight": 1.5}, r"`weight` in \[0, 1\]")],
)
def test_wrong_distillers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pruning.Distiller(classifier(0), classifier(1), **options)
    with pytest.raises(ValueError, match="one output, of the same shape"):
        pruning.Distiller(classifier(0), keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten()]))
