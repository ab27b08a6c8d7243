"""Architectures taken out of the supernet: they compute the same, and load with Keras alone."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from nhn_tf.models import MacroSupernet
from nhn_tf.models.extract import extract
from nhn_tf.models.superset import tile_genes
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import OP_NAMES, Space

SPACE = Space(num_layers=6, num_segments=2)


@pytest.fixture(scope="module")
def supernet():
    """A supernet whose moving averages are not those of the start."""
    keras.utils.set_random_seed(0)
    made = MacroSupernet(SPACE, input_shape=(8, 8, 3), num_classes=3, filters=5, dropout=0.25)
    rng = np.random.default_rng(1)
    for variable in made.variables:
        if variable.path.endswith(("moving_mean", "moving_variance", "gamma", "beta")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return made


@pytest.mark.jax_slow
def test_every_op_and_skip_computes_what_the_supernet_does(supernet):
    images = np.random.default_rng(2).normal(size=(4, 8, 8, 3)).astype(np.float32)
    ops = [OP_NAMES, OP_NAMES[::-1]]
    skips = [((), (), (0, 1), (), (2, 3), (0,)), ((), (0,), (), (0, 1, 2), (), (1, 4))]
    for genotype in (Genotype(SPACE, o, s) for o, s in zip(ops, skips, strict=True)):
        expected = supernet.predict_on_batch({"images": images, "genes": tile_genes(genotype.genes(), 4)})
        found = keras.ops.convert_to_numpy(extract(supernet, genotype)(images, training=False))
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_what_is_extracted_names_no_class_of_this_package(supernet):
    model = extract(supernet, Genotype(SPACE, OP_NAMES, ((), (), (0,), (1,), (), (2,))))
    assert "nhn_tf" not in model.to_json()
    assert not {id(v) for v in model.variables} & {id(v) for v in supernet.variables}


@pytest.mark.slow
def test_what_is_extracted_loads_and_trains_without_this_package(supernet, tmp_path):
    model = extract(supernet, Genotype(SPACE, OP_NAMES, ((), (), (0,), (1,), (), (2,))))
    model.save(tmp_path / "found.keras")
    code = """
import sys, keras, numpy as np
model = keras.models.load_model("found.keras")
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
before = model.predict_on_batch(np.ones((2, 8, 8, 3)))
np.save("logits.npy", before)
model.train_on_batch(np.ones((2, 8, 8, 3)), np.zeros(2))
assert not np.array_equal(model.predict_on_batch(np.ones((2, 8, 8, 3))), before)
assert not [name for name in sys.modules if name.startswith("nhn_tf")]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), model.predict_on_batch(np.ones((2, 8, 8, 3))), rtol=1e-4, atol=1e-4
    )
