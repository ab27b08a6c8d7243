"""The optimizer and its schedule against hand-worked numbers and NumPy."""

import itertools
import math

import keras
import numpy as np
import pytest

from nhn_tf import training
from nhn_tf.layers import backend
from nhn_tf.models import complexity
from nhn_tf.settings import SgdConfig
from nhn_tf.training import optimizers

pytestmark = pytest.mark.jax


def rates(schedule, steps):
    return [float(keras.ops.convert_to_numpy(schedule(step))) for step in steps]


def test_cosine_restarts_by_hand():
    schedule = optimizers.CosineRestarts(1.0, 0.0, period_steps=4, period_mult=2, total_steps=12)
    # First period 4 steps, second 8; the rate starts at 1, is 1/2 half-way, and jumps back to 1 at step 4.
    expected = [1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2, 1.0, 0.5, 1.0]
    np.testing.assert_allclose(rates(schedule, [0, 1, 2, 3, 4, 8, 12]), [*expected[:6], 0.0], atol=1e-6)


def test_enas_schedule_has_four_restarts_in_310_epochs():
    schedule = optimizers.make_schedule(SgdConfig(), steps_per_epoch=1)
    values = rates(schedule, range(310))
    assert [epoch for epoch in range(1, 310) if values[epoch] > values[epoch - 1]] == [10, 30, 70, 150]
    assert max(values) == pytest.approx(0.05)
    assert min(values) > 0.001


def test_one_cosine_without_restart_and_with_warmup():
    config = SgdConfig(epochs=10, lr_max=1.0, lr_min=0.0, lr_period_epochs=0, warmup_epochs=2.0)
    values = rates(optimizers.make_schedule(config, steps_per_epoch=5), range(50))
    assert values[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert values[10] == pytest.approx(1.0)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values[10:]))


def test_schedule_and_optimizer_survive_serialisation():
    optimizer = optimizers.make_optimizer(SgdConfig(), steps_per_epoch=7)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


def numpy_nesterov(weights, gradients, *, rate, momentum, l2, clip):
    velocity = np.zeros_like(weights)
    for gradient in gradients:
        gradient = gradient + 2 * l2 * weights
        gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
        velocity = momentum * velocity - rate * gradient
        weights = weights + momentum * velocity - rate * gradient
    return weights


def test_optimizer_step_is_l2_then_clip_then_nesterov():
    rng = np.random.default_rng(0)
    start = rng.normal(size=5).astype(np.float32)
    gradients = [rng.normal(size=5).astype(np.float32) * scale for scale in (0.1, 1.0, 30.0)]
    variable = keras.Variable(start)
    optimizer = optimizers.Nesterov(0.1, l2=0.05, momentum=0.9, global_clipnorm=2.0)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    expected = numpy_nesterov(start, gradients, rate=0.1, momentum=0.9, l2=0.05, clip=2.0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-5)


def test_l2_and_clipping_are_of_the_gradient_summed_over_replicas(monkeypatch):
    monkeypatch.setattr(backend, "sum_over_replicas", lambda grads: [2.0 * grad for grad in grads])
    start, gradient = np.array([1.0, -2.0, 0.5], np.float32), np.array([0.3, 0.1, -0.4], np.float32)
    variable = keras.Variable(start)
    optimizer = optimizers.Nesterov(0.1, l2=0.05, momentum=0.9, global_clipnorm=0.5)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    expected = numpy_nesterov(start, [2 * gradient], rate=0.1, momentum=0.9, l2=0.05, clip=0.5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-5)
    assert optimizer.gradient_norm == pytest.approx(np.linalg.norm(2 * gradient + 0.1 * start), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_kerass_on_one_hot_targets(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 6).astype(np.int32)
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    expected = float(keras.ops.convert_to_numpy(keras_loss(np.eye(4, dtype=np.float32)[labels], logits)))
    ours = float(keras.ops.convert_to_numpy(training.SmoothedCrossEntropy(smoothing)(labels, logits)))
    assert ours == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("error", "params", "expected"),
    [(3.48, 7.0, 1.76), (3.72, 7.0, 1.88), (2.13, 34.9, 1.76), (6.43, 1.7, 3.22)],  # rows of the paper's table 1
)
def test_score_gives_the_papers_table(error, params, expected):
    assert complexity.score(error, params) == pytest.approx(expected, abs=0.006)


def small_model():
    inputs = keras.Input((4,), name="images")
    hidden = keras.layers.Dropout(0.5, seed=1, name="dropout")(keras.layers.Dense(8, name="hidden")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))
    training.compile_classifier(model, optimizers.make_optimizer(SgdConfig(), steps_per_epoch=4))
    return model


def test_restored_training_goes_on_bit_for_bit():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(16, 4)).astype(np.float32), rng.integers(0, 3, 16).astype(np.int32)
    keras.utils.set_random_seed(0)
    model = small_model()
    model.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
    halfway = training.state(model)
    model.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
    keras.utils.set_random_seed(99)
    other = small_model()
    training.restore(other, halfway)
    other.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0)
    expected, found = training.state(model), training.state(other)
    assert any("seed_generator_state" in name for name in expected)
    assert any("momentum" in name for name in expected)
    assert set(expected) == set(found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_restoring_something_else_names_what_differs():
    model = small_model()
    arrays = training.state(model)
    arrays["model/logits/kernel"] = np.zeros((2, 2), np.float32)
    del arrays["model/hidden/bias"]
    with pytest.raises(ValueError, match=r"hidden/bias"):
        training.restore(model, arrays)


def test_the_decay_of_idle_weights_is_that_of_the_real_optimizer():
    config = SgdConfig(epochs=4, lr_max=0.1, lr_min=0.01, lr_period_epochs=1, momentum=0.5, l2=0.002, warmup_epochs=0.5)
    variable = keras.Variable(np.ones(1, "float32"), name="idle")
    optimizer = optimizers.make_optimizer(config, 50)
    for _ in range(200):
        optimizer.apply([keras.ops.zeros(1)], [variable])
    left = float(keras.ops.convert_to_numpy(variable)[0])
    assert optimizers.decay_e_folds(config, 50) == pytest.approx(-math.log(left), rel=0.02)
