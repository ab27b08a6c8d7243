"""Loads one exported network in a fresh process and runs it: started by path, never imported by the package.

    python -P reload.py FORMAT PATH IMAGES.npy LOGITS.npy

Each loader imports only what a user of that format has: this package is out of reach, except for its own format, where
Keras and the backends are. Prints one line of JSON: seconds to import and load, median milliseconds of a batch by its
size, versions. Shapes: images float32 [N, H, W, C], logits float32 [N, classes].
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

Call = Callable[[np.ndarray], np.ndarray]
BATCHES = (1, 16)
SECONDS = 0.5
"""For which each batch size is timed, at least `ROUNDS` times."""
ROUNDS = 5


def load_keras(path: str) -> Call:
    import keras

    model = keras.saving.load_model(path, compile=False)
    model.compile(jit_compile=keras.backend.backend() == "jax")  # XLA takes minutes on TensorFlow's side.
    return model.predict_on_batch


def load_saved_model(path: str) -> Call:
    import tensorflow as tf

    served = tf.saved_model.load(path)
    return lambda images: served.serve(tf.constant(images)).numpy()


def load_onnx(path: str) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def load_litert(path: str) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    given, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    shape: tuple[int, ...] = ()

    def call(images: np.ndarray) -> np.ndarray:
        nonlocal shape
        if images.shape != shape:
            shape = images.shape
            interpreter.resize_tensor_input(given, shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given, images)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return call


def load_nhn(path: str) -> Call:
    import nhn_tf.sparse

    runtime = nhn_tf.sparse.load(path, threads=1)
    return lambda images: np.asarray(runtime(images))


# Format: loader, the packages whose versions matter, the modules that loading must do without.
LOADERS: dict[str, tuple[Callable[[str], Call], tuple[str, ...], tuple[str, ...]]] = {
    "keras": (load_keras, ("keras", "tensorflow", "jax"), ("nhn_tf",)),
    "saved_model": (load_saved_model, ("tensorflow",), ("nhn_tf",)),
    "onnx": (load_onnx, ("onnxruntime", "onnx", "tf2onnx"), ("nhn_tf", "keras", "tensorflow")),
    "litert": (load_litert, ("ai-edge-litert", "tensorflow"), ("nhn_tf", "keras", "tensorflow")),
    "nhn": (load_nhn, ("llvmlite",), ("keras", "tensorflow", "jax")),
}


def main(name: str, path: str, images_path: str, logits_path: str) -> None:
    loader, packages, forbidden = LOADERS[name]
    for module in forbidden:
        sys.modules[module] = None  # type: ignore[assignment]  # importing it raises
    stay_on_one_core()
    images = np.load(images_path)
    start = time.perf_counter()
    call = loader(path)
    load_s = time.perf_counter() - start
    size = max(BATCHES)
    logits = [np.asarray(call(images[first : first + size])) for first in range(0, len(images), size)]
    np.save(logits_path, np.concatenate(logits))
    facts = {
        "load_s": round(load_s, 3),
        "latency_ms": {str(batch): round(latency_ms(call, cycled(images, batch)), 4) for batch in BATCHES},
        "versions": versions(packages),
    }
    print(json.dumps(facts))


def stay_on_one_core() -> None:
    """Whatever threads a library starts, they share one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def cycled(images: np.ndarray, batch: int) -> np.ndarray:
    """A batch of the images, repeated if there are fewer."""
    return np.ascontiguousarray(images[np.arange(batch) % len(images)])


def latency_ms(call: Call, images: np.ndarray) -> float:
    """Median time of a call."""
    call(images)
    times: list[float] = []
    while len(times) < ROUNDS or sum(times) < SECONDS:
        start = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
