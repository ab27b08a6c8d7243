"""Which backend Keras loads: checked before it does, and loaded without the lines that TensorFlow starts with."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nhn_tf.errors import UserError

_NEEDED: Final = {"image_data_format": "channels_last", "floatx": "float32"}
"""What Keras's configuration file must say, if it says anything."""
_CHATTER: Final = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|To enable the following instructions:|"
    r"[IWE]\d{4} .*(port\.cc|cudart_stub\.cc|cpu_feature_guard\.cc|cuda_platform\.cc|cuda_executor\.cc|"
    r"cuda_(dnn|blas|fft)\.cc|computation_placer\.cc|gpu_device\.cc)"
)
"""Lines of TensorFlow about the machine, which is the same at every start."""


def prepare() -> str:
    """Refuses what Keras could not be loaded with here, or would compute otherwise with, then loads its backend.

    Where nothing is said about a backend, and TensorFlow is not installed but JAX is, it is JAX.

    Returns:
      The backend, which stands in KERAS_BACKEND too.

    Raises:
      UserError: the variable KERAS_BACKEND or Keras's configuration file asks for a backend that is not supported or
        not installed, or the file for other tensors than float32 with channels last.
    """
    from nhn_tf.storage import backends  # refused where there is none

    path = _config_path()
    config = _read_config(path)
    for name, needed in _NEEDED.items():
        if config.get(name, needed) != needed:
            raise UserError(
                f"{name} must be {needed}. Received: {config[name]!r}, in {path}.\n"
                "Change it there, or give a directory without that file: KERAS_HOME=DIR."
            )
    asked = os.environ.get("KERAS_BACKEND") or None
    noted = asked or config.get("backend", backends.BACKENDS[0])
    if noted not in backends.BACKENDS:
        where = "KERAS_BACKEND" if asked else f"the backend in {path}"
        variables = " or ".join(f"KERAS_BACKEND={name}" for name in backends.BACKENDS)
        help = "" if asked else f"\nChange it there, or set {variables}."
        raise UserError(f"{where} must be among {', '.join(backends.BACKENDS)}. Received: {noted!r}.{help}")
    os.environ["KERAS_BACKEND"] = backend = _installed(noted, asked is not None)
    with _without_chatter():
        module = importlib.import_module(backend)
        if backend == "tensorflow":
            module.config.list_physical_devices()  # the rest is said when devices are first looked for
            # Every stage has networks of its own, each with a graph of its own: as it should be.
            logging.getLogger(backend).addFilter(
                lambda record: "triggered tf.function retracing" not in record.getMessage()
            )
    return backend


def _installed(backend: str, is_asked: bool) -> str:
    """That backend, or the one that there is, if nobody has asked for it."""
    from nhn_tf.storage import backends

    there = backends.installed()
    if backend in there:
        return backend
    if not is_asked:
        print(f"{backend} is not installed; {there[0]} is, and computes.", file=sys.stderr)
        return there[0]
    raise UserError(
        f"the Keras backend {backend} is not installed. Run: {backends.how(backend)}. "
        f"Or set KERAS_BACKEND={there[0]}, which is installed."
    )


def _config_path() -> Path:
    """Where Keras 3 reads its configuration."""
    if "KERAS_HOME" in os.environ:
        return Path(os.path.expanduser(os.environ["KERAS_HOME"]), "keras.json")
    home = os.path.expanduser("~")
    return Path(home if os.access(home, os.W_OK) else "/tmp", ".keras", "keras.json")


def _read_config(path: Path) -> dict[str, Any]:
    """The configuration; {} where there is none, or one that Keras passes over too."""
    with contextlib.suppress(OSError, ValueError):
        config = json.loads(path.read_text())
        if isinstance(config, dict):
            return config
    return {}


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps `_CHATTER` off the standard error; all else that is written within comes behind it.

    TensorFlow's libraries write to the descriptor itself, before they read TF_CPP_MIN_LOG_LEVEL. With that at 0 nothing
    is kept off.
    """
    try:
        shown = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0"
        caught = None if shown else tempfile.TemporaryFile()  # noqa: SIM115  # closed below
    except OSError:  # a full disk is told by those who need it
        caught = None
    if caught is None:
        yield
        return
    sys.stderr.flush()
    with caught:
        before = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if not _CHATTER.match(line):
                    print(line, file=sys.stderr)
