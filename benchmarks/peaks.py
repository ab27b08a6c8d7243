"""What one core can do at most: multiply-adds a second of float32, bfloat16 and int8, by loops of one instruction.

    python benchmarks/peaks.py            # a few seconds

Prints a line of JSON, in GMAC/s; null where the processor lacks the instruction. Vectors of 512 bits only.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import llvmlite.binding as llvm
import numpy as np

from nhn_tf.sparse.native import machine

TURNS = 100_000
CHAINS = 16
"""Sums that do not wait for each other."""

INSTRUCTIONS = {
    "float32": ("avx512f", 16, "<16 x float>", "<16 x float>", "llvm.fma.v16f32"),
    "bfloat16": ("avx512bf16", 32, "<16 x float>", "<32 x bfloat>", "llvm.x86.avx512bf16.dpbf16ps.512"),
    "int8": ("avx512vnni", 64, "<16 x i32>", "<64 x i8>", "llvm.x86.avx512.vpdpbusd.512"),
}
"""By type: the feature, multiply-adds of one instruction, types of sums and of factors, the intrinsic."""


def rate(each: int, sums: str, factors: str, intrinsic: str) -> float:
    """GMAC/s, the best of some runs."""
    names = range(CHAINS)
    factors_first = "fma" in intrinsic
    types = [factors, factors, sums] if factors_first else [sums, factors, factors]
    order = f"{factors} %a, {factors} %b, {{0}}" if factors_first else f"{{0}}, {factors} %a, {factors} %b"
    lines = [
        f"declare {sums} @{intrinsic}({', '.join(types)})",
        "define void @peak(ptr %numbers) {", "entry:",
        f"%a = load {factors}, ptr %numbers, align 64", f"%b = load {factors}, ptr %numbers, align 64",
        *(f"%at{n} = getelementptr i8, ptr %numbers, i64 {64 * n}" for n in names),
        *(f"%start{n} = load {sums}, ptr %at{n}, align 64" for n in names), "br label %loop", "loop:",
        "%turn = phi i64 [0, %entry], [%next, %loop]",
        *(f"%old{n} = phi {sums} [%start{n}, %entry], [%new{n}, %loop]" for n in names),
        *(f"%new{n} = call {sums} @{intrinsic}({order.format(f'{sums} %old{n}')})" for n in names),
        "%next = add i64 %turn, 1", f"%more = icmp slt i64 %next, {TURNS}", "br i1 %more, label %loop, label %end",
        "end:",
        *(f"store {sums} %new{n}, ptr %at{n}, align 64" for n in names), "ret void", "}",
    ]  # fmt: skip
    code = machine.NativeCode(machine.object_code("\n".join(lines)), "peak", [ctypes.c_void_p])
    raw = np.zeros(64 * (CHAINS + 1), np.uint8)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        code.call(raw.ctypes.data + -raw.ctypes.data % 64)
        best = min(best, time.perf_counter() - start)
    return round(each * CHAINS * TURNS / best / 1e9, 1)


def measure() -> dict[str, float | None]:
    """GMAC/s by type; None where the processor lacks the instruction."""
    machine.host()
    features = llvm.get_host_cpu_features()
    return {name: rate(*rest) if features.get(feature) else None for name, (feature, *rest) in INSTRUCTIONS.items()}


if __name__ == "__main__":
    print(json.dumps(measure()))
