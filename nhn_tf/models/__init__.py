"""Keras models: the supernets, the network of a genotype, and their weights on disk."""

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.models.addon_supernet import AddonSupernet, DirectionSupernet, LocationSupernet
from nhn_tf.models.macro_supernet import MacroSupernet
from nhn_tf.models.superset import GenedBatches, Superset, tile_genes

__all__ = [
    "AddonSupernet",
    "DirectionSupernet",
    "GenedBatches",
    "LocationSupernet",
    "MacroSupernet",
    "Superset",
    "tile_genes",
]
