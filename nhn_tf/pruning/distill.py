"""Learning from the unpruned model: its answers are softer targets than labels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from nhn_tf.pruning.api import copied


@keras.saving.register_keras_serializable("nhn_tf")
class Distiller(keras.Model):
    """Trains a student by labels and by a teacher's answers (Hinton et al. 2015).

    The loss is `(1 - weight) * loss(y, student) + weight * temperature^2 * KL(teacher || student)`, where both answers
    are divided by the temperature before the softmax; `loss` is the one that `compile` is given. Weights of samples
    count for both. Metrics are the student's, and `evaluate` and `predict` are the student's alone.

    Args:
      student: to be trained, such as what `prune` returns; `PruningSchedule` prunes it.
      teacher: of the same outputs, such as the unpruned model. A copy is used: it is not changed.
      temperature: of both softmaxes, above 0.
      weight: of the teacher, in [0, 1].
      from_logits: whether the models answer logits; else probabilities.

    Raises:
      ValueError: models of several outputs or of different ones, or values out of range.

    Example:
      pruned = nhn_tf.pruning.prune(model, sparsity=0.85)
      distiller = nhn_tf.pruning.Distiller(pruned, model)
      distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
      distiller.fit(x, y, epochs=10)
      small = nhn_tf.pruning.compact(pruned)
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        *,
        temperature: float = 4.0,
        weight: float = 0.5,
        from_logits: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if len(student.outputs) != 1 or [t.shape for t in student.outputs] != [t.shape for t in teacher.outputs]:
            raise ValueError(
                "student and teacher must have one output, of the same shape. "
                f"Received: {[t.shape for t in student.outputs]} and {[t.shape for t in teacher.outputs]}."
            )
        if not temperature > 0 or not 0 <= weight <= 1:
            raise ValueError(
                f"`temperature` must be above 0 and `weight` in [0, 1]. Received: {temperature} and {weight}."
            )
        self.student = student
        self.teacher = copied(teacher)
        self.teacher.trainable = False
        self.temperature, self.weight, self.from_logits = temperature, weight, from_logits
        self.built = True

    def get_config(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "weight": self.weight, "from_logits": self.from_logits}
        models = {"student": self.student, "teacher": self.teacher}
        serialized = {name: keras.saving.serialize_keras_object(model) for name, model in models.items()}
        return {"name": self.name, "trainable": self.trainable, **own, **serialized}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Distiller:
        models = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("student", "teacher")
        }
        return cls(**{**config, **models})

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.student(inputs, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        labels = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return labels
        softened = (self._soft(ops.stop_gradient(self.teacher(x, training=False))), self._soft(y_pred))
        teacher, student = (ops.log_softmax(logits, axis=-1) for logits in softened)
        divergence = _Divergence(name="divergence")(teacher, student, sample_weight)
        return (1 - self.weight) * labels + self.weight * self.temperature**2 * divergence

    def _soft(self, outputs: Any) -> Any:
        """Logits divided by the temperature, float32."""
        outputs = ops.cast(outputs, "float32")
        logits = outputs if self.from_logits else ops.log(ops.maximum(outputs, keras.config.epsilon()))
        return logits / self.temperature


class _Divergence(keras.losses.Loss):
    """KL(teacher || student) of the logarithms of probabilities, [B, ..., classes]; Keras weights and averages it.

    It needs a name: Keras would make one of the class's that TensorFlow takes for no scope.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.sum(ops.exp(y_true) * (y_true - y_pred), axis=-1)
