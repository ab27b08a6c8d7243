"""Kernel-sparse inference on CPUs.

    runtime = nhn_tf.sparse.compile(model)
    logits = runtime(images)
    runtime.save("network.nhn")
    runtime = nhn_tf.sparse.load("network.nhn")  # without Keras
    print(nhn_tf.sparse.profile(runtime, images))  # where the time goes

Pruned k x k kernels cost nothing: convolutions run over lists of the live ones, in native code made by llvmlite for
this machine's vectors when the network is compiled. Needs `pip install ".[sparse]"`; importing this package does not.
"""

from __future__ import annotations

from nhn_tf.sparse.compiler import compile, load
from nhn_tf.sparse.native.machine import MissingInstructionError, MissingLLVMError
from nhn_tf.sparse.plan.memory import CapacityError
from nhn_tf.sparse.profiling import Profile, profile
from nhn_tf.sparse.program.operations import UnsupportedLayerError
from nhn_tf.sparse.runtime import SparseRuntime
from nhn_tf.sparse.sized import SizedRuntime
from nhn_tf.storage.files import DamagedFileError

__all__ = [
    "CapacityError",
    "DamagedFileError",
    "MissingInstructionError",
    "MissingLLVMError",
    "Profile",
    "SizedRuntime",
    "SparseRuntime",
    "UnsupportedLayerError",
    "compile",
    "load",
    "profile",
]
