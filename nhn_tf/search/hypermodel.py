"""A macro space as Keras Tuner's own tuners search it: each trial builds a network and trains it by itself.

Keras Tuner need not be installed for this file: it calls what it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from nhn_tf import training
from nhn_tf.models import network
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space


class NHNHyperModel:
    """The networks of a macro space, for `hypermodel` of Keras Tuner's tuners.

    Hyperparameters: each layer's op and each of its skips, called as in `Searcher.get_best_hyperparameters`, and the
    learning rate. What `EnasSearch` finds with shared weights costs a whole training for each trial here.

    Args:
      space: the architectures.
      input_shape: (H, W, C) of the images.
      num_classes: of the labels, int [N].
      form: of the networks.

    Example:

        tuner = keras_tuner.RandomSearch(NHNHyperModel(space, input_shape=(32, 32, 3), num_classes=10), "val_accuracy")
        tuner.search(x, y, epochs=5, validation_data=(x_val, y_val))
    """

    def __init__(self, space: Space, *, input_shape: Sequence[int], num_classes: int, form: Form = Form()):
        self.space = space
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.form = form

    def genotype(self, hp: Any) -> Genotype:
        """The architecture of a `keras_tuner.HyperParameters`."""
        layers = range(self.space.num_layers)
        ops = tuple(hp.Choice(f"layer{layer}_op", list(self.space.ops)) for layer in layers)
        skips = tuple(tuple(i for i in range(layer) if hp.Boolean(f"layer{layer}_skip{i}")) for layer in layers)
        return Genotype(self.space, ops, skips)

    def __call__(self, hp: Any) -> keras.Model:
        """A compiled network of logits [B, classes], with new weights."""
        model = network.build(
            self.genotype(hp), input_shape=self.input_shape, num_classes=self.num_classes, form=self.form
        )
        rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log", default=1e-2)
        training.compile_classifier(model, keras.optimizers.SGD(rate, momentum=0.9, nesterov=True))
        return model
