"""The supernets of the location-direction search: a frozen network and add-on neurons that are chosen by genes.

`LocationSupernet` holds an add-on for every source, layer and kernel size; the genes are a location code.
`DirectionSupernet` holds the add-ons of given locations, with several masks each; the gene is the mask's number.

Letters: B batch, H W spatial, C channels, L layers, G genes, n directions.
Source: paper, section 2.3, "Weight sharing in add-on search".
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nhn_tf.layers import AddOnChoice, BatchNorm, DirectedConv2D, Frozen, SmoothInit
from nhn_tf.models import network, weights
from nhn_tf.models.superset import Superset
from nhn_tf.values import names
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Addon, Genotype
from nhn_tf.values.locations import KERNEL_SIZES, NONE, LocationSpace
from nhn_tf.values.masks import Masks


class AddonSupernet(Superset):
    """A frozen network with add-ons: the part that both supernets share.

    The network is that of `network.build`, with the same variable paths. It is in inference mode throughout, gets no
    gradient and no optimizer slots, and no part of it is passed backwards below which no add-on is active. Only
    add-ons learn.

    Args:
      genotype: the network with its masks, and the add-ons where they are given.
      input_shape: (H, W, C) of the images.
      num_classes: of the logits.
      gene_length: G.
      form: as for `network.build`.
    """

    def __init__(
        self,
        genotype: Genotype,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        gene_length: int,
        form: Form = Form(),
        **kwargs: Any,
    ):
        super().__init__(input_shape=input_shape, num_classes=num_classes, gene_length=gene_length, **kwargs)
        self.genotype = genotype
        self.form = form
        self.frozen: list[Frozen] = []
        images = keras.Input(self.image_shape, name="images")
        genes = keras.Input((gene_length,), dtype="int32", name="genes")
        logits = network.wire(
            genotype,
            images,
            num_classes=num_classes,
            form=form,
            apply=lambda reads, part, *inputs: self._freeze(part, inputs, self.is_active(genes[0], reads)),
            join=lambda layer, x, sources: self.join(layer, x, sources, genes[0]),
        )
        self.network = keras.Model({"images": images, "genes": genes}, logits)
        layers = (layer for frozen in self.frozen for layer in frozen.network.layers)
        network.set_masks(layers, genotype.without_addons())
        self.build()

    @abc.abstractmethod
    def is_active(self, genes: Any, layer: int) -> Any:
        """Whether an add-on joins one of the layers up to `layer`: bool, or a bool scalar computed from genes [G]."""

    @abc.abstractmethod
    def join(self, layer: int, x: Any, sources: Sequence[Any], genes: Any) -> Any:
        """x [B, H, W, C], the output of a layer, with its add-ons; `sources` as in `network.Join`."""

    @abc.abstractmethod
    def addon_arrays(self, genotype: Genotype) -> dict[str, np.ndarray]:
        """The weights of a genotype's add-ons by their paths in `network.build(genotype)`."""

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def forward(self, images: Any, genes: Any, *, training: bool) -> Any:
        return self.network({"images": images, "genes": genes[None]}, training=training)

    @property
    def base_variables(self) -> dict[str, keras.Variable]:
        """The frozen network's variables, by their paths in `network.build`."""
        return {
            path: variable
            for frozen in self.frozen
            for path, variable in weights.variables_by_path(frozen.network).items()
        }

    @property
    def addon_variables(self) -> dict[str, keras.Variable]:
        """All other variables, those that the search changes, by path."""
        base = self.base_variables
        return {path: variable for path, variable in weights.variables_by_path(self).items() if path not in base}

    def load_base(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets the frozen network's variables from arrays by path; others in `arrays` are left aside.

        Raises:
          ValueError: one is missing or misshapen. The network is left as it was.
        """
        variables = self.base_variables
        weights.assign(variables, {path: arrays[path] for path in variables if path in arrays})

    def network_arrays(self, genotype: Genotype) -> dict[str, np.ndarray]:
        """Every variable of `network.build(genotype)` as it is here, by path; the genotype's add-ons must be ours."""
        base = {path: np.array(ops.convert_to_numpy(v)) for path, v in self.base_variables.items()}
        return {**base, **self.addon_arrays(genotype)}

    def _freeze(self, part: Callable[..., Any], inputs: Sequence[Any], needed: Any) -> Any:
        """Applies a part of the network as a frozen model of its own."""
        placeholders = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
        frozen = Frozen(keras.Model(placeholders, part(*placeholders)), name=f"frozen{len(self.frozen)}")
        self.frozen.append(frozen)
        return frozen(list(inputs), needed=needed)

    def get_config(self) -> dict[str, Any]:
        # Masks are weights here and come back with the others; that they are, and of what shape, must be known before.
        masks: Mapping[str, np.ndarray] = self.genotype.masks or {}
        return {
            **super().get_config(),
            "genotype": dataclasses.replace(self.genotype, masks=None).to_json(),
            "masks": {name: list(mask.shape) for name, mask in masks.items()},
            "input_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "form": self.form.to_json(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> AddonSupernet:
        genotype, form = Genotype.from_json(config["genotype"]), Form(**config["form"])
        whole = Masks({name: np.ones(shape, bool) for name, shape in config.get("masks", {}).items()})
        rest = {name: value for name, value in config.items() if name != "masks"}
        return cls(**{**rest, "genotype": dataclasses.replace(genotype, masks=whole or None), "form": form})


@keras.saving.register_keras_serializable("nhn_tf")
class LocationSupernet(AddonSupernet):
    """Every add-on at every location, dense; the genes are a code of `LocationSpace`, one source for each (k, layer).

    Args:
      genotype: the network, without add-ons.
      **kwargs: of `AddonSupernet`, except `gene_length`.

    Raises:
      ValueError: the network has add-ons already.
    """

    def __init__(self, genotype: Genotype, *, name: str = "location_supernet", **kwargs: Any):
        if genotype.addons:
            raise ValueError(f"the searched network must have no add-ons yet. Received: {genotype.addons}.")
        self.locations = LocationSpace(genotype.space)
        super().__init__(genotype, gene_length=self.locations.gene_length, name=name, **kwargs)

    def check_genes(self, genes: Any) -> np.ndarray:
        return self.locations.check_genes(genes)

    def is_active(self, genes: Any, layer: int) -> Any:
        if layer < 0:
            return False
        read = [self.locations.gene_index(target, size) for size in KERNEL_SIZES for target in range(layer + 1)]
        return ops.any(ops.take(genes, np.array(read, np.int32), axis=0) != NONE)

    def join(self, layer: int, x: Any, sources: Sequence[Any], genes: Any) -> Any:
        for size in KERNEL_SIZES:
            name = names.addon_choice(layer, size)
            choose = AddOnChoice(len(sources), size, smooth_init=self.form.smooth_init, name=name)
            x = choose(x, list(sources), genes[self.locations.gene_index(layer, size)])
        return x

    def addon_arrays(self, genotype: Genotype) -> dict[str, np.ndarray]:
        arrays = {}
        for number, addon in enumerate(genotype.addons):
            choice = self.network.get_layer(names.addon_choice(addon.target, addon.kernel_size))
            kernel = ops.convert_to_numpy(choice.kernels[addon.source])
            conv, bn = names.addon(number, "conv"), names.addon(number, "bn")
            arrays[f"{conv}/kernel"] = np.array(kernel)
            arrays[f"{conv}/mask"] = np.ones(kernel.shape[2:], np.float32)
            for name in ("gamma", "beta", "moving_mean", "moving_variance"):
                stack = ops.convert_to_numpy(getattr(choice.bn, name))
                arrays[f"{bn}/{name}"] = np.array(stack[addon.source])
        return arrays


@keras.saving.register_keras_serializable("nhn_tf")
class DirectionSupernet(AddonSupernet):
    """The add-ons of given locations, each with n masks over its connections; the one gene is the mask's number.

    All masks of a population stand in the supernet at once (`set_directions`), so that choosing another costs nothing.
    The add-ons have the variable paths of `network.build`.

    Args:
      genotype: the network with at least one add-on.
      directions: n.
      **kwargs: of `AddonSupernet`, except `gene_length`.

    Raises:
      ValueError: there is no add-on.
    """

    def __init__(self, genotype: Genotype, *, directions: int, name: str = "direction_supernet", **kwargs: Any):
        if not genotype.addons:
            raise ValueError("a direction search needs add-on locations. Received: a genotype without add-ons.")
        self.directions = directions
        super().__init__(genotype, gene_length=1, name=name, **kwargs)

    def check_genes(self, genes: Any) -> np.ndarray:
        genes = np.asarray(genes)
        legal = genes.shape == (1,) and np.issubdtype(genes.dtype, np.integer) and 0 <= genes[0] < self.directions
        if not legal:
            raise ValueError(f"the gene must be one direction of 0..{self.directions - 1}. Received: {genes.tolist()}.")
        return genes.astype(np.int32)

    def is_active(self, genes: Any, layer: int) -> bool:
        return any(addon.target <= layer for addon in self.genotype.addons)

    def join(self, layer: int, x: Any, sources: Sequence[Any], genes: Any) -> Any:
        for number, addon in enumerate(self.genotype.addons):
            if addon.target == layer:
                y = self._convolution(number, addon, x.shape[-1])(sources[addon.source], genes[0])
                # As in AddOnChoice: fresh add-ons change nothing.
                y = BatchNorm(gamma_initializer="zeros", name=names.addon(number, "bn"))(y)
                x = keras.layers.Add(name=names.addon(number, "add"))([x, y])
        return x

    def _convolution(self, number: int, addon: Addon, channels: int) -> DirectedConv2D:
        return DirectedConv2D(
            channels,
            addon.kernel_size,
            directions=self.directions,
            padding="same",
            kernel_initializer=SmoothInit("he_normal") if self.form.smooth_init else "he_normal",
            name=names.addon(number, "conv"),
        )

    @property
    def kernels(self) -> dict[str, np.ndarray]:
        """The add-ons' whole kernels [k, k, C, C] by layer name, whatever the masks."""
        convolutions = [names.addon(number, "conv") for number in range(len(self.genotype.addons))]
        return {name: np.array(ops.convert_to_numpy(self.network.get_layer(name).kernel)) for name in convolutions}

    def set_directions(self, directions: Mapping[str, np.ndarray]) -> None:
        """Sets the masks, bool [n, C, C] by layer name."""
        for name, masks in directions.items():
            self.network.get_layer(name).set_masks(masks)

    def load_addons(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes over the add-ons' weights from `arrays` by path, as `LocationSupernet.network_arrays` gives them.

        Raises:
          ValueError: one is missing or misshapen. The add-ons are left as they were.
        """
        variables = {path: v for path, v in self.addon_variables.items() if not path.endswith("/masks")}
        weights.assign(variables, {path: arrays[path] for path in variables if path in arrays})

    def addon_arrays(self, genotype: Genotype) -> dict[str, np.ndarray]:
        arrays = {
            path: np.array(ops.convert_to_numpy(variable))
            for path, variable in self.addon_variables.items()
            if not path.endswith("/masks")
        }
        for name, kernel in self.kernels.items():
            mask = np.ones(kernel.shape[2:], bool) if genotype.masks is None else genotype.masks[name]
            arrays[f"{name}/kernel"] = kernel * mask
            arrays[f"{name}/mask"] = mask.astype(np.float32)
        return arrays

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "directions": self.directions}
