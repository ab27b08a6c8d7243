"""What the supernet's run-time choice costs: its step against ordinary graphs of the same architectures.

    python benchmarks/supernet_step.py

Times, on one thread, a training step (forward, backward, optimizer) and a reward (accuracy on one batch) of the macro
supernet, and of a static graph for each of a few sampled architectures; the two sides take turns, medians over all
rounds. The static graphs hold only what their architecture needs: its ops, its skips, the reductions it reads. About 3
minutes. The last line is JSON; `search_ratio` and `reward_ratio` are the medians of supernet / static (1 would be
free). On a machine that does other work too, `--cpu_time` gives steadier figures. To compare two versions of the code,
run `--supernet_only` in checkouts of both, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Before the backend starts: one thread, and no chatter of its start.
for _name, _value in (
    ("TF_NUM_INTRAOP_THREADS", "1"),
    ("TF_NUM_INTEROP_THREADS", "1"),
    ("TF_CPP_MIN_LOG_LEVEL", "3"),
):
    os.environ.setdefault(_name, _value)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402

from nhn_tf.layers import backend  # noqa: E402
from nhn_tf.models import MacroSupernet, tile_genes  # noqa: E402
from nhn_tf.values.space import Space  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--filters", type=int, default=36)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--architectures", type=int, default=3, help="how many are sampled and compared")
    parser.add_argument("--rounds", type=int, default=7, help="timed passes over all of them")
    parser.add_argument("--skip_probability", type=float, default=0.4, help="of the sampled skips (ENAS's target)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu_time", action="store_true", help="count this process's CPU time, not the wall clock")
    parser.add_argument("--supernet_only", action="store_true", help="leave the static graphs out")
    parser.add_argument("--deterministic", action="store_true", help="as the scripts' flag of that name")
    args = parser.parse_args()

    if args.deterministic:
        backend.make_deterministic()
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    space = Space(num_layers=args.layers)
    architectures = space.sample(rng, args.architectures, skip_probability=args.skip_probability)
    images = rng.standard_normal((args.batch, args.size, args.size, 3)).astype(np.float32)
    labels = rng.integers(10, size=args.batch).astype(np.int32)

    supernet = _model(space, args, None)
    calls: list[tuple[str, Callable[[], object]]] = []
    for genes in architectures:
        sides = {"supernet": supernet}
        if not args.supernet_only:
            sides["static"] = _model(space, args, genes)
        for mode, step in (("search", _search), ("reward", _reward)):
            for side, model in sides.items():
                calls.append((f"{side} {mode}", step(model, genes, images, labels)))

    clock = time.process_time if args.cpu_time else time.perf_counter
    times: dict[str, list[float]] = {}
    for round_number in range(-1, args.rounds):
        for name, call in calls:
            start = clock()
            call()
            if round_number >= 0:  # the first pass traces
                times.setdefault(name, []).append(1000 * (clock() - start))

    result: dict[str, object] = {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "n": len(architectures) * args.rounds,
    }
    for mode in ("search", "reward"):
        dynamic = np.array(times[f"supernet {mode}"])
        result[f"{mode}_ms"] = round(float(np.median(dynamic)), 1)
        told = f"{mode}: supernet {np.median(dynamic):.1f} ms"
        if not args.supernet_only:
            static = np.array(times[f"static {mode}"])
            result[f"static_{mode}_ms"] = round(float(np.median(static)), 1)
            result[f"{mode}_ratio"] = round(float(np.median(dynamic / static)), 3)
            told += f", static {np.median(static):.1f} ms, ratio {result[f'{mode}_ratio']}"
        print(told)
    print(json.dumps(result))


def _model(space: Space, args: argparse.Namespace, static_genes: np.ndarray | None) -> MacroSupernet:
    shape = (args.size, args.size, 3)
    model = MacroSupernet(space, input_shape=shape, num_classes=10, filters=args.filters, static_genes=static_genes)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the first step twice
    return model


def _search(model: MacroSupernet, genes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Callable[[], object]:
    inputs = {"images": images, "genes": tile_genes(genes, len(labels))}
    return lambda: model.train_on_batch(inputs, labels)


def _reward(model: MacroSupernet, genes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Callable[[], object]:
    return lambda: model.accuracy(genes, images, labels)


if __name__ == "__main__":
    main()
