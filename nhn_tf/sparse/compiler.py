"""The compiler on one screen: from a Keras model to machine code, pass after pass."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nhn_tf.sparse import calibration, code_cache
from nhn_tf.sparse.assembly import assemble
from nhn_tf.sparse.calibration import Images, arrays_of
from nhn_tf.sparse.native import machine, peaks
from nhn_tf.sparse.native.machine import Host
from nhn_tf.sparse.plan.lower import lower
from nhn_tf.sparse.plan.steps import Ranges
from nhn_tf.sparse.program.file_format import Source
from nhn_tf.sparse.program.operations import Program, UnsupportedLayerError
from nhn_tf.sparse.program.optimize import merge, optimize
from nhn_tf.sparse.runtime import SparseRuntime, checked_threads
from nhn_tf.sparse.sized import SizedRuntime

if TYPE_CHECKING:
    from nhn_tf.sparse.mixed import MixedRuntime


DTYPES: Final[dict[str, Callable[[], Host]]] = {
    "float32": machine.host,
    "bfloat16": machine.pair_host,
    "int8": machine.quad_host,
    "auto": peaks.fastest_host,
}
"""What convolutions compute in, to the machine that does so; "auto" measures."""


def compile(
    model: Any,
    *,
    threads: int | None = None,
    dtype: str = "float32",
    calibrate: Images | None = None,
    fallback: str | None = None,
    check: bool = True,
    cache: bool = True,
) -> SparseRuntime | MixedRuntime | SizedRuntime:
    """Makes native code of a functional Keras model.

    Args:
      model: functional or Sequential, masked or compacted, of the layers in `nhn_tf.sparse.program.from_keras.READERS`.
      threads: that share a batch; by default one for each core that this process may use.
      dtype: of convolutions, of their weights and of the maps between them: "float32"; "bfloat16", which has 8 bits
        where that has 24, with sums in float32, and "int8", in steps of a map's or a filter's own with exact sums, on
        processors that have instructions for it; or "auto", which is bfloat16 where a short measurement says that it is
        faster here.
      calibrate: for int8, some ten to hundred images like those that it will see, as for the runtime (a list where
        there are several inputs): the least and the largest numbers of the maps of theirs are the ends of int8's.
      fallback: "keras" lets Keras compute layers that the runtime does not know, at inference as in `predict`.
      check: compare its outputs with the model's on random images.
      cache: look for its machine code in the user's cache, and keep it there (see `nhn_tf.sparse.code_cache`).

    Returns:
      A `SparseRuntime`; with `fallback`, if there are such layers, a `nhn_tf.sparse.mixed.MixedRuntime`. Both are
      called with images, numbers [B, H, W, C], and return what the model would, as float32 arrays. A model that leaves
      sizes open gives a `SizedRuntime`, which is compiled for the size of the images that it is first called with.

    Raises:
      MissingLLVMError: llvmlite is not installed; the message says how to install it.
      MissingInstructionError: this processor does not compute in bfloat16 or int8.
      UnsupportedLayerError: a layer is not known; the message names it.
      CapacityError: the network is far larger than those that the runtime is made for.
      DisagreementError: the outputs differ (see `nhn_tf.models.agreement`).
      ValueError: `threads`, `dtype`, `calibrate` or `fallback` is none, int8 with layers that Keras must compute; the
        model is subclassed, or has a layer of several outputs.
    """
    if fallback not in (None, "keras"):
        raise ValueError(f'`fallback` must be None or "keras". Received: {fallback!r}.')
    host = _checked(dtype, calibrate is not None)
    from nhn_tf.models import agreement  # They need Keras, which saved networks do without.
    from nhn_tf.sparse.mixed import MixedRuntime
    from nhn_tf.sparse.program.from_keras import read

    native = functools.partial(compile_program, threads=threads, dtype=dtype, calibrate=calibrate, cache=cache)

    def made(shapes: Any = None) -> SparseRuntime | MixedRuntime:
        runtime: SparseRuntime | MixedRuntime
        try:
            layers = read(model, shapes=shapes)  # As Keras has them.
            runtime = native(optimize(layers))  # Folded and fused: what a file keeps.
        except UnsupportedLayerError as error:
            if fallback is None:
                raise
            if calibrate is not None:
                raise UnsupportedLayerError(
                    f'what Keras computes in part must have the `dtype` "float32" or "bfloat16". Received: "int8", and '
                    f"{error}"
                ) from None
            runtime = MixedRuntime(model, native, shapes=shapes)
        if check:
            answer = lambda inputs: agreement.as_list(runtime(*inputs))  # noqa: E731
            seen = None if calibrate is None else [array[: agreement.BATCH] for array in arrays_of(calibrate)]
            agreement.check_same(
                model, answer, "the compiled network", shapes=shapes, inputs=seen, narrow=bool(host.narrow)
            )
        return runtime

    expected = [tensor.shape[1:] for tensor in getattr(model, "inputs", None) or ()]
    return SizedRuntime(expected, made) if any(None in shape for shape in expected) else made()


def compile_program(
    program: Program | Source,
    *,
    threads: int | None = None,
    dtype: str = "float32",
    calibrate: Images | None = None,
    host: Host | None = None,
    ranges: Ranges | None = None,
    timed: bool = False,
    cache: bool = True,
) -> SparseRuntime:
    """The passes behind `optimize`, which need no Keras: what loading a file runs.

    Args:
      program: to compute.
      threads: that share a batch; by default one for each core that this process may use.
      dtype, calibrate: as for `compile`.
      host: to plan for; by default this machine, as `dtype` wants it.
      ranges: for int8, what `calibration.ranges` gave, in place of images.
      timed: whether it shall time its steps, which takes some time itself.
      cache: as for `compile`; code that is timed is not kept.
    """
    checked_threads(threads)
    source = program if isinstance(program, Source) else Source(program)
    planned = host or _checked(dtype, calibrate is not None or ranges is not None)
    images = None if calibrate is None else arrays_of(calibrate)
    key = None
    if cache and not timed and code_cache.wanted():
        decides = images or () if ranges is None else [np.array([(value, *ends) for value, ends in ranges.items()])]
        key = code_cache.key(source.digest, planned, calibration.digest(decides))
    code = code_cache.find(key, planned) if key else None
    if code is None:
        merged = merge(source.program)  # Less work, perhaps more weights: what a file does not keep.
        if images is not None and ranges is None:
            ranges = calibration.ranges(merged, planned, images)
        plan = lower(merged, planned, ranges=ranges, timed=timed)  # Layouts, memory, blocks, tables, LLVM IR.
        code = assemble(plan)  # Instructions of this machine.
        if key:
            code_cache.keep(key, code)
    again = functools.partial(
        compile_program, source, threads=threads, dtype=dtype, host=host, ranges=code.plan.given_ranges, timed=timed,
        cache=cache,
    )  # fmt: skip
    return SparseRuntime(source, code, threads=threads, again=again)


def _checked(dtype: str, calibrated: bool) -> Host:
    """The machine that computes in a type, with images or without."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}. Received: {dtype!r}.")
    if (dtype == "int8") != calibrated:
        raise ValueError(
            f"`calibrate` must be images for int8, and for it alone. Received: dtype={dtype!r}, "
            f"calibrate={'images' if calibrated else 'None'}."
        )
    return DTYPES[dtype]()


def load(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    dtype: str = "float32",
    calibrate: Images | None = None,
    cache: bool = True,
) -> SparseRuntime:
    """Reads what `SparseRuntime.save` wrote. Needs neither Keras nor a backend.

    Args:
      path: of the file, which does not say what the network shall compute in.
      threads: as for `compile`.
      dtype: as for `compile`.
      calibrate: as for `compile`.
      cache: as for `compile`.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: it is not such a file, or it was altered.
      CapacityError: it asks for more than any network that the runtime is made for.
      MissingLLVMError: llvmlite is not installed.
      MissingInstructionError: this processor does not compute in bfloat16 or int8.
      ValueError: `threads`, `dtype` or `calibrate` is none.
    """
    _checked(dtype, calibrate is not None)
    return compile_program(Source.read(path), threads=threads, dtype=dtype, calibrate=calibrate, cache=cache)
