"""The formats: file, what each needs, and how it is written."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import keras
import numpy as np

from nhn_tf import sparse
from nhn_tf.export.plain import plain
from nhn_tf.export.source import ExportError
from nhn_tf.sparse.program.operations import UnsupportedLayerError
from nhn_tf.storage.commands import typed


@dataclasses.dataclass(frozen=True)
class Network:
    """What is exported.

    Attributes:
      compacted: the network without its dead channels, with this package's layers.
      float16: whether weights are rounded to float16 in files whose format allows it.
    """

    compacted: keras.Model
    float16: bool = False

    @functools.cached_property
    def plain(self) -> keras.Model:
        """The same of ordinary Keras layers, made when a format first wants it."""
        return plain(self.compacted)


@dataclasses.dataclass(frozen=True)
class Format:
    """One export format.

    Attributes:
      title: for people.
      file: name of the file, or directory, in export/.
      write: writes a network to a path.
      modules: that writing and checking import, beside Keras and the backend.
      extra: of this package that brings them.
      tensorflow: whether Keras can write it on the TensorFlow backend only.
      float16: whether it can keep weights as float16; what is computed with them is float32.
    """

    title: str
    file: str
    write: Callable[[Network, Path], None]
    modules: tuple[str, ...] = ()
    extra: str = ""
    tensorflow: bool = False
    float16: bool = False

    def obstacle(self) -> str | None:
        """Why it cannot be written here, and what would help; None when it can."""
        backend = keras.backend.backend()
        if self.tensorflow and backend != "tensorflow":
            there = importlib.util.find_spec("tensorflow")
            install = "" if there else typed("pip install 'nhn-tf[tensorflow]', then ")
            return (
                f"it is written on the TensorFlow backend, not on {backend}: {install}run it with "
                "KERAS_BACKEND=tensorflow"
            )
        missing = [module for module in self.modules if importlib.util.find_spec(module) is None]
        if missing:
            return typed(f"it needs {', '.join(missing)}, not installed here: pip install 'nhn-tf[{self.extra}]'")
        return None


def _write_keras(network: Network, path: Path) -> None:
    network.plain.save(path)


def _exporter(name: str) -> Callable[[Network, Path], None]:
    def write(network: Network, path: Path) -> None:
        model = network.plain
        model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras wants it called once.
        model.export(path, format=name, verbose=False)

    return write


def _write_nhn(network: Network, path: Path) -> None:
    try:
        runtime = sparse.compile(network.compacted)
    except UnsupportedLayerError as error:
        # `fallback` is no choice here: Keras's layers cannot be saved.
        raise ExportError(f"the nhn export cannot be written: {error.reason}.") from error
    runtime.save(path, dtype="float16" if network.float16 else "float32")


FORMATS: Final[dict[str, Format]] = {
    "keras": Format("Keras", "network.keras", _write_keras),
    "saved_model": Format("TensorFlow SavedModel", "saved_model", _exporter("tf_saved_model"), tensorflow=True),
    "onnx": Format(
        "ONNX",
        "network.onnx",
        _exporter("onnx"),
        modules=("tf2onnx", "onnx", "onnxruntime"),
        extra="onnx",
        tensorflow=True,
    ),
    "litert": Format(
        "LiteRT", "network.tflite", _exporter("litert"), modules=("ai_edge_litert",), extra="litert", tensorflow=True
    ),
    "nhn": Format(
        "kernel-sparse (nhn_tf.sparse)",
        "network.nhn",
        _write_nhn,
        modules=("llvmlite",),
        extra="sparse",
        float16=True,
    ),
}


def choose(asked: Sequence[str], *, float16: bool = False) -> tuple[list[str], dict[str, str]]:
    """The formats to write, and those of "all" that cannot be written here, each with the reason.

    Args:
      asked: names of `FORMATS`, or "all".
      float16: whether weights are to be float16; of "all", those formats that cannot keep the float32.

    Raises:
      ExportError: no such format, or one that was asked for by name cannot be written here, or not so.
    """
    known = [*FORMATS, "all"]
    if not asked or (wrong := [name for name in asked if name not in known]):
        raise ExportError(
            f"--format must name some of {', '.join(known)}. Received: {','.join(wrong if asked else ())!r}."
        )
    if float16 and (wide := [name for name in asked if name in FORMATS and not FORMATS[name].float16]):
        able = ", ".join(name for name, form in FORMATS.items() if form.float16)
        raise ExportError(f"--float16 cannot be kept by --format={wide[0]}. Those that can: {able}.")
    obstacles: dict[str, str] = {}
    for name, form in FORMATS.items():
        if (name in asked or "all" in asked) and (obstacle := form.obstacle()):
            if name in asked:
                raise ExportError(f"--format={name} cannot be written: {obstacle}.")
            obstacles[name] = obstacle
    return [name for name in FORMATS if ("all" in asked or name in asked) and name not in obstacles], obstacles
