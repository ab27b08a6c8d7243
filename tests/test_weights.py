"""Weights by variable path: exact round trips, and files that do not fit are refused by name."""

import keras
import numpy as np
import pytest

from nhn_tf.models import weights
from nhn_tf.storage import files


def model(*, units=3, names=("a", "b"), dropout=0.5):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(units, name=names[0])(inputs)
    x = keras.layers.Dropout(dropout, seed=7, name="drop")(x)
    return keras.Model(inputs, keras.layers.Dense(units, name=names[1])(x), name="model")


def test_paths_name_every_variable_once():
    assert sorted(weights.variables_by_path(model())) == [
        "a/bias", "a/kernel", "b/bias", "b/kernel", "drop/seed_generator_state",
    ]  # fmt: skip


def test_paths_do_not_depend_on_what_was_built_before():
    first = list(weights.variables_by_path(model()))
    for _ in range(3):
        keras.layers.Dropout(0.1)
    assert list(weights.variables_by_path(model())) == first


def test_saving_and_loading_restores_weights_and_random_generators(tmp_path):
    source, target = model(), model()
    x = np.ones((2, 4), "float32")
    source(x, training=True)  # advances the dropout's generator
    weights.save(source, tmp_path / "weights.npz")
    weights.load(target, tmp_path / "weights.npz")
    for path, value in weights.to_arrays(source).items():
        np.testing.assert_array_equal(value, weights.to_arrays(target)[path])
    again, expected = (keras.ops.convert_to_numpy(m(x, training=True)) for m in (target, source))
    np.testing.assert_array_equal(again, expected)


def test_layers_in_another_order_get_their_own_weights(tmp_path):
    source, target = model(units=4), model(units=4, names=("b", "a"))
    weights.save(source, tmp_path / "weights.npz")
    weights.load(target, tmp_path / "weights.npz")
    np.testing.assert_array_equal(target.get_layer("a").get_weights()[0], source.get_layer("a").get_weights()[0])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"names": ("a", "c")}, r"missing: b/bias, b/kernel; unexpected: c/bias, c/kernel"),
        ({"units": 2}, r"misshapen: a/bias \(2,\) for \(3,\), a/kernel \(4, 2\) for \(4, 3\)"),
        ({"dropout": 0.0}, r"missing: drop/seed_generator_state"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(tmp_path, other, message):
    weights.save(model(**other), tmp_path / "weights.npz")
    target = model()
    before = weights.to_arrays(target)
    with pytest.raises(ValueError, match=message) as error:
        weights.load(target, tmp_path / "weights.npz")
    assert "weights.npz" in str(error.value)
    for path, value in weights.to_arrays(target).items():
        np.testing.assert_array_equal(value, before[path])


def test_long_lists_of_faults_are_abridged():
    with pytest.raises(ValueError, match=r"unexpected: 0, 1, 2, 3, 4 and 3 more\."):
        weights.from_arrays(model(), {**weights.to_arrays(model()), **{str(i): np.zeros(1) for i in range(8)}})


def test_a_truncated_file_is_reported_as_damaged(tmp_path):
    path = tmp_path / "weights.npz"
    weights.save(model(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(files.DamagedFileError, match=r"weights\.npz"):
        weights.load(model(), path)


def test_transfer_loads_what_fits_and_says_what_did_not():
    source = weights.to_arrays(model(names=("a", "c"), dropout=0.0))
    source["a/bias"] = np.zeros(7, "float32")
    target = model()
    before = weights.to_arrays(target)
    report = weights.transfer(source, target)
    assert report.loaded == ("a/kernel",)
    assert report.missing == ("a/bias", "b/bias", "b/kernel", "drop/seed_generator_state")
    assert report.unused == ("a/bias", "c/bias", "c/kernel")
    after = weights.to_arrays(target)
    np.testing.assert_array_equal(after["a/kernel"], source["a/kernel"])
    np.testing.assert_array_equal(after["b/kernel"], before["b/kernel"])


def test_arrays_are_copies():
    of = model()
    arrays = weights.to_arrays(of)
    arrays["a/kernel"][:] = 9
    assert not (weights.to_arrays(of)["a/kernel"] == 9).any()


def test_two_variables_of_one_path_are_refused():
    inner = [keras.layers.Dense(2, name="same") for _ in range(2)]

    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def build(self, shape):
            for layer in self.inner:
                layer.build((None, 4))

    twins = Twins()
    twins.build((None, 4))
    with pytest.raises(ValueError, match="must be unique"):
        weights.variables_by_path(twins)
