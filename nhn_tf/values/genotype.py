"""The one value that ties the stages together: what a network is, without its weights.

ENAS search makes the ops and skips, pruning adds masks, location-direction search adds add-ons and their masks; each
stage only adds (`dataclasses.replace`). The same value goes to the report, the export and the sparse runtime.
"""

from __future__ import annotations

import dataclasses
import operator
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from nhn_tf.storage import files
from nhn_tf.values import names
from nhn_tf.values.masks import Masks
from nhn_tf.values.space import OP_NAMES, OpError, Space, op_named

SCHEMA = 1


@dataclasses.dataclass(frozen=True, order=True)
class Addon:
    """A sparse k x k convolution whose result joins a layer's output (paper, section 2.3).

    Attributes:
      target: the layer it is added to, counted over the whole network.
      kernel_size: k, 3 or 5.
      source: where it reads, counted within the target's segment: 0 is the segment's input, i is the segment's
        layer i - 1. It lies before the target.

    Raises:
      TypeError: one of them is no whole number.
    """

    target: int
    kernel_size: int
    source: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, int(operator.index(getattr(self, field.name))))


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A network of the macro space.

    Attributes:
      space: the search space it belongs to.
      ops: for each layer the name of its op.
      skips: for each layer k the outputs it joins, ascending, each below k (0 is the stem, i is layer i - 1).
      masks: the live connections of the masked convolutions, by layer name; None before pruning. Those of 1x1
        convolutions only where these were pruned too.
      addons: add-on neurons, at most one for each (target, kernel size).
    """

    space: Space
    ops: tuple[str, ...]
    skips: tuple[tuple[int, ...], ...]
    masks: Masks | None = None
    addons: tuple[Addon, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        object.__setattr__(self, "skips", tuple(tuple(int(i) for i in row) for row in self.skips))
        object.__setattr__(self, "addons", tuple(sorted(self.addons)))
        layers = self.space.num_layers
        if len(self.ops) != layers or len(self.skips) != layers:
            raise ValueError(
                f"`ops` and `skips` must have one entry for each of the {layers} layers. "
                f"Received: {len(self.ops)} ops, {len(self.skips)} rows of skips."
            )
        for layer, name in enumerate(self.ops):
            if name not in self.space.ops:
                raise ValueError(f"`ops[{layer}]` must be among {', '.join(self.space.ops)}. Received: {name!r}.")
        for layer, row in enumerate(self.skips):
            if any(not 0 <= i < layer for i in row):
                raise ValueError(f"`skips[{layer}]` must name outputs below {layer}. Received: {row}.")
            if list(row) != sorted(set(row)):
                raise ValueError(f"`skips[{layer}]` must ascend without repetition. Received: {row}.")
        self._check_addons()

    def _check_addons(self) -> None:
        per = self.space.layers_per_segment
        for addon in self.addons:
            if not 0 <= addon.target < self.space.num_layers:
                raise ValueError(
                    f"an add-on's target must be a layer below {self.space.num_layers}. Received: {addon}."
                )
            if addon.kernel_size not in (3, 5):
                raise ValueError(f"an add-on's kernel size must be 3 or 5. Received: {addon}.")
            if not 0 <= addon.source <= addon.target % per:
                raise ValueError(
                    f"an add-on must read its segment's input (0) or a layer of the segment before its target "
                    f"(1..{addon.target % per}). Received: {addon}."
                )
        joined = [(addon.target, addon.kernel_size) for addon in self.addons]
        if len(set(joined)) != len(joined):
            raise ValueError(f"at most one add-on for each target and kernel size. Received: {self.addons}.")

    def is_read_after(self, layer: int, output: int) -> bool:
        """Whether a layer above `layer` reads an output: the next layer its input, others by a skip."""
        return output == layer + 1 or any(output in joined for joined in self.skips[layer + 1 :])

    def without_addons(self) -> Genotype:
        """The same network without its add-ons and their masks."""
        if self.masks is None:
            return dataclasses.replace(self, addons=())
        grown = {names.addon(number, "conv") for number in range(len(self.addons))}
        masks = Masks({name: mask for name, mask in self.masks.items() if name not in grown})
        return dataclasses.replace(self, addons=(), masks=masks)

    # Genes: the integer code a supernet understands.

    def genes(self) -> np.ndarray:
        """Ops and skips as int32 [G]; masks and add-ons are not part of it."""
        bits = [int(i in row) for layer, row in enumerate(self.skips) for i in range(layer)]
        return np.array([self.space.ops.index(name) for name in self.ops] + bits, np.int32)

    @classmethod
    def from_genes(cls, space: Space, genes: np.ndarray) -> Genotype:
        """The genotype of int [G] genes.

        Raises:
          ValueError: the genes do not belong to `space`.
        """
        genes = space.check_genes(genes)
        ops = tuple(space.ops[int(index)] for index in genes[: space.num_layers])
        rows = (genes[space.skip_slice(layer)] for layer in range(space.num_layers))
        return cls(space, ops, tuple(tuple(int(i) for i in np.flatnonzero(row)) for row in rows))

    # ENAS's text form: a row for each layer, the op's code (its name, if it is one of one's own) and then one bit for
    # each earlier output.

    def to_enas_text(self) -> str:
        rows = []
        for layer, (name, joined) in enumerate(zip(self.ops, self.skips, strict=True)):
            bits = [str(int(i in joined)) for i in range(layer)]
            rows.append(" ".join([str(OP_NAMES.index(name)) if name in OP_NAMES else name, *bits]))
        return "\n".join(rows) + "\n"

    @classmethod
    def from_enas_text(cls, text: str, space: Space | None = None) -> Genotype:
        """Reads ENAS's text form, laid out in rows or all on one line.

        Args:
          text: integers separated by white space, L (L + 1) / 2 of them; the first of a row may be the name of a
            registered op.
          space: the space it belongs to; by default the full one (ENAS's ops and those named, 3 segments) of as many
            layers.

        Raises:
          OpError: it names an op that is not registered.
          ValueError: the numbers do not make whole rows, or a code is out of range.
        """
        words = text.split()
        layers = 0
        while (layers + 1) * (layers + 2) // 2 <= len(words):
            layers += 1
        if layers == 0 or layers * (layers + 1) // 2 != len(words):
            raise ValueError(
                f"an ENAS architecture of L layers has L (L + 1) / 2 numbers (1, 3, 6, ... 78 ...). "
                f"Received: {len(words)}."
            )
        ops, skips, start = [], [], 0
        for layer in range(layers):
            op, *bits = words[start : start + layer + 1]
            start += layer + 1
            ops.append(_op_name(op, layer))
            skips.append(tuple(i for i, bit in enumerate(bits) if _integer(bit, layer, "skip bits must be", (0, 1))))
        space = space or Space(num_layers=layers, ops=tuple(dict.fromkeys((*OP_NAMES, *ops))))
        if space.num_layers != layers:
            raise ValueError(f"the space has {space.num_layers} layers. Received: text of {layers} rows.")
        return cls(space, tuple(ops), tuple(skips))

    # JSON and files.

    def to_json(self) -> dict[str, Any]:
        """A JSON value; of the masks only their digest."""
        return {
            "schema": SCHEMA,
            "space": self.space.to_json(),
            "architecture": self.to_enas_text().splitlines(),
            "addons": [dataclasses.asdict(addon) for addon in self.addons],
            "masks_digest": self.masks.digest if self.masks is not None else None,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], masks: Masks | None = None) -> Genotype:
        """Reads `to_json`'s value together with the masks it speaks of.

        Raises:
          ValueError: of another schema, not a genotype, or of other masks.
        """
        try:
            schema = value["schema"]
            if schema != SCHEMA:
                raise ValueError(f"genotype schema {schema} is not {SCHEMA}, the one this version reads.")
            base = cls.from_enas_text("\n".join(value["architecture"]), Space.from_json(value["space"]))
            addons = tuple(Addon(**addon) for addon in value["addons"])
            expected = value["masks_digest"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a genotype: {type(error).__name__} at {error}.") from None
        found = masks.digest if masks is not None else None
        if expected != found:
            raise ValueError(f"the masks do not belong to this genotype: digest {found}, expected {expected}.")
        genotype = dataclasses.replace(base, masks=masks, addons=addons)
        if genotype.to_json() != value:
            raise ValueError("not a genotype as this version writes it: something in it has no meaning.")
        return genotype

    @property
    def digest(self) -> str:
        """Hex digest of everything: space, architecture, add-ons, masks."""
        return files.digest_json(self.to_json())

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `genotype.json` and, with masks, `masks.npz` into `directory`.

        The masks go first: a genotype.json never stands without the masks it names.
        """
        directory = Path(directory)
        if self.masks is not None:
            self.masks.save(directory / "masks.npz")
        files.write_sealed(directory / "genotype.json", self.to_json())

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Genotype:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: no genotype.json there.
          OpError: it names an op that is not registered.
          files.DamagedFileError: a file is damaged, or the two do not belong together.
        """
        directory = Path(directory)
        path = directory / "genotype.json"
        value = files.read_sealed(path)
        try:
            masks = Masks.load(directory / "masks.npz") if value.get("masks_digest") else None
            if masks is not None and masks.digest != value["masks_digest"]:
                raise files.DamagedFileError(
                    f"{directory / 'masks.npz'} and {path.name} do not belong together. Restore copies of both."
                )
            return cls.from_json(value, masks)
        except FileNotFoundError:
            raise files.DamagedFileError(
                f"{path} names masks, but there is no masks.npz beside it. Restore a copy."
            ) from None
        except (files.DamagedFileError, OpError):
            raise
        except ValueError as error:
            raise files.DamagedFileError(f"{path} is damaged: {error} Restore a copy.") from None


def _op_name(word: str, layer: int) -> str:
    """The name of the op that stands first in a row: by its code, or as it is."""
    if word[:1].isalpha():
        return op_named(word).name
    return OP_NAMES[_integer(word, layer, "the op's code must lie in", range(len(OP_NAMES)))]


def _integer(word: str, layer: int, rule: str, legal: Collection[int]) -> int:
    try:
        number = int(word)
    except ValueError:
        raise ValueError(
            f"row {layer}: an ENAS architecture is written in integers only, but for own ops. Received: {word!r}."
        ) from None
    if number not in legal:
        raise ValueError(f"row {layer}: {rule} {min(legal)}..{max(legal)}. Received: {number}.")
    return number
