"""What benchmarks share: one thread, this checkout's package, the usual flags, sides that take turns.

To be imported before Keras and the package.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Before the backend starts: one thread, and no chatter of its start.
for _name, _value in (
    ("TF_NUM_INTRAOP_THREADS", "1"),
    ("TF_NUM_INTEROP_THREADS", "1"),
    ("TF_CPP_MIN_LOG_LEVEL", "3"),
):
    os.environ.setdefault(_name, _value)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402


def parser(doc: str | None, *, filters: int, batch: int, rounds: int) -> argparse.ArgumentParser:
    """The flags of a benchmark that times steps of a network, with its own defaults."""
    flags = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--layers", type=int, default=12)
    flags.add_argument("--filters", type=int, default=filters, help="channels of the first segment")
    flags.add_argument("--batch", type=int, default=batch)
    flags.add_argument("--size", type=int, default=32, help="height and width of the images")
    flags.add_argument("--rounds", type=int, default=rounds, help="timed passes over all sides")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--cpu_time", action="store_true", help="count this process's CPU time, not the wall clock")
    return flags


def batch(args: argparse.Namespace, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random images float32 [B, H, W, 3] and labels int32 [B]."""
    images = rng.standard_normal((args.batch, args.size, args.size, 3)).astype(np.float32)
    return images, rng.integers(10, size=args.batch).astype(np.int32)


def take(
    calls: Sequence[tuple[str, Callable[[], object]]], rounds: int, *, cpu_time: bool = False
) -> dict[str, np.ndarray]:
    """Makes all calls in turn, again and again.

    Returns:
      Milliseconds of each call by name, in order; a name may stand for several calls. A first pass, in which backends
      trace and compile, is not counted.
    """
    clock = time.process_time if cpu_time else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name, _ in calls}
    for number in range(-1, rounds):
        for name, call in calls:
            start = clock()
            call()
            if number >= 0:
                times[name].append(1000 * (clock() - start))
    return {name: np.array(values) for name, values in times.items()}
