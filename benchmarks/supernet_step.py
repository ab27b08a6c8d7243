"""What the supernet's run-time choice costs: its step against ordinary graphs of the same architectures, and PyTorch.

    python benchmarks/supernet_step.py

Times, on one thread, a training step (forward, backward, L2, clipping, Nesterov momentum) and a reward (accuracy on one
batch) of the macro supernet, and, for a few sampled architectures, of a static graph of each and of the same supernet
in PyTorch (`pytorch_supernet.py`) where that is installed; the sides take turns, medians over all rounds. The static
graphs hold only what their architecture needs: its ops, its skips, the reductions it reads. About 3 minutes. The last
line is JSON; `search_ratio` and `reward_ratio` are the medians of supernet / static (1 would be free), with `pytorch_`
in front of PyTorch / supernet (above 1, ours is faster), and `fraction_of_peak` is what the step's convolutions
multiply and add in a second over the most that the core can (`peaks.py`). On a machine that does other work too,
`--cpu_time` gives steadier figures. To compare two versions of the code, run `--supernet_only` in checkouts of both, in
turn.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import turns

# isort: split
import keras
import numpy as np

from nhn_tf import training
from nhn_tf.layers import backend
from nhn_tf.models import MacroSupernet, tile_genes
from nhn_tf.settings import EnasConfig
from nhn_tf.training import optimizers
from nhn_tf.values.space import Space

CONFIG = EnasConfig()


def main() -> None:
    parser = turns.parser(__doc__, filters=36, batch=128, rounds=7)
    parser.add_argument("--architectures", type=int, default=3, help="how many are sampled and compared")
    parser.add_argument("--skip_probability", type=float, default=0.4, help="of the sampled skips (ENAS's target)")
    parser.add_argument("--peers", nargs="*", choices=("static", "pytorch"), default=("static", "pytorch"))
    parser.add_argument("--supernet_only", dest="peers", action="store_const", const=(), help="leave both out")
    parser.add_argument("--deterministic", action="store_true", help="as the scripts' flag of that name")
    args = parser.parse_args()

    if args.deterministic:
        backend.make_deterministic()
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    space = Space(num_layers=args.layers)
    architectures = space.sample(rng, args.architectures, skip_probability=args.skip_probability)
    images, labels = turns.batch(args, rng)

    supernet = _model(space, args, None)
    pytorch = _pytorch(supernet) if "pytorch" in args.peers else None
    calls: list[tuple[str, Callable[[], object]]] = []
    for genes in architectures:
        calls += _calls("supernet", supernet, genes, images, labels)
        if "static" in args.peers:
            calls += _calls("static", _model(space, args, genes), genes, images, labels)
        if pytorch:
            calls.append(("pytorch search", functools.partial(pytorch.step, images, labels, genes)))
            calls.append(("pytorch reward", functools.partial(pytorch.accuracy, images, labels, genes)))
    times = turns.take(calls, args.rounds, cpu_time=args.cpu_time)

    result: dict[str, object] = {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "n": len(architectures) * args.rounds,
    }
    for mode in ("search", "reward"):
        ours = times[f"supernet {mode}"]
        result[f"{mode}_ms"] = round(float(np.median(ours)), 1)
        told = f"{mode}: supernet {np.median(ours):.1f} ms"
        for peer, prefix in (("static", ""), ("pytorch", "pytorch_")):
            if (theirs := times.get(f"{peer} {mode}")) is not None:
                ratio = ours / theirs if peer == "static" else theirs / ours
                result[f"{peer}_{mode}_ms"] = round(float(np.median(theirs)), 1)
                result[f"{prefix}{mode}_ratio"] = round(float(np.median(ratio)), 3)
                told += f", {peer} {np.median(theirs):.1f} ms, ratio {np.median(ratio):.3f}"
        print(told)
    print(json.dumps(result | _of_peak(supernet, architectures, args.batch, times["supernet search"])))


def _model(space: Space, args: argparse.Namespace, static_genes: np.ndarray | None) -> MacroSupernet:
    shape = (args.size, args.size, 3)
    model = MacroSupernet(space, input_shape=shape, num_classes=10, filters=args.filters, static_genes=static_genes)
    training.compile_classifier(model, optimizers.nesterov(CONFIG, CONFIG.lr_max))
    return model


def _calls(
    side: str, model: MacroSupernet, genes: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, Callable[[], object]]]:
    inputs = {"images": images, "genes": tile_genes(genes, len(labels))}
    yield f"{side} search", lambda: model.train_on_batch(inputs, labels)
    yield f"{side} reward", lambda: model.accuracy(genes, images, labels)


def _pytorch(supernet: MacroSupernet) -> Any:
    """The peer with the same weights; None where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch
    from pytorch_supernet import Trainer

    torch.set_num_threads(1)
    return Trainer(supernet, CONFIG, CONFIG.lr_max)


def _of_peak(
    supernet: MacroSupernet, architectures: np.ndarray, batch: int, milliseconds: np.ndarray
) -> dict[str, float]:
    """Multiply-adds a second of the training steps, and what part they are of the core's peak; none if that is unknown.

    `milliseconds` are of the steps, the architectures in turn.
    """
    if importlib.util.find_spec("llvmlite") is None:
        return {}
    import peaks

    if not (peak := peaks.measure()["float32"]):
        return {}
    each = np.median(milliseconds.reshape(-1, len(architectures)), axis=0)
    work = 1e-6 * batch * sum(_multiply_adds(supernet, genes) for genes in architectures)
    rate = work / each.sum()
    return {"gmac_per_s": round(rate, 1), "peak_gmac_per_s": peak, "fraction_of_peak": round(rate / peak, 3)}


def _multiply_adds(supernet: MacroSupernet, genes: np.ndarray) -> int:
    """Of a training step on one image: a forward pass, and as much again for either gradient, the images' left out."""
    entries = lambda weights: sum(math.prod(weight.shape) for weight in weights)  # noqa: E731
    height, width, _ = supernet.image_shape
    pixels = height * width
    stem = pixels * entries(supernet.stem_conv.weights)
    rest = entries([supernet.global_pool.kernel, supernet.logits.kernel])
    for layer, mixed in enumerate(supernet.mixed_ops):
        chosen = f"{mixed.ops[genes[layer]].name}_"
        rest += pixels * math.prod(mixed.in_kernel.shape[1:])
        rest += pixels * entries(weight for weight in mixed.weights if weight.name.startswith(chosen))
        if layer in supernet.space.transitions:
            pixels //= 4
            reductions = supernet.reductions[supernet.space.transitions.index(layer)].values()
            rest += pixels * sum(entries(reduction.weights) for reduction in reductions)
    return 2 * stem + 3 * rest


if __name__ == "__main__":
    main()
