"""The names of a network's layers, which masks and weights go by.

Numbers count from 0: layers over the whole network, outputs from the stem (output i is that of layer i - 1), add-ons as
they stand in the genotype. A transition has the number of the segment it leads into, so that the first one is 1.
"""

from __future__ import annotations

from typing import Final, Literal

STEM_CONV: Final = "stem_conv"
STEM_BN: Final = "stem_bn"
GLOBAL_POOL: Final = "global_pool"
DROPOUT: Final = "dropout"
LOGITS: Final = "logits"

LayerPart = Literal[
    "relu", "in_conv", "in_bn", "in_relu", "op", "op_bn", "op_relu", "concat", "mix_relu", "mix_conv", "mix_bn", "sum",
    "bn",
]  # fmt: skip
"""In the order of the computation; "bn" is the supernet's, behind the "sum" of a layer's op and skips."""

TransitionPart = Literal["pool", "reduce", "bn"]
AddonPart = Literal["conv", "bn", "add"]


def layer(number: int, part: LayerPart) -> str:
    """One of a layer's parts: `layer3_op`."""
    return f"layer{number}_{part}"


def transition(number: int, part: TransitionPart, output: int) -> str:
    """What halves an output at a transition: `transition1_reduce0`."""
    return f"transition{number}_{part}{output}"


def addon(number: int, part: AddonPart) -> str:
    """One of an add-on's parts: `addon0_conv`."""
    return f"addon{number}_{part}"


def addon_choice(target: int, kernel_size: int) -> str:
    """In the supernet of locations, every add-on of one kernel size that joins a layer: `layer3_add_on5x5`."""
    return f"layer{target}_add_on{kernel_size}x{kernel_size}"
