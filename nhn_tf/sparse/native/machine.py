"""The machine's vector unit, and LLVM as the assembler for it. The only file that imports llvmlite."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from typing import Any


class MissingLLVMError(ImportError):
    """llvmlite is not installed."""


@dataclasses.dataclass(frozen=True)
class Host:
    """What the kernels are shaped by.

    Attributes:
      lanes: float32 values in one vector register.
      registers: number of vector registers.
    """

    lanes: int
    registers: int


HOSTS = {16: Host(16, 32), 8: Host(8, 16), 4: Host(4, 16)}
"""By lanes: AVX-512, AVX2, and 128 bits (SSE, or NEON, which has more registers than are counted on here)."""


def _binding() -> Any:
    try:
        import llvmlite.binding as llvm
    except ImportError:
        raise MissingLLVMError(
            'the sparse runtime makes its kernels with llvmlite, which is not installed. Run: pip install ".[sparse]"'
        ) from None
    return llvm


@functools.cache
def _initialized() -> Any:
    llvm = _binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def _target_machine() -> Any:
    """LLVM's description of this machine; a new one each time, since an engine frees its own."""
    llvm = _initialized()
    features = llvm.get_host_cpu_features().flatten()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2)


@functools.cache
def host() -> Host:
    """The widest vectors of this machine.

    Raises:
      MissingLLVMError: llvmlite is not installed; the message says how to install it.
    """
    features = _initialized().get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return HOSTS[16]
    return HOSTS[8] if features.get("avx2") and features.get("fma") else HOSTS[4]


class NativeCode:
    """A module of LLVM IR, compiled, with its one entry point as a Python callable.

    Calls release the GIL. The machine code lives as long as this object.
    """

    def __init__(self, ir: str, entry: str, arguments: list[Any]):
        llvm, machine = _initialized(), _target_machine()
        module = llvm.parse_assembly(ir)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_unrolling = False  # The kernels are unrolled as far as the registers go.
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        self._module = module
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self.call = ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address(entry))
