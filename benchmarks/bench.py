"""The speed that is promised, in one table: supernet against PyTorch, share of the core's peak, `fit`, LDS, the demo.

    make bench                               # 20 minutes
    python benchmarks/bench.py --core 1      # likewise; PyTorch where it is installed (benchmarks/requirements.txt)

Runs other benchmarks of this folder on one core, one after the other; within each the sides take turns. All times are
CPU time, so that other work on the machine disturbs little. The demo's fixed costs are those of `pipeline.py
--preset=demo` with as little data and training as there can be: starts, tracing, compiling, the report. The last line
is JSON. Ratios above 1 say that ours is faster (`lds_vs_full`: 2 is half the time); null is what could not be measured,
with a line that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEAST = (
    "train_limit=64 eval_limit=128 enas_epochs=1 enas_controller_steps=1 enas_final_samples=5 base_epochs=1 "
    "prune_epochs=1 pruned_epochs=1 lds_location_cycles=1 lds_direction_cycles=1 final_epochs=1"
)
"""Settings of the shortest demo."""


class Row(NamedTuple):
    """A figure: its name, how its benchmark calls it or its inverse, both sides' own figures there, its goal."""

    key: str
    figure: str
    sides: tuple[str, str]
    goal: float
    inverse: bool = False


BENCHMARKS: dict[str, tuple[Row, ...]] = {
    "supernet_step.py --cpu_time --peers pytorch --rounds {rounds}": (
        Row("supernet_step_vs_torch", "pytorch_search_ratio", ("search_ms", "pytorch_search_ms"), 1.2),
        Row("reward_vs_torch", "pytorch_reward_ratio", ("reward_ms", "pytorch_reward_ms"), 1.2),
        Row("fraction_of_peak", "fraction_of_peak", ("gmac_per_s", "peak_gmac_per_s"), 0.45),
    ),
    "empty_fit.py --cpu_time --rounds {rounds}": (
        Row("empty_fit_images_per_s", "waiting_images_per_s", ("waiting_images_per_s", "batches_images_per_s"), 45000),
    ),
    "lds_step.py --cpu_time --rounds {rounds}": (
        Row("lds_vs_full", "location_ratio", ("location_ms", "whole_ms"), 2, inverse=True),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="that all runs on")
    parser.add_argument("--rounds", type=int, default=7, help="timed passes over the sides of each benchmark")
    parser.add_argument("--minutes", type=float, default=20, help="for everything; what is not done by then is null")
    args = parser.parse_args()

    os.sched_setaffinity(0, {args.core})
    end = time.monotonic() + 60 * args.minutes
    table: list[tuple[object, ...]] = [("", "ours", "against", "figure", "goal")]
    result: dict[str, float | None] = {}
    for command, rows in BENCHMARKS.items():
        output, _ = run("benchmarks/" + command.format(rounds=args.rounds), end)
        found = json.loads(output.splitlines()[-1]) if output else {}
        for row in rows:
            value = found.get(row.figure)
            result[row.key] = round(1 / value, 3) if value and row.inverse else value
            sides = (f"{name} {found.get(name, '-')}" for name in row.sides)
            table.append((row.key, *sides, result[row.key], row.goal))
    with tempfile.TemporaryDirectory() as directory:
        options = " ".join(f"--{option}" for option in LEAST.split())
        output, seconds = run(f"pipeline.py --preset=demo --model_dir={directory}/demo {options}", end)
    result["demo_fixed_s"] = round(seconds, 1) if output else None
    table.append(("demo_fixed_s", "", "", result["demo_fixed_s"], 30))
    for line in table:
        print("{:24}{:>30}{:>30}{:>10}{:>8}".format(*map(str, line)))
    print(json.dumps(result))


def run(command: str, end: float) -> tuple[str, float]:
    """What a script of this checkout prints, nothing if it fails or is not done by `end`; and its CPU seconds."""
    print(command, flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        words = [sys.executable, *command.split()]
        left = max(0.0, end - time.monotonic())
        output = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=left, check=True).stdout
    except subprocess.SubprocessError as error:
        output = ""
        print(error, flush=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(output, flush=True)
    return output, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
