"""Networks of a macro space as Keras Tuner's hyperparameters."""

import numpy as np
import pytest

from nhn_tf.search import EnasSearch, NHNHyperModel, Trial
from nhn_tf.settings import EnasConfig
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space
from tests.two_classes import SHAPE

SPACE = Space(num_layers=3, num_segments=1, ops=("conv3x3", "max_pool3x3"))
HYPERMODEL = NHNHyperModel(SPACE, **SHAPE, form=Form(filters=3))


class Chosen:
    """Hyperparameters of given values; it notes what it is asked for."""

    def __init__(self, **values):
        self.values, self.asked = values, {}

    def Choice(self, name, values):
        self.asked[name] = values
        return self.values.get(name, values[0])

    def Boolean(self, name):
        self.asked[name] = [False, True]
        return self.values.get(name, False)

    def Float(self, name, low, high, *, sampling, default):
        self.asked[name] = (low, high)
        return self.values.get(name, default)


def test_hyperparameters_name_every_choice_of_the_space():
    hp = Chosen(layer1_op="max_pool3x3", layer2_skip0=True, learning_rate=0.125)
    genotype = HYPERMODEL.genotype(hp)
    assert genotype.ops == ("conv3x3", "max_pool3x3", "conv3x3")
    assert genotype.skips == ((), (), (0,))
    assert np.prod([len(values) for values in hp.asked.values()]) == SPACE.size()
    model = HYPERMODEL(hp)
    assert model.output_shape == (None, 2)
    assert float(model.optimizer.learning_rate) == 0.125
    assert model.train_on_batch(np.ones((4, 4, 4, 1)), np.zeros(4, int), return_dict=True).keys() == {
        "loss",
        "accuracy",
    }


def test_what_a_search_has_chosen_goes_by_the_same_names():
    searcher = EnasSearch(SPACE, EnasConfig(supernet_filters=4, controller_units=8), **SHAPE)
    found = Genotype(SPACE, ("max_pool3x3", "conv3x3", "conv3x3"), ((), (0,), (1,)))
    searcher.trials = [Trial(found, 1.0, "controller")]
    hp = Chosen(**searcher.get_best_hyperparameters(1)[0])
    assert HYPERMODEL.genotype(hp) == found
    assert hp.values.keys() == hp.asked.keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras Tuner's own
def test_keras_tuner_searches_the_space(tmp_path):
    keras_tuner = pytest.importorskip("keras_tuner")
    x = np.random.default_rng(0).normal(size=(16, 4, 4, 1)).astype(np.float32)
    y = np.arange(16) % 2
    tuner = keras_tuner.RandomSearch(HYPERMODEL, "val_accuracy", max_trials=2, directory=tmp_path, seed=0)
    tuner.search(x, y, epochs=1, validation_data=(x, y), verbose=0)
    best = HYPERMODEL.genotype(tuner.get_best_hyperparameters(1)[0])
    assert best.space == SPACE
    assert tuner.get_best_models(1)[0].predict(x, verbose=0).shape == (16, 2)
