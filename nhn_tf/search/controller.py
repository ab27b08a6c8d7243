"""The ENAS controller: an LSTM that writes architectures gene by gene and learns from their rewards.

Letters: n architectures, G genes, L layers, U units of the LSTM, k a layer's index (and how many skip bits it has).
Source: ENAS (Pham et al. 2018), sections 2.1-2.3 and the released macro search; NHN paper, section 2.1.

Keras has no sampling loop with a gradient, and none is needed. Two models share one `Policy` layer: `PolicySampler`
turns uniform noise into genes, `PolicyLikelihood` gives the log-probability of genes that are already there, and
REINFORCE is an ordinary `train_on_batch` of the latter with the advantages as targets. All randomness is the noise,
drawn with NumPy outside, so the controller holds no random state.

Where the ENAS paper and its release differ or are silent, see "Controller" in docs/decisions.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from nhn_tf.layers import backend
from nhn_tf.models import weights
from nhn_tf.settings import EnasConfig
from nhn_tf.values.randomness import Stream, generator
from nhn_tf.values.space import Space

INIT_RANGE = 0.1  # weights start uniform in [-INIT_RANGE, INIT_RANGE]
SAMPLER_BATCH = 64  # architectures drawn in one call; always as many, so that the sampler compiles once


@keras.saving.register_keras_serializable(package="nhn_tf")
class Policy(keras.layers.Layer):
    """A distribution over the architectures of a space, written down gene by gene by one LSTM.

    For each layer in turn: one step gives the op's logits; a second step, on the chosen op's embedding, gives the
    layer's *anchor*; each skip bit is decided by attention between that anchor and an earlier layer's. The next step
    reads the sum of the chosen anchors over one plus their number. The first steps of layers 0 and 1, which have no
    such input, read a learned start vector.

    Args:
      space: the architectures to distribute over.
      units: U, the width of the LSTM, the embeddings and the attention.
      tanh_constant: every logit becomes `tanh_constant * tanh(logit / temperature)`.
      temperature: divides the logits; 0 leaves them as they are.
      seed: of the initial weights.

    Input shape:
      `[n, G]`: genes (int) when `forced`, else noise (float, uniform in [0, 1)).

    Output shape:
      A dict of `genes` int32 `[n, G]` and float32 `[n]` each: `log_prob`, `entropy` (summed over the decisions, in
      nats) and `skip_log_odds`, float32 `[n, G - L]`.

    Reference:
      - [Efficient Neural Architecture Search via Parameter Sharing](https://arxiv.org/abs/1802.03268)
    """

    def __init__(
        self,
        space: Space,
        *,
        units: int,
        tanh_constant: float,
        temperature: float,
        seed: int,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")  # tiny, and log-probabilities do not survive a mixed policy
        super().__init__(**kwargs)
        self.space = space
        self.units = units
        self.tanh_constant = tanh_constant
        self.temperature = temperature
        self.seed = seed

        rng = generator(seed, Stream.CONTROLLER_INIT)

        def uniform() -> keras.initializers.Initializer:
            return keras.initializers.RandomUniform(-INIT_RANGE, INIT_RANGE, seed=int(rng.integers(2**31)))

        def projection(width: int, name: str) -> keras.layers.Dense:
            return keras.layers.Dense(
                width, use_bias=False, kernel_initializer=uniform(), dtype=self.dtype_policy, name=name
            )

        self._start_initializer = uniform()
        self.cell = keras.layers.LSTMCell(
            units,
            use_bias=False,
            kernel_initializer=uniform(),
            recurrent_initializer=uniform(),
            dtype=self.dtype_policy,
            name="lstm",
        )
        self.op_embedding = keras.layers.Embedding(
            len(space.ops),
            units,
            embeddings_initializer=uniform(),
            dtype=self.dtype_policy,
            name="op_embedding",
        )
        self.op_logits = projection(len(space.ops), "op_logits")
        self.anchor_key = projection(units, "anchor_key")
        self.anchor_query = projection(units, "anchor_query")
        self.skip_logit = projection(1, "skip_logit")

    def build(self, input_shape: Any = None) -> None:
        self.start = self.add_weight(shape=(1, self.units), initializer=self._start_initializer, name="start")
        self.cell.build((None, self.units))
        self.op_logits.build((None, self.units))
        if self.space.num_layers == 1:  # a single decision: nothing reads the rest
            return
        self.op_embedding.build((None,))
        self.anchor_key.build((None, self.units))
        self.anchor_query.build((None, self.units))
        self.skip_logit.build((None, None, self.units))

    def call(self, values: Any, *, forced: bool) -> dict[str, Any]:
        """Writes the architectures that noise decides (`forced=False`), or rereads given ones (`forced=True`)."""
        n = ops.shape(values)[0]
        start = ops.broadcast_to(self.start, (n, self.units))
        state = [ops.zeros((n, self.units)), ops.zeros((n, self.units))]
        inputs = start
        anchors: list[Any] = []  # k times [n, U]
        keys: list[Any] = []  # the anchors, projected once: k times [n, U]
        op_genes, skip_genes, log_odds = [], [], []
        log_prob = ops.zeros((n,))
        entropy = ops.zeros((n,))
        for layer in range(self.space.num_layers):
            hidden, state = self.cell(inputs, state)
            log_probs = ops.log_softmax(self._squash(self.op_logits(hidden)))  # [n, ops]
            op = _choose_op(log_probs, values[:, layer], forced)
            op_genes.append(op)
            chosen = ops.one_hot(op, len(self.space.ops), dtype="float32")
            log_prob += ops.sum(chosen * log_probs, axis=-1)
            entropy -= ops.sum(ops.exp(log_probs) * log_probs, axis=-1)
            if self.space.num_layers == 1:
                break

            # As a product, not looked up: a lookup's gradient is sparse, and Keras's Adam does not sum the rows that
            # TensorFlow gives twice.
            anchor, state = self.cell(ops.matmul(chosen, self.op_embedding.embeddings), state)
            inputs = start
            if layer > 0:
                query = self.anchor_query(anchor)[:, None, :]
                logit = self.skip_logit(ops.tanh(ops.stack(keys, axis=1) + query))[:, :, 0]  # [n, k]
                # ENAS draws each bit from the softmax of (-l, l): log-odds 2 l.
                odds = 2.0 * self._squash(logit)
                skips = _choose_skips(odds, values[:, self.space.skip_slice(layer)], forced)  # float [n, k]
                skip_genes.append(ops.cast(skips, "int32"))
                log_odds.append(odds)
                log_prob += ops.sum(skips * odds - ops.softplus(odds), axis=-1)
                entropy += ops.sum(ops.softplus(odds) - ops.sigmoid(odds) * odds, axis=-1)
                joined = ops.sum(skips[:, :, None] * ops.stack(anchors, axis=1), axis=1)  # [n, U]
                inputs = joined / (1.0 + ops.sum(skips, axis=-1, keepdims=True))
            anchors.append(anchor)
            keys.append(self.anchor_key(anchor))
        return {
            "genes": ops.concatenate([ops.stack(op_genes, axis=1), *skip_genes], axis=1),
            "log_prob": log_prob,
            "entropy": entropy,
            "skip_log_odds": ops.concatenate(log_odds, axis=1) if log_odds else ops.zeros((n, 0)),
        }

    def _squash(self, logits: Any) -> Any:
        if self.temperature:
            logits = logits / self.temperature
        return self.tanh_constant * ops.tanh(logits)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "space": self.space.to_json(),
            "units": self.units,
            "tanh_constant": self.tanh_constant,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Policy:
        config = dict(config)
        return cls(Space.from_json(config.pop("space")), **config)


def _choose_op(log_probs: Any, column: Any, forced: bool) -> Any:
    """The op of a layer, int32 [n]: the given one, or where the noise falls among the cumulated probabilities."""
    if forced:
        return ops.cast(column, "int32")
    below = ops.cumsum(ops.exp(log_probs), axis=-1)[:, :-1]
    return ops.sum(ops.cast(below <= column[:, None], "int32"), axis=-1)


def _choose_skips(log_odds: Any, columns: Any, forced: bool) -> Any:
    """The skip bits of a layer as float32 [n, k]: the given ones, or those whose noise is below their probability."""
    return ops.cast(columns if forced else columns < ops.sigmoid(log_odds), "float32")


def skip_divergence(log_odds: Any, target: float) -> Any:
    """How far the skip probabilities are from the target rate, in nats.

    Args:
      log_odds: float [n, G - L] of every skip bit.
      target: rate in (0, 1).

    Returns:
      float32 [n]: KL(bit || Bernoulli(target)), summed over a layer's bits, averaged over the L - 1 layers that have
      any (as in ENAS's release). 0 exactly when every bit has the target rate.
    """
    num_bits = log_odds.shape[-1]
    if num_bits == 0:
        return ops.zeros((ops.shape(log_odds)[0],))
    num_layers = (math.isqrt(8 * num_bits + 1) - 1) // 2  # 1 + 2 + ... + num_layers bits
    p = ops.sigmoid(log_odds)
    on = p * (ops.log_sigmoid(log_odds) - math.log(target))
    off = (1.0 - p) * (ops.log_sigmoid(-log_odds) - math.log1p(-target))
    return ops.sum(on + off, axis=-1) / num_layers


class PolicySampler(keras.Model):
    """Architectures of a policy from noise: float [n, G], uniform in [0, 1), to what `Policy` returns."""

    def __init__(self, policy: Policy, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)  # a mixed policy would round the noise
        self.policy = policy

    def call(self, noise: Any) -> dict[str, Any]:
        return self.policy(noise, forced=False)


class PolicyLikelihood(keras.Model):
    """Log-probability, entropy and skip divergence of given architectures, trained by REINFORCE.

    Args:
      policy: the shared layer.
      entropy_weight: of the entropy bonus in the loss.
      skip_target: the skip rate that costs nothing.
      skip_weight: of the divergence from that rate in the loss.

    Input shape:
      genes, int `[n, G]`; as targets, advantages, float `[n]`.

    Output shape:
      A dict of `log_prob`, `entropy`, `skip_kl`, float32 `[n]` each.
    """

    def __init__(
        self, policy: Policy, *, entropy_weight: float, skip_target: float, skip_weight: float, **kwargs: Any
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.policy = policy
        self.entropy_weight = entropy_weight
        self.skip_target = skip_target
        self.skip_weight = skip_weight
        self.entropy_tracker = keras.metrics.Mean(name="entropy")
        self.skip_kl_tracker = keras.metrics.Mean(name="skip_kl")

    def call(self, genes: Any) -> dict[str, Any]:
        outputs = self.policy(genes, forced=True)
        return {
            "log_prob": outputs["log_prob"],
            "entropy": outputs["entropy"],
            "skip_kl": skip_divergence(outputs["skip_log_odds"], self.skip_target),
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Mean over the architectures of -advantage * log_prob - entropy_weight * entropy + skip_weight * skip_kl."""
        del x, sample_weight, training
        self.entropy_tracker.update_state(y_pred["entropy"])
        self.skip_kl_tracker.update_state(y_pred["skip_kl"])
        loss = (
            -ops.cast(y, "float32") * y_pred["log_prob"]
            - self.entropy_weight * y_pred["entropy"]
            + self.skip_weight * y_pred["skip_kl"]
        )
        return ops.mean(loss)


class Controller:
    """Samples architectures and learns from their rewards (REINFORCE with a moving-average baseline).

    Args:
      space: the architectures to choose among.
      config: the search's settings; those of the controller are read. `config.space` is not.
      seed: of the initial weights.

    Attributes:
      baseline: moving average of the rewards; `None` before the first one.
    """

    def __init__(self, space: Space, config: EnasConfig, *, seed: int = 0) -> None:
        self.space = space
        self.baseline_decay = config.baseline_decay
        self.baseline: float | None = None

        jit_compile = backend.default_jit_compile()
        policy = Policy(
            space,
            units=config.controller_units,
            tanh_constant=config.tanh_constant,
            temperature=config.temperature,
            seed=seed,
            name="controller",
        )
        policy.build()
        self.sampler = PolicySampler(policy, name="controller_sampler")
        self.sampler.compile(jit_compile=jit_compile)
        self.likelihood = PolicyLikelihood(
            policy,
            entropy_weight=config.entropy_weight,
            skip_target=config.skip_target,
            skip_weight=config.skip_weight,
            name="controller_likelihood",
        )
        optimizer = keras.optimizers.Adam(
            config.controller_lr,
            beta_1=config.controller_beta_1,
            epsilon=config.controller_epsilon,
            name="controller_adam",
        )
        self.likelihood.compile(optimizer=optimizer, jit_compile=jit_compile)
        optimizer.build(policy.trainable_variables)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws `count` (at least 1) architectures.

        Returns:
          int32 [count, G].
        """
        calls = -(-count // SAMPLER_BATCH)
        noise = rng.random((calls, SAMPLER_BATCH, self.space.gene_length), dtype=np.float32)
        genes = [self.sampler.predict_on_batch(batch)["genes"] for batch in noise]
        return np.concatenate(genes, dtype=np.int32)[:count]

    def advantages(self, rewards: np.ndarray) -> np.ndarray:
        """What each reward is above the baseline, which then moves towards it.

        The rewards are taken one after the other; the first ever becomes the baseline. An architecture's own reward
        is not part of the baseline it is measured against, so the gradient stays unbiased.

        Args:
          rewards: float [n], finite.

        Returns:
          float32 [n].
        """
        rewards = np.asarray(rewards, np.float64)
        _require_finite("rewards", rewards)
        advantages = np.empty(len(rewards), np.float32)
        for i, reward in enumerate(rewards.tolist()):
            if self.baseline is None:
                self.baseline = reward
            advantages[i] = reward - self.baseline
            self.baseline += (1.0 - self.baseline_decay) * (reward - self.baseline)
        return advantages

    def update(self, genes: np.ndarray, advantages: np.ndarray) -> dict[str, float]:
        """One Adam step on the mean REINFORCE loss of the given architectures.

        Args:
          genes: int32 [n, G], sampled from this controller as it is now.
          advantages: float [n], finite.

        Returns:
          `loss`, `entropy` and `skip_kl`, means over the architectures before the step.
        """
        genes = np.asarray(genes, np.int32)
        advantages = np.asarray(advantages, np.float32)
        if genes.ndim != 2 or genes.shape[1] != self.space.gene_length or advantages.shape != genes.shape[:1]:
            raise ValueError(
                f"`genes` must be [n, {self.space.gene_length}] and `advantages` [n]. "
                f"Received: {list(genes.shape)} and {list(advantages.shape)}."
            )
        _require_finite("advantages", advantages)
        logs = self.likelihood.train_on_batch(genes, advantages, return_dict=True)
        return {name: float(logs[name]) for name in ("loss", "entropy", "skip_kl")}

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Weights and optimizer state by variable path."""
        return {path: np.array(ops.convert_to_numpy(v)) for path, v in self._variables().items()}

    def state_values(self) -> dict[str, Any]:
        """The rest of the state, for JSON."""
        return {"baseline": self.baseline}

    def restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Takes over a state.

        Args:
          arrays: what `state_arrays` returned.
          values: what `state_values` returned.

        Raises:
          ValueError: an array is missing, too many, or of another shape; nothing is changed then.
        """
        weights.assign(self._variables(), arrays)
        self.baseline = values["baseline"]

    def _variables(self) -> dict[str, keras.Variable]:
        """Weights and optimizer state, by path."""
        return {v.path: v for v in [*self.likelihood.policy.weights, *self.likelihood.optimizer.variables]}


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite. Received: {values.tolist()}.")
