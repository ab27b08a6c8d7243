"""A network as a library that C programs call: `runtime.export_library("network.so")`.

The library holds code, weights and tables, and needs a C library alone. Its three functions are written here as LLVM IR
around the function that a plan ends in.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nhn_tf.errors import UserError
from nhn_tf.sparse.assembly import CACHE_LINE
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.native.emitter import float_literal
from nhn_tf.sparse.plan.lower import Plan, lower
from nhn_tf.sparse.plan.steps import Ranges
from nhn_tf.sparse.plan.tables import ENTRY
from nhn_tf.sparse.program.operations import Program, Shape
from nhn_tf.sparse.program.optimize import merge
from nhn_tf.storage import files

LINKERS: Final = ("cc", "gcc", "clang", "ld")
"""Programs that link, the first that there is."""
PAGE: Final = 4096


def write(
    program: Program,
    path: str | os.PathLike[str],
    *,
    host: machine.Host,
    ranges: Ranges | None,
    processor: str | None,
    prefix: str,
) -> None:
    """Writes a program as a library, and its header beside it; see `SparseRuntime.export_library`.

    `host` is what it is planned for where no processor is named, `ranges` what it is planned with.
    """
    path = Path(path)
    if path.suffix not in (".so", ".o"):
        raise ValueError(f"the library must end in .so, or .o for one to link with. Received: {path}.")
    if not (isinstance(prefix, str) and prefix.isascii() and prefix.isidentifier()):
        raise ValueError(f"`prefix` must be the beginning of a name in C. Received: {prefix!r}.")
    if processor is not None and processor not in machine.PROCESSORS:
        names = ", ".join(machine.PROCESSORS)
        raise ValueError(f"`processor` must be one of {names}, or None for this machine's. Received: {processor!r}.")
    if processor is not None and host.narrow:
        raise ValueError(
            f"a network that computes in {host.narrow} becomes a library for this machine's processor alone. Received: "
            f'processor={processor!r}. Leave it out, or make the runtime with dtype="float32".'
        )
    if processor is None and not sys.platform.startswith("linux"):
        raise UserError("libraries are made for Linux alone: name a processor, and an object file to link there.")
    chosen = machine.PROCESSORS[processor] if processor else None
    linker = _linker() if path.suffix == ".so" else None
    plan = lower(merge(program), machine.HOSTS[chosen.lanes] if chosen else host, ranges=ranges)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "network.o")
        built.write_bytes(machine.object_code(_module(plan, prefix, _data(plan, prefix, chosen, Path(folder))), chosen))
        if linker:
            built = _link(linker, built)
        with files.atomic_write(path.with_suffix(".h"), "w") as file:
            file.write(_header(plan, prefix, processor or "the one that it was made on"))
        with files.atomic_write(path) as file:
            file.write(built.read_bytes())


def _linker() -> str:
    found = next(filter(None, map(shutil.which, LINKERS)), None)
    if found is None:
        raise UserError(f"no linker was found ({', '.join(LINKERS)}). Write an object file instead, network.o.")
    return found


def _link(linker: str, built: Path) -> Path:
    library = built.with_suffix(".so")
    done = subprocess.run([linker, "-shared", "-o", library, built], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            f"{linker} does not link the library: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}\n"
            "For another kind of processor, write an object file, network.o, and link it there."
        )
    return library


def _module(plan: Plan, prefix: str, data: Sequence[str]) -> str:
    """The plan's module, its tables, and the library's functions; only these can be seen from without."""
    own = plan.ir.replace("define void @", "define internal void @")
    return "\n".join((*data, own, _new_arena(plan), _functions(plan, prefix)))


def _data(plan: Plan, prefix: str, chosen: machine.Processor | None, folder: Path) -> list[str]:
    """The tables as lines of the module: read by the assembler, which knows this machine's kind alone, from files in
    `folder`, unless its name cannot be written there, or else, which takes minutes for a hundred megabytes, as text.
    """
    lines = []
    from_files = machine.assembles(chosen) and not {'"', "\\"} & set(str(folder))
    for name, table in (("constants", plan.constants), ("indices", plan.indices)):
        symbol = f"{prefix}_{name}"
        if from_files:
            (folder / name).write_bytes(table.tobytes())
            words = (f".section .rodata.{symbol}", f".balign {PAGE}", f".hidden {symbol}", f".globl {symbol}",
                     f"{symbol}:", f".incbin \\22{folder / name}\\22", ".text")  # fmt: skip
            lines += [f'module asm "{word}"' for word in words]
            lines.append(f"@{symbol} = external hidden constant i8")
        else:
            numbers = table.tobytes().hex("\\")
            lines.append(f'@{symbol} = internal constant [{table.nbytes} x i8] c"\\{numbers}", align {PAGE}')
    return lines


def _new_arena(plan: Plan) -> str:
    """As `assembly.new_arena`: zeros, and what regions hold that nobody writes."""
    size = -(-4 * plan.arena // CACHE_LINE) * CACHE_LINE  # Bytes.
    loops, block = [], "cleared"
    for number, (start, stop, fill) in enumerate(plan.fills):
        loops.append(f"""
  br label %fill{number}
fill{number}:
  %at{number} = phi i64 [ {start}, %{block} ], [ %next{number}, %fill{number} ]
  %place{number} = getelementptr float, ptr %arena, i64 %at{number}
  store float {float_literal(fill)}, ptr %place{number}, align 4
  %next{number} = add i64 %at{number}, 1
  %more{number} = icmp slt i64 %next{number}, {stop}
  br i1 %more{number}, label %fill{number}, label %filled{number}
filled{number}:""")
        block = f"filled{number}"
    return f"""
declare ptr @aligned_alloc(i64, i64)
declare void @free(ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define internal ptr @new_arena() noinline {{
  %arena = call ptr @aligned_alloc(i64 {CACHE_LINE}, i64 {size})
  %none = icmp eq ptr %arena, null
  br i1 %none, label %end, label %cleared
cleared:
  call void @llvm.memset.p0.i64(ptr %arena, i8 0, i64 {size}, i1 false){"".join(loops)}
  br label %end
end:
  ret ptr %arena
}}"""


def _functions(plan: Plan, prefix: str) -> str:
    """load, run and free. A network is a cell that holds an arena while nobody computes in it: who finds it empty makes
    an arena of his own, so that threads share a network.
    """
    return f"""
define ptr @{prefix}_load() {{
  %network = call ptr @aligned_alloc(i64 {CACHE_LINE}, i64 {CACHE_LINE})
  %none = icmp eq ptr %network, null
  br i1 %none, label %end, label %some
some:
  %arena = call ptr @new_arena()
  store ptr %arena, ptr %network, align 8
  %full = icmp eq ptr %arena, null
  br i1 %full, label %failed, label %end
failed:
  call void @free(ptr %network)
  br label %end
end:
  %result = phi ptr [ null, %0 ], [ %network, %some ], [ null, %failed ]
  ret ptr %result
}}
define i32 @{prefix}_run(ptr %network, ptr %inputs, ptr %outputs, i64 %count) {{
  %next = alloca i64, align 8
  store i64 0, ptr %next, align 8
  %idle = icmp slt i64 %count, 1
  br i1 %idle, label %done, label %take
take:
  %kept = atomicrmw xchg ptr %network, ptr null acq_rel
  %taken = icmp eq ptr %kept, null
  br i1 %taken, label %make, label %go
make:
  %made = call ptr @new_arena()
  %none = icmp eq ptr %made, null
  br i1 %none, label %failed, label %go
go:
  %arena = phi ptr [ %kept, %take ], [ %made, %make ]
  %share = call i64 @llvm.smin.i64(i64 %count, i64 {plan.group})
  call void @{ENTRY}(ptr %arena, ptr @{prefix}_constants, ptr @{prefix}_indices, ptr %inputs, ptr %outputs, ptr %next,
                     i64 %count, i64 %share, ptr null)
  %swap = cmpxchg ptr %network, ptr null, ptr %arena acq_rel monotonic
  %kept_again = extractvalue {{ ptr, i1 }} %swap, 1
  br i1 %kept_again, label %done, label %drop
drop:
  call void @free(ptr %arena)
  br label %done
done:
  ret i32 0
failed:
  ret i32 1
}}
define void @{prefix}_free(ptr %network) {{
  %none = icmp eq ptr %network, null
  br i1 %none, label %done, label %some
some:
  %arena = load ptr, ptr %network, align 8
  call void @free(ptr %arena)
  call void @free(ptr %network)
  br label %done
done:
  ret void
}}
"""


def _header(plan: Plan, prefix: str, processor: str) -> str:
    def sizes(word: str, shapes: tuple[Shape, ...]) -> str:
        lines = [f"#define {prefix.upper()}_{word}S {len(shapes)}"]
        lines += [
            f"#define {prefix.upper()}_{word}_{number}_SIZE {math.prod(shape)} /* {' x '.join(map(str, shape))} */"
            for number, shape in enumerate(shapes)
        ]
        return "\n".join(lines)

    return f"""/* A network as native code for Linux, for processors like {processor}.
   Values are float32; images lie one behind another, channels last, normalised as in training. */
#ifndef {prefix.upper()}_NETWORK_H
#define {prefix.upper()}_NETWORK_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {{
#endif

/* How many inputs and outputs there are, and of how many values for an image. */
{sizes("INPUT", plan.inputs)}
{sizes("OUTPUT", plan.outputs)}

typedef struct {prefix}_network {prefix}_network;

/* Makes a network ready; NULL where there is too little memory. */
{prefix}_network *{prefix}_load(void);

/* Computes `count` images: inputs[i] holds those of input i, outputs[i] gets what output i makes of them.
   Returns 0, or 1 where there is too little memory. Threads may share a network. */
int {prefix}_run({prefix}_network *network, const float *const *inputs, float *const *outputs, int64_t count);

/* Gives the memory back, once no thread computes any more. NULL may be given, too. */
void {prefix}_free({prefix}_network *network);

#ifdef __cplusplus
}}
#endif
#endif
"""
