"""Neuron Hierarchical Networks in Keras 3: search an architecture, prune it, grow it sparsely, train it."""

__version__ = "0.1.0"
