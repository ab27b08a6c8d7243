"""The supernet of ENAS's macro search: all ops and all skips of a space over shared weights.

Letters: B batch, H W spatial, C channels (`filters`, the same in every segment), L layers, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from nhn_tf.layers import BatchNorm, FactorizedReduction, GroupedGlobalPool, MixedOp, SmoothInit, backend, own_op
from nhn_tf.models.superset import Superset
from nhn_tf.values import names
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space, op_named


@keras.saving.register_keras_serializable("nhn_tf")
class MacroSupernet(Superset):
    """Stem, L mixed ops with summed skips, transitions, grouped global pooling, classifier (paper, section 2.1).

    A layer's output is the sum of its op's result and of the outputs its skip bits name, then BN (the first layer has
    no skips and no such BN). At a transition every output that a later layer may read is halved in height and width
    by a factorized reduction and BN.

    Args:
      space: the search space.
      input_shape: (H, W, C) of the images; H and W divisible by 2 for each transition.
      num_classes: of the logits.
      filters: C.
      dropout: share of the classifier's inputs dropped in training.
      smooth_init: smooth the initial k x k kernels (paper, section 2.2).
      use_batch_statistics: normalise by the batch's statistics when not training too.
      static_genes: builds this one architecture as an ordinary graph: only its ops' weights, only the skips it takes
        and the reductions it reads; fed genes are ignored. The yardstick of `benchmarks/supernet_step.py`.
      seed: of the dropout.
    """

    def __init__(
        self,
        space: Space,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        filters: int,
        dropout: float = 0.0,
        smooth_init: bool = True,
        use_batch_statistics: bool = False,
        static_genes: Sequence[int] | None = None,
        seed: int = 0,
        name: str = "macro_supernet",
        **kwargs: Any,
    ):
        super().__init__(
            input_shape=input_shape, num_classes=num_classes, gene_length=space.gene_length, name=name, **kwargs
        )
        self.space = space
        self.filters = filters
        self.dropout_rate = dropout
        self.smooth_init = smooth_init
        self.use_batch_statistics = use_batch_statistics
        self.seed = seed
        for op in map(op_named, space.ops):
            if op.kind == "own":
                own_op.check(op, filters)
        self._static = None if static_genes is None else Genotype.from_genes(space, np.asarray(static_genes))

        kernel = SmoothInit("he_normal") if smooth_init else "he_normal"
        self.stem_conv = keras.layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer=kernel, name=names.STEM_CONV
        )
        self.stem_bn = self._batch_norm(names.STEM_BN)
        self.mixed_ops = [
            MixedOp(
                space.ops if self._static is None else (self._static.ops[layer],),
                filters,
                smooth_init=smooth_init,
                use_batch_statistics=use_batch_statistics,
                name=names.layer(layer, "op"),
            )
            for layer in range(space.num_layers)
        ]
        self.skip_bns = [self._batch_norm(names.layer(layer, "bn")) for layer in range(1, space.num_layers)]
        # For each transition, the reduction of each output (by its number) that is still read after it.
        self.reductions: list[dict[str, FactorizedReduction]] = []
        self.reduction_bns: list[dict[str, BatchNorm]] = []
        for number, layer in enumerate(space.transitions, start=1):
            read = [i for i in range(layer + 2) if self._is_read_after(layer, i)]
            self.reductions.append(
                {str(i): FactorizedReduction(filters, name=names.transition(number, "reduce", i)) for i in read}
            )
            self.reduction_bns.append({str(i): self._batch_norm(names.transition(number, "bn", i)) for i in read})
        self.global_pool = GroupedGlobalPool(name=names.GLOBAL_POOL)
        self.dropout = keras.layers.Dropout(dropout, seed=seed, name=names.DROPOUT)
        # Softmax and loss want float32, whatever the precision of the layers.
        self.logits = keras.layers.Dense(num_classes, dtype="float32", name=names.LOGITS)
        self.build()

    def _batch_norm(self, name: str) -> BatchNorm:
        return BatchNorm(use_batch_statistics=self.use_batch_statistics, name=name)

    def _is_read_after(self, layer: int, output: int) -> bool:
        """Whether a layer above `layer` may read an output: always in the supernet, as its genes say when static."""
        return self._static is None or self._static.is_read_after(layer, output)

    def build(self, input_shape: Any = None) -> None:
        height, width, channels = self.image_shape
        factor = 2 ** len(self.space.transitions)
        if height % factor or width % factor:
            raise ValueError(
                f"height and width must be multiples of {factor} for {self.space.num_segments} segments. "
                f"Received: {self.image_shape}."
            )
        self.stem_conv.build((None, height, width, channels))
        shape = (None, height, width, self.filters)
        self.stem_bn.build(shape)
        for layer, mixed in enumerate(self.mixed_ops):
            mixed.build(shape)
            if layer:
                self.skip_bns[layer - 1].build(shape)
            if layer in self.space.transitions:
                number = self.space.transitions.index(layer)
                for reduction in self.reductions[number].values():
                    reduction.build(shape)
                shape = (None, shape[1] // 2, shape[2] // 2, self.filters)
                for bn in self.reduction_bns[number].values():
                    bn.build(shape)
        self.global_pool.build(shape)
        self.dropout.build((None, self.filters))
        self.logits.build((None, self.filters))
        self.built = True

    def check_genes(self, genes: Any) -> np.ndarray:
        return self.space.check_genes(genes)

    def forward(self, images: Any, genes: Any, *, training: bool) -> Any:
        outputs = [self.stem_bn(self.stem_conv(images), training=training)]
        for layer, mixed in enumerate(self.mixed_ops):
            choice = genes[layer] if self._static is None else None
            y = mixed(outputs[-1], choice=choice, training=training)
            if layer:
                y = self.skip_bns[layer - 1](self._join(y, outputs, genes, layer), training=training)
            outputs.append(y)
            if layer in self.space.transitions:
                outputs = self._halve(outputs, self.space.transitions.index(layer), training=training)
        x = self.dropout(self.global_pool(outputs[-1]), training=training)
        return self.logits(x)

    def _join(self, y: Any, outputs: list[Any], genes: Any, layer: int) -> Any:
        """y plus the outputs that the layer's skip bits name; all [B, H, W, C]."""
        if self._static is not None:
            return sum((outputs[i] for i in self._static.skips[layer]), start=y)
        bits = genes[self.space.skip_slice(layer)]
        for i in range(layer):
            y = backend.add_where(bits[i], y, outputs[i])
        return y

    def _halve(self, outputs: list[Any], number: int, *, training: bool) -> list[Any]:
        """Every output at half the height and width; None where nobody reads it."""
        reductions, bns = self.reductions[number], self.reduction_bns[number]
        return [
            bns[str(i)](reductions[str(i)](output), training=training) if str(i) in reductions else None
            for i, output in enumerate(outputs)
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "space": self.space.to_json(),
            "input_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "filters": self.filters,
            "dropout": self.dropout_rate,
            "smooth_init": self.smooth_init,
            "use_batch_statistics": self.use_batch_statistics,
            "static_genes": None if self._static is None else self._static.genes().tolist(),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> MacroSupernet:
        return cls(**{**config, "space": Space.from_json(config["space"])})
