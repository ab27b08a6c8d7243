"""Pruning while training: the ramp, and that a resumed run prunes the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from nhn_tf import pruning
from nhn_tf.layers import MaskedConv2D
from nhn_tf.pruning import PruningSchedule, Ramp

ROOT = Path(__file__).resolve().parent.parent


def array(variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


def small_model(seed: int = 0, **compile_options) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    x = MaskedConv2D(4, 3, kernel_regularizer="l2", name="a")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = MaskedConv2D(3, 3, name="b")(layers.ReLU(name="relu")(x))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D(name="gap")(x))
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    model.compile(optimizer, "mse", **(compile_options or {"run_eagerly": True}))
    return model


def fit(model: keras.Model, schedule: PruningSchedule | None, epochs: int, first: int = 0) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6, 6, 2)), rng.normal(size=(32, 3))  # 4 steps an epoch
    model.fit(
        x,
        y,
        batch_size=8,
        shuffle=False,
        verbose=0,
        epochs=epochs,
        initial_epoch=first,
        callbacks=[schedule] if schedule else [],
    )


class Sparsities(keras.callbacks.Callback):
    """Notes, after every step, the sparsity and whether pruned kernels are zero."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[float, bool]] = []

    def on_train_batch_end(self, batch, logs=None):
        masks = pruning.masks_of(self.model)
        found = pruning.masked_layers(self.model)
        zero = not any(array(found[name].kernel)[:, :, ~mask].any() for name, mask in masks.items())
        self.seen.append((masks.sparsity, zero))


def test_the_ramp_is_zhu_and_guptas_cubic():
    ramp = Ramp(final=0.8, begin=100, end=300, every=50, initial=0.4)
    # 0.8 - 0.4 * (1 - progress)^3 with progress 0, 1/4, 1/2, 1
    assert [ramp.target(step) for step in (100, 150, 200, 300, 999)] == pytest.approx(
        [0.4, 0.8 - 0.4 * 27 / 64, 0.75, 0.8, 0.8]
    )


def test_due_steps_are_multiples_and_the_end():
    ramp = Ramp(final=0.8, begin=2, end=9, every=3)
    assert [step for step in range(12) if ramp.is_due(step)] == [2, 5, 8, 9]
    assert ramp.last_due(2, 7) == 5
    assert ramp.last_due(5, 7) is None
    assert ramp.last_due(0, 100) == 9
    assert [step for step in range(12) if Ramp(final=0.5, begin=4, end=4).is_due(step)] == [4]


@pytest.mark.jax
def test_gradual_pruning_hides_until_the_end_and_then_zeroes():
    model, seen = small_model(jit_compile=False), Sparsities()
    rng = np.random.default_rng(0)
    schedule = PruningSchedule(sparsity=0.75, end_step=6, every=2)
    x, y = rng.normal(size=(32, 6, 6, 2)), rng.normal(size=(32, 3))
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[schedule, seen])
    total = 2 * 4 + 4 * 3
    ramp = [0.75 * (1 - (1 - step / 6) ** 3) for step in (0, 2, 2, 4, 4, 6)]
    expected = [round(total * s) / total for s in ramp] + [0.75] * 6
    assert [s for s, _ in seen.seen] == pytest.approx(expected)
    # Hidden weights keep their values until step 6; from then on they are zero, momentum and L2 notwithstanding.
    assert [zero for _, zero in seen.seen] == [True, False, False, False, False] + [True] * 7


def test_hidden_kernels_return_when_others_fall_below_them():
    model = small_model()
    layer = model.get_layer("a")
    kernel = np.zeros((3, 3, 2, 4), np.float32)
    kernel[0, 0] = np.arange(1, 9).reshape(2, 4)
    schedule = PruningSchedule(sparsity=0.5, end_step=10, every=1, layers=["a"])
    schedule.set_model(model)
    layer.kernel.assign(kernel)
    schedule._evaluate(9)
    assert not array(layer.mask)[0].any()
    layer.kernel.assign(kernel[:, :, ::-1])
    schedule._evaluate(9)
    assert array(layer.mask)[0].all()


def test_one_shot_prunes_once_at_its_step():
    model, seen = small_model(), Sparsities()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6, 6, 2)), rng.normal(size=(32, 3))
    schedule = PruningSchedule(sparsity=0.5, schedule="oneshot", begin_step=3)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[schedule, seen])
    assert seen.seen == [(0.0, True)] * 2 + [(0.5, True)] * 6


@pytest.mark.filterwarnings("ignore:training ended after")
def test_a_resumed_run_prunes_as_an_uninterrupted_one(tmp_path):
    def schedule() -> PruningSchedule:
        return PruningSchedule(sparsity=0.7, end_step=8, every=3)

    whole = small_model()
    fit(whole, schedule(), epochs=3)
    for stop in (1, 2):  # amid the ramp (step 4 of 8), and just as the masks settle
        first = small_model()
        fit(first, schedule(), epochs=stop)
        first.save(tmp_path / "stopped.keras")
        resumed = keras.saving.load_model(tmp_path / "stopped.keras")
        fit(resumed, schedule(), epochs=3, first=stop)

        assert pruning.masks_of(resumed) == pruning.masks_of(whole)
        for a, b in zip(whole.variables, resumed.variables, strict=True):
            np.testing.assert_array_equal(array(a), array(b), err_msg=f"{a.path}, stopped after {stop} epochs")


def test_several_steps_an_execution_settle_the_masks_at_the_first_chance():
    model = small_model(steps_per_execution=4, jit_compile=False)
    fit(model, PruningSchedule(sparsity=0.5, end_step=6, every=5), epochs=2)
    assert pruning.masks_of(model).sparsity == 0.5
    for name, mask in pruning.masks_of(model).items():
        assert not array(model.get_layer(name).kernel)[:, :, ~mask].any()


def test_a_threshold_is_ramped_too():
    model = small_model()
    fit(model, PruningSchedule(threshold=0.2, end_step=6, every=2), epochs=2)
    for layer in pruning.masked_layers(model).values():
        assert array(layer.mask).any()
    assert 0 < pruning.masks_of(model).sparsity < 1


def test_a_layer_that_would_end_empty_keeps_its_strongest_kernel_with_a_warning():
    model = small_model()
    with pytest.warns(UserWarning, match="every kernel of layer '(a|b)' was to go"):
        fit(model, PruningSchedule(threshold=100.0, end_step=4), epochs=1)
    assert {name: mask.sum() for name, mask in pruning.masks_of(model).items()} == {"a": 1, "b": 1}


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 6, 6, 2)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")


@pytest.mark.parametrize("backend_options", [{"run_eagerly": True}, {"jit_compile": False, "steps_per_execution": 2}])
def test_accumulated_gradients_count_as_one_update(backend_options):
    model, seen = small_model(), Sparsities()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse", **backend_options)
    schedule = PruningSchedule(sparsity=0.5, end_step=3, every=1)
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[schedule, seen])  # 8 batches, 4 updates
    total = 20
    at = [round(total * 0.5 * (1 - (1 - step / 3) ** 3)) / total for step in (0, 1, 1, 2, 2, 3, 3, 3)]
    each = 2 if "steps_per_execution" in backend_options else 1
    assert [sparsity for sparsity, _ in seen.seen] == pytest.approx(at[each - 1 :: each])


MIRRORED = """
import keras
import numpy as np
import tensorflow as tf
from nhn_tf import pruning

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    images = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, name="b")(keras.layers.Conv2D(4, 3)(images))
    model = pruning.prune(keras.Model(images, x), sparsity=0.0)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
schedule = pruning.PruningSchedule(sparsity=0.75, end_step=4, every=2)
rng = np.random.default_rng(0)
model.fit(rng.normal(size=(32, 6, 6, 2)), rng.normal(size=(32, 2, 2, 4)), batch_size=8, verbose=0, callbacks=[schedule])
mask = pruning.masks_of(model)["b"]
assert mask.sum() == 4, mask.sum()
assert not keras.ops.convert_to_numpy(model.get_layer("b").kernel)[:, :, ~mask].any()
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a strategy of TensorFlow's")
def test_variables_that_a_strategy_mirrors_are_pruned_on_every_device():
    command = [sys.executable, "-W", "error::UserWarning:nhn_tf", "-c", MIRRORED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.jax
def test_training_that_ends_before_the_schedule_says_so():
    model = small_model(jit_compile=False)
    with pytest.warns(UserWarning, match=r"ended after 4 updates, before .*end_step=1000.*target was sparsity 0.8"):
        fit(model, PruningSchedule(sparsity=0.8, end_step=1000, every=2), epochs=1)


@pytest.mark.parametrize("first", [True, False], ids=["schedule first", "schedule last"])
def test_weights_set_back_behind_the_schedules_end_are_told_of(first):
    model = small_model()
    stopping = keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True)
    callbacks = [PruningSchedule(sparsity=0.5, end_step=8, every=2), stopping]
    with pytest.warns(UserWarning, match="set back to weights from before the pruning schedule ended: 0.[0-4]"):
        model.fit(*data(), batch_size=8, epochs=4, verbose=0, callbacks=callbacks if first else callbacks[::-1])


def test_a_backup_may_be_restored_before_or_after_the_schedule_begins(tmp_path):
    def run(epochs, backup, first):
        model = small_model()
        callbacks = [PruningSchedule(sparsity=0.7, end_step=8, every=3)]
        if backup:
            saving = keras.callbacks.BackupAndRestore(tmp_path / f"{first}", delete_checkpoint=False)
            callbacks.insert(0 if first else 1, saving)
        model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
        return pruning.masks_of(model)

    whole = run(3, False, True)
    for first in (True, False):
        with pytest.warns(UserWarning, match="training ended after 4 updates"):
            run(1, True, first)
        assert run(3, True, first) == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end_step": 5}, "exactly one of"),
        ({"sparsity": 0.5}, "`end_step` belongs to a gradual"),
        ({"sparsity": 0.5, "schedule": "oneshot", "end_step": 5}, "`end_step` belongs to a gradual"),
        ({"sparsity": 1.0, "end_step": 5}, r"in \[0, 1\)"),
        ({"sparsity": 0.5, "end_step": 5, "begin_step": 6}, "begin <= end"),
        ({"sparsity": 0.5, "end_step": 5, "every": 0}, "`every`"),
        ({"sparsity": 0.5, "end_step": 5, "initial_sparsity": 0.6}, "`initial`"),
        ({"threshold": 0.5, "end_step": 5, "initial_sparsity": 0.1}, "goes with `sparsity`"),
        ({"sparsity": 0.5, "schedule": "linear", "end_step": 5}, "gradual or oneshot"),
        ({"sparsity": 0.5, "criterion": "magnitude", "end_step": 5}, "std, l1, l2, random"),
    ],
)
def test_wrong_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruningSchedule(**arguments)


def test_a_model_without_masks_is_refused():
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(3, 3), layers.GlobalAveragePooling2D()], name="plain"
    )
    model.compile("sgd", "mse", jit_compile=False)
    with pytest.raises(ValueError, match="'plain' has no masked layer"):
        fit(model, PruningSchedule(sparsity=0.5, end_step=2), epochs=1)
    with pytest.raises(ValueError, match="Received: other"):
        fit(small_model(), PruningSchedule(sparsity=0.5, end_step=2, layers=["other"]), epochs=1)
