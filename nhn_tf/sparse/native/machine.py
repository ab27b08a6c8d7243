"""The machine's vector unit, and LLVM as the assembler for it and for others. The only file that imports llvmlite."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from typing import Any

from nhn_tf.errors import UserError
from nhn_tf.storage.commands import typed


class MissingLLVMError(UserError, ImportError):
    """llvmlite is not installed."""


class MissingInstructionError(ValueError):
    """This processor lacks the instructions for a type of numbers."""


@dataclasses.dataclass(frozen=True)
class Host:
    """What the kernels are shaped by.

    Attributes:
      lanes: float32 values in one vector register.
      registers: number of vector registers.
      narrow: what convolutions compute in where it pays, "bfloat16" or "int8"; "" for float32.
      emulated: whether that is done without the processor's instructions for it.
    """

    lanes: int
    registers: int
    narrow: str = ""
    emulated: bool = False

    @property
    def each(self) -> int:
        """Numbers of a map in 32 bits."""
        return {"": 1, "bfloat16": 2, "int8": 4}[self.narrow]


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

PAIR_HOST = Host(16, 32, "bfloat16")
"""With AVX-512 and its instructions for bfloat16."""

QUAD_HOST = Host(16, 32, "int8")
"""With AVX-512 and its instructions for dot products of bytes (VNNI)."""

EMULATED = Host(16, 32, "bfloat16", emulated=True)
EMULATED_QUADS = Host(16, 32, "int8", emulated=True)
"""The same numbers on any machine, slowly."""


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


def identity() -> tuple[str, ...]:
    """What machine code is for, and what makes it: the processor with all that it can do, LLVM and llvmlite."""
    llvm = _initialized()
    import llvmlite

    features = llvm.get_host_cpu_features().flatten()
    versions = (llvmlite.__version__, ".".join(map(str, llvm.llvm_version_info)))
    return (llvm.get_default_triple(), llvm.get_host_cpu_name(), features, *versions)


def object_code(ir: str, processor: Processor | None = None) -> bytes:
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


def has_pairs() -> bool:
    """Whether it has instructions for bfloat16; where it has not, LLVM ends the process if code uses them."""
    return host().lanes == 16 and bool(_initialized().get_host_cpu_features().get("avx512bf16"))


def has_quads() -> bool:
    """The same of dot products of bytes."""
    features = _initialized().get_host_cpu_features()
    return host().lanes == 16 and bool(features.get("avx512vnni") and features.get("avx512bw"))


def quad_host() -> Host:
    """This machine, computing in int8.

    Raises:
      MissingInstructionError: it cannot.
      MissingLLVMError: llvmlite is not installed.
    """
    _refuse_unless(has_quads(), "int8", "VNNI")
    return QUAD_HOST


def pair_host() -> Host:
    """This machine, computing in bfloat16.

    Raises:
      MissingInstructionError: it cannot.
      MissingLLVMError: llvmlite is not installed.
    """
    _refuse_unless(has_pairs(), "bfloat16", "BF16")
    return PAIR_HOST


def _refuse_unless(has_them: bool, dtype: str, instructions: str) -> None:
    if not has_them:
        raise MissingInstructionError(
            f"{dtype} needs a processor with AVX-512 and its {instructions} instructions, which this one is not. "
            'Pass dtype="float32", or "auto" for what is fastest here.'
        )


class NativeCode:
    """An object file for this machine in memory, with its one entry point as a Python callable.

    Calls release the GIL. The machine code lives as long as this object.
    """

    def __init__(self, object_code: bytes, entry: str, arguments: list[Any]):
        llvm = _initialized()
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(object_code))
        self._engine.finalize_object()
        self.call = ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address(entry))
