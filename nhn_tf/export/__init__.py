"""Exports of a run's network: Keras, SavedModel, ONNX, LiteRT and the kernel-sparse runtime's own file.

written = write_exports("runs/demo", ["keras", "onnx"])
"""

from nhn_tf.export.formats import FORMATS, ExportError
from nhn_tf.export.plain import plain
from nhn_tf.export.write import write_exports

__all__ = ["FORMATS", "ExportError", "plain", "write_exports"]
