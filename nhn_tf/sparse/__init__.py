"""Kernel-sparse inference on CPUs.

    runtime = nhn_tf.sparse.compile(model)
    logits = runtime(images)
    runtime.save("network.nhn")
    runtime = nhn_tf.sparse.load("network.nhn")  # without Keras

Pruned k x k kernels cost nothing: convolutions run over lists of the live ones, in native code made by llvmlite for
this machine's vectors when the network is compiled. Needs `pip install ".[sparse]"`; importing this package does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nhn_tf.sparse.native import machine
from nhn_tf.sparse.native.machine import MissingLLVMError
from nhn_tf.sparse.plan.memory import CapacityError
from nhn_tf.sparse.program.operations import UnsupportedLayerError
from nhn_tf.sparse.runtime import SparseRuntime, load
from nhn_tf.sparse.sized import SizedRuntime
from nhn_tf.storage.files import DamagedFileError

if TYPE_CHECKING:
    from nhn_tf.sparse.mixed import MixedRuntime

__all__ = [
    "CapacityError",
    "DamagedFileError",
    "MissingLLVMError",
    "SizedRuntime",
    "SparseRuntime",
    "UnsupportedLayerError",
    "compile",
    "load",
]


def compile(
    model: Any, *, threads: int | None = None, fallback: str | None = None, check: bool = True
) -> SparseRuntime | MixedRuntime | SizedRuntime:
    """Makes native code of a functional Keras model.

    Args:
      model: functional or Sequential, masked or compacted, of the layers in `nhn_tf.sparse.program.from_keras.READERS`.
      threads: that share a batch; by default one for each core that this process may use.
      fallback: "keras" lets Keras compute layers that the runtime does not know, at inference as in `predict`.
      check: compare its outputs with the model's on random images.

    Returns:
      A `SparseRuntime`; with `fallback`, if there are such layers, a `nhn_tf.sparse.mixed.MixedRuntime`. Both are
      called with images, numbers [B, H, W, C], and return what the model would, as float32 arrays. A model that leaves
      sizes open gives a `SizedRuntime`, which is compiled for the size of the images that it is first called with.

    Raises:
      MissingLLVMError: llvmlite is not installed; the message says how to install it.
      UnsupportedLayerError: a layer is not known; the message names it.
      CapacityError: the network is far larger than those that the runtime is made for.
      DisagreementError: the outputs differ (see `nhn_tf.models.agreement`).
      ValueError: `threads` or `fallback` is none; or the model is subclassed, or has a layer of several outputs.
    """
    if fallback not in (None, "keras"):
        raise ValueError(f'`fallback` must be None or "keras". Received: {fallback!r}.')
    machine.host()
    from nhn_tf.models import agreement  # They need Keras, which saved networks do without.
    from nhn_tf.sparse import mixed
    from nhn_tf.sparse.program import from_keras

    def made(shapes: Any = None) -> SparseRuntime | MixedRuntime:
        runtime: SparseRuntime | MixedRuntime
        try:
            runtime = SparseRuntime(from_keras.read(model, shapes=shapes), threads=threads)
        except UnsupportedLayerError:
            if fallback is None:
                raise
            runtime = mixed.MixedRuntime(model, threads=threads, shapes=shapes)
        if check:
            answer = lambda inputs: agreement.as_list(runtime(*inputs))  # noqa: E731
            agreement.check_same(model, answer, "the compiled network", shapes=shapes)
        return runtime

    expected = [tensor.shape[1:] for tensor in getattr(model, "inputs", None) or ()]
    return SizedRuntime(expected, made) if any(None in shape for shape in expected) else made()
