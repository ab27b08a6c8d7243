"""The machine's vector unit, and LLVM as the assembler for it and for others. The only file that imports llvmlite."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from typing import Any

from nhn_tf.commands import typed
from nhn_tf.errors import UserError


class MissingLLVMError(UserError, ImportError):
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


@dataclasses.dataclass(frozen=True)
class Processor:
    """One that code is made for elsewhere than where it runs.

    Attributes:
      triple: of the system, as LLVM writes it.
      cpu: the least that it can do, by LLVM's name.
      lanes: float32 values in one vector register.
    """

    triple: str
    cpu: str
    lanes: int


PROCESSORS = {
    "x86-64-v4": Processor("x86_64-unknown-linux-gnu", "x86-64-v4", 16),
    "x86-64-v3": Processor("x86_64-unknown-linux-gnu", "x86-64-v3", 8),
    "x86-64-v2": Processor("x86_64-unknown-linux-gnu", "x86-64-v2", 4),
    "aarch64": Processor("aarch64-unknown-linux-gnu", "generic", 4),
}
"""By name: with AVX-512, with AVX2, without either, and 64-bit Arm with NEON."""

HOSTS = {16: Host(16, 32), 8: Host(8, 16), 4: Host(4, 16)}
"""By lanes: AVX-512, AVX2, and 128 bits (SSE, or NEON, which has more registers than are counted on here)."""


def _binding() -> Any:
    try:
        import llvmlite.binding as llvm
    except ImportError:
        how = typed('pip install "nhn-tf[sparse]"')
        raise MissingLLVMError(
            f"the sparse runtime makes its kernels with llvmlite, which is not installed. Run: {how}"
        ) from None
    return llvm


@functools.cache
def _initialized() -> Any:
    llvm = _binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def _target_machine(**options: Any) -> Any:
    """LLVM's description of this machine; a new one each time, since an engine frees its own."""
    llvm = _initialized()
    features = llvm.get_host_cpu_features().flatten()
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2, **options)


def _module(ir: str, machine: Any) -> Any:
    """LLVM's module of a text, optimised for a machine."""
    llvm = _initialized()
    module = llvm.parse_assembly(ir)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = False  # The kernels are unrolled as far as the registers go.
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return module


def _machine_for(processor: Processor | None) -> Any:
    """LLVM's description of a processor, None being this machine, for code that may lie anywhere."""
    llvm = _initialized()
    if processor is None:
        return _target_machine(reloc="pic")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(processor.triple)
    return target.create_target_machine(cpu=processor.cpu, opt=2, reloc="pic")


def assembles(processor: Processor | None) -> bool:
    """Whether modules for a processor, or this machine, may have inline assembly; LLVM ends the process if not."""
    llvm = _initialized()
    llvm.initialize_native_asmparser()
    return processor is None or processor.triple.split("-")[0] == llvm.get_default_triple().split("-")[0]


def object_code(ir: str, processor: Processor | None) -> bytes:
    """A module of LLVM IR as an object file for a processor, or this machine, whose code may lie anywhere."""
    target = _machine_for(processor)
    return target.emit_object(_module(ir, target))


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
        module = _module(ir, machine)
        self._module = module
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        self.call = ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address(entry))
