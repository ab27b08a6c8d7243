"""The peer of the supernet's benchmark computes what ours does, and takes the same steps."""

import keras
import numpy as np
import pytest
from keras import ops

from nhn_tf import training
from nhn_tf.models import MacroSupernet, tile_genes
from nhn_tf.settings import GradientConfig
from nhn_tf.training import optimizers
from nhn_tf.values.space import Space
from tests.snippets import ROOT

SPACE = Space(num_layers=6, num_segments=3)
# Every op once; two skips from the stem, one across both transitions.
GENES = np.array([0, 5, 3, 1, 4, 2, *(1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0)], np.int32)
pytestmark = pytest.mark.slow

CONFIG = GradientConfig(l2=0.05, clip_norm=0.5)


@pytest.fixture
def sides(monkeypatch):
    """Our supernet with moving statistics of its own, PyTorch's with a copy of its weights, and a batch."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pytorch_supernet

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    ours = MacroSupernet(SPACE, input_shape=(8, 8, 3), num_classes=10, filters=5)
    training.compile_classifier(ours, optimizers.nesterov(CONFIG, 0.05))
    for variable in ours.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    images = rng.standard_normal((16, 8, 8, 3)).astype(np.float32)
    return ours, pytorch_supernet.Trainer(ours, CONFIG, 0.05), images, rng.integers(10, size=16)


def test_its_logits_equal_ours_on_copied_weights(sides):
    ours, theirs, images, labels = sides
    for genes in (GENES, *SPACE.sample(np.random.default_rng(1), 3)):
        logits = ours.predict_on_batch({"images": images, "genes": tile_genes(genes, 16)})
        np.testing.assert_allclose(theirs.predict(images, genes), logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
        assert theirs.accuracy(images, labels, genes) == ours.accuracy(genes, images, labels)


def test_its_steps_leave_the_weights_that_ours_leave(sides):
    ours, theirs, images, labels = sides
    for genes in (GENES, GENES, *SPACE.sample(np.random.default_rng(1), 1)):
        loss = ours.train_on_batch({"images": images, "genes": tile_genes(genes, 16)}, labels)
        assert theirs.step(images, labels, genes) == pytest.approx(float(np.ravel(loss)[0]), rel=1e-4)
    trained = {id(parameter) for parameter in theirs.parameters}
    compared = 0
    for tensor, array, axes in theirs.model.pairs(ours):
        if id(tensor) in trained:  # PyTorch's moving variances are of the unbiased kind
            values = ops.convert_to_numpy(array).transpose(axes)
            np.testing.assert_allclose(tensor.detach().numpy(), values, rtol=1e-3, atol=2e-5)
            compared += 1
    assert compared == len(trained)
