"""The kernel-sparse runtime against dense inference engines, on the same pruned networks.

    pip install -r benchmarks/requirements.txt
    python benchmarks/inference.py              # all of it: an hour or so on two cores
    python benchmarks/inference.py --quick      # batches 1 and 16, a third of the rounds
    python benchmarks/inference.py --only zoo   # one of paper, layers, threads, zoo, types

All engines run in one process and take turns, on one core (`--core`); then those that can, on two. Times are medians,
for one thread the lesser of wall clock and CPU time, which other work on the machine disturbs less. Engines:
TensorFlow (a graph function of the Keras model), ONNX Runtime, OpenVINO and LiteRT (Keras's own exports), PyTorch
(traced, frozen, batch normalisations folded), and `nhn_tf.sparse`. Those that are not installed are skipped and
named. OpenVINO takes part twice: in float32, as all others compute, and at its default, which on processors with
bfloat16 instructions is bfloat16. So does `nhn_tf.sparse` on the paper's networks, where the processor has these
instructions: in float32 and with dtype="bfloat16", which is compared with the fastest peer at its default. For the
paper-size network there are also the largest error of a logit and how often the largest logit is the exact one's, of
96 images, against float64.

Networks: 12 layers, 3x3 and 5x5 in turn, every second layer joins its input (6 skips), random masks:
paper-size (32x32x3 images, 96/192/384 filters) and small (8x8x1, 16/32/64 filters, as in the demo). Layers: chains of
eight equal pruned convolutions, so that conversions of layout at both ends weigh little on either side. The zoo
(`known_networks.py`): MobileNetV2 unpruned and with 90% of its 1x1 weights pruned, ResNets with 85% of their 3x3
kernels pruned.

The last line is JSON: the speed-up over the fastest peer in float32 for each sparsity and batch (`paper_net`, `zoo`),
over the fastest peer at its default (`paper_net_default`, `zoo_default`), the same of ours in bfloat16, the least over
batches, null without its instructions (`bfloat16`), the least over the layers (`layer_0.90`), two threads over one
(`two_threads`, the least over batches >= 2), without pruning (`zero_sparsity`, the least over batches), the largest
error of a logit of ours in float32 against Keras (`max_abs_error`), and, since that holds Keras's error too, of ours
and of Keras's against the same network in float64 (`float64_error`); and the paper-size network in bfloat16 and int8
over ours in float32, beside OpenVINO in int8 (`types`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fnmatch
import functools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np

import nhn_tf.sparse
from benchmarks import known_networks as known
from benchmarks.known_networks import settle
from nhn_tf import pruning
from nhn_tf.layers import MaskedConv2D
from nhn_tf.models import network
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.program import from_keras, optimize
from nhn_tf.sparse.program import operations as ops
from nhn_tf.values.form import Form
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.space import Space

Call = Callable[[np.ndarray], Any]
LAYERS = ((32, 96, 3), (32, 96, 5), (16, 192, 3), (16, 192, 5), (8, 384, 3), (8, 384, 5))
"""Side of the map, channels, kernel size."""


ZOO: dict[str, Callable[[], keras.Model]] = {
    "resnet20_0.85": lambda: known.resnet20(0.85),
    "mobilenetv2_64_dense": lambda: known.mobilenet_v2(64, 0.0),
    "mobilenetv2_64_1x1_0.90": lambda: known.mobilenet_v2(64, 0.9),
    "mobilenetv2_96_dense": lambda: known.mobilenet_v2(96, 0.0),
    "mobilenetv2_96_1x1_0.90": lambda: known.mobilenet_v2(96, 0.9),
    "mobilenetv2_224_dense": lambda: known.mobilenet_v2(224, 0.0),
    "mobilenetv2_224_1x1_0.90": lambda: known.mobilenet_v2(224, 0.9),
    "resnet50_64_0.85": lambda: known.resnet50(64, 0.85),
    "resnet50_224_0.85": lambda: known.resnet50(224, 0.85),
    "resnet50_64_0.85_1x1_0.80x4": lambda: known.resnet50(64, 0.85, 0.8, 4),
    "resnet50_224_0.85_1x1_0.80x4": lambda: known.resnet50(224, 0.85, 0.8, 4),
    "efficientnetv2b0_0.85": lambda: known.efficientnet_v2_b0(224, 0.85),
}
SPARSITIES = {"0.85": 0.85, "0.90": 0.9}
TYPES = {"float32": lambda: True, "bfloat16": machine.has_pairs, "int8": machine.has_quads}
"""To whether the processor computes in it."""
TURN_S = 0.02
"""How long an engine is called before the next one's turn."""
PARTS = ("paper", "layers", "threads", "zoo", "types")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batches 1 and 16, a third of the rounds")
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each engine and case")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="for one thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part of the benchmark; may be repeated")
    parser.add_argument("--networks", default="*", help="of the zoo: a pattern of names")
    args = parser.parse_args()
    parts = args.only or PARTS
    seconds = args.seconds / (3 if args.quick else 1)
    batches = (1, 16) if args.quick else (1, 16, 128)
    cores = os.sched_getaffinity(0)
    result: dict[str, Any] = {}
    errors: list[tuple[float, float, float]] = []

    os.sched_setaffinity(0, {args.core})
    print(f"vectors of {machine.host().lanes} float32 values")
    if "paper" in parts:
        paper(result, args.seed, batches, seconds, errors)
    if "layers" in parts:
        result["layer_0.90"] = min(
            compare(f"eight {size}x{size} layers of {filters} channels, {side}x{side}, sparsity 0.90",
                    chain(side, filters, size, args.seed), (1,), seconds, errors).float32["1"]
            for side, filters, size in LAYERS
        )  # fmt: skip
    if "zoo" in parts:
        result["zoo"], result["zoo_default"] = {}, {}
        for name in fnmatch.filter(ZOO, args.networks):
            speed = compare(name, ZOO[name](), (1, 16), seconds, errors)
            result["zoo"][name], result["zoo_default"][name] = speed.float32, speed.default
    if "types" in parts:
        result["types"] = {name: types(sparsity, args.seed, batches, seconds) for name, sparsity in SPARSITIES.items()}
    if "threads" in parts:
        os.sched_setaffinity(0, cores)
        model = pruned_network(0.9, filters=96, shape=(32, 32, 3), seed=args.seed)
        result["two_threads"] = two_threads(model, [2, *(batch for batch in batches if batch > 1)], seconds)
    if errors:
        against_keras, ours, theirs = (max(column) for column in zip(*errors, strict=True))
        result["max_abs_error"] = against_keras
        result["float64_error"] = {"ours": ours, "keras": theirs}
    print(json.dumps(result))


def paper(
    result: dict[str, Any],
    seed: int,
    batches: tuple[int, ...],
    seconds: float,
    errors: list[tuple[float, float, float]],
) -> None:
    """The paper's network at three sparsities, and a small one."""
    result["paper_net"], result["paper_net_default"], result["bfloat16"] = {}, {}, {}
    for name, sparsity in (("0.85", 0.85), ("0.90", 0.9), ("0.00", 0.0)):
        model = pruned_network(sparsity, filters=96, shape=(32, 32, 3), seed=seed)
        speed = compare(f"paper-size network, sparsity {name}", model, batches, seconds, errors, narrow=True)
        if sparsity:
            result["paper_net"][name], result["paper_net_default"][name] = speed.float32, speed.default
            result["bfloat16"][f"paper_{name}"] = min(speed.narrow.values(), default=None)
        else:
            result["zero_sparsity"] = min(speed.float32.values())
    small = pruned_network(0.85, filters=16, shape=(8, 8, 1), seed=seed)
    compare("small network, sparsity 0.85", small, batches, seconds, errors)


# Networks.


def pruned_network(sparsity: float, *, filters: int, shape: tuple[int, int, int], seed: int) -> keras.Model:
    """A network with random masks, and batch statistics as after training."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    kinds = tuple(("conv3x3", "conv5x5")[layer % 2] for layer in range(12))
    skips = tuple((layer - 1,) if layer % 2 else () for layer in range(12))
    model = network.build(
        Genotype(Space(), kinds, skips), input_shape=shape, num_classes=10, form=Form(filters=filters)
    )
    for layer in model.layers:
        if isinstance(layer, MaskedConv2D):
            layer.set_mask(_random_mask(rng, tuple(layer.mask.shape), sparsity))
    settle(model, rng.standard_normal((64, *shape)).astype(np.float32))
    return model


def chain(side: int, filters: int, size: int, seed: int) -> keras.Model:
    """Eight equal convolutions, 90% pruned, each with batch normalisation and ReLU."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    x = images = keras.Input((side, side, filters))
    for _ in range(8):
        layer = MaskedConv2D(filters, size, padding="same", use_bias=False)
        x = layer(x)
        layer.set_mask(_random_mask(rng, (filters, filters), 0.9))
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    settle(model, rng.standard_normal((8, side, side, filters)).astype(np.float32))
    return model


def _random_mask(rng: np.random.Generator, shape: tuple[int, ...], sparsity: float) -> np.ndarray:
    mask = np.zeros(int(np.prod(shape)), bool)
    mask[rng.choice(mask.size, round((1 - sparsity) * mask.size), replace=False)] = True
    return mask.reshape(shape)


def in_float64(model: keras.Model) -> keras.Model:
    """The same network, to compute what rounding leaves of float32's logits."""

    def double(layer: keras.Layer) -> keras.Layer:
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float64"})

    copy = keras.models.clone_model(model, clone_function=double)
    copy.set_weights(model.get_weights())
    return copy


# Engines: each makes a call of images, or raises ImportError.


def tensorflow_engine(model: keras.Model, folder: Path, threads: int) -> Call:
    import tensorflow as tf

    if threads != 1:
        raise ImportError("its number of threads is fixed when it starts")
    function = tf.function(lambda images: model(images, training=False), jit_compile=False)
    return lambda images: function(tf.constant(images)).numpy()


def onnxruntime_engine(model: keras.Model, folder: Path, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(_exported(model, folder, "onnx")), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def openvino_engine(model: keras.Model, folder: Path, threads: int, *, precision: str | None = "f32") -> Call:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    return _openvino_calls(openvino.Core().read_model(str(_exported(model, folder, "onnx"))), settings)


def _openvino_calls(network: Any, settings: dict[str, Any]) -> Call:
    import openvino

    core, settings = openvino.Core(), {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False, **settings}
    requests: dict[int, Any] = {}  # Static shapes are its fastest.

    def call(images: np.ndarray) -> np.ndarray:
        if len(images) not in requests:
            network.reshape([len(images), *images.shape[1:]])
            requests[len(images)] = core.compile_model(network, "CPU", settings).create_infer_request()
        return requests[len(images)].infer([images])[0]

    return call


def openvino_int8(model: keras.Model, images: np.ndarray) -> Call:
    """OpenVINO on one thread with weights and maps in int8, calibrated by NNCF with these images."""
    import nncf
    import openvino

    nncf.set_log_level("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        network = openvino.Core().read_model(str(_exported(model, Path(folder), "onnx")))
        network = nncf.quantize(network, nncf.Dataset(list(images[:, None])), subset_size=len(images))
    return _openvino_calls(network, {"INFERENCE_NUM_THREADS": 1})


def litert_engine(model: keras.Model, folder: Path, threads: int) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    path = str(_exported(model, folder, "tflite"))
    interpreters: dict[int, Any] = {}

    def call(images: np.ndarray) -> np.ndarray:
        if len(images) not in interpreters:
            interpreter = Interpreter(path, num_threads=threads)
            interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
            interpreter.allocate_tensors()
            interpreters[len(images)] = interpreter
        interpreter = interpreters[len(images)]
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return call


def pytorch_engine(model: keras.Model, folder: Path, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    program = optimize.fold(from_keras.read(model))
    module = _torch_module(torch, program).eval().to(memory_format=torch.channels_last)
    example = torch.zeros(1, *program.shapes[0]).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))

    def call(images: np.ndarray) -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.inference_mode():  # NHWC seen as NCHW is channels_last already.
            return traced(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()

    return call


def sparse_engine(model: keras.Model, folder: Path, threads: int, *, dtype: str = "float32") -> Call:
    if dtype == "bfloat16" and not machine.has_pairs():
        raise ImportError("the processor has no instructions for it")
    start, work = time.perf_counter(), time.process_time()
    runtime = nhn_tf.sparse.compile(model, threads=threads, dtype=dtype, cache=False)
    wall, work = time.perf_counter() - start, time.process_time() - work
    print(f"  nhn_tf.sparse, {dtype}: compiled in {wall:.2f} s, {work:.2f} s of CPU time")
    return runtime


OURS = "nhn_tf.sparse"
NARROW = "nhn_tf.sparse bfloat16"
OPENVINO_INT8 = "OpenVINO int8"
WHOLE = ", whole"
"""Behind a peer's name: dead channels were left in."""
DEFAULTS = ("OpenVINO default", "OpenVINO default" + WHOLE)
"""Peers that may compute in less than float32."""
ENGINES: dict[str, Callable[[keras.Model, Path, int], Call]] = {
    OURS: sparse_engine,
    NARROW: functools.partial(sparse_engine, dtype="bfloat16"),
    "TensorFlow": tensorflow_engine,
    "ONNX Runtime": onnxruntime_engine,
    "OpenVINO": openvino_engine,
    "OpenVINO default": functools.partial(openvino_engine, precision=None),
    "LiteRT": litert_engine,
    "PyTorch": pytorch_engine,
}


def _exported(model: keras.Model, folder: Path, suffix: str) -> Path:
    """The model in another format, written once."""
    path = folder / f"model.{suffix}"
    if not path.exists():
        model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras exports none to ONNX that was never called.
        with contextlib.redirect_stdout(sys.stderr):
            model.export(str(path), format={"onnx": "onnx", "tflite": "litert"}[suffix], verbose=False)
    return path


def _torch_module(torch: Any, program: ops.Program) -> Any:
    """The program as a PyTorch module: [B, C, H, W] in, logits out."""
    functional = torch.nn.functional
    activations = {"linear": lambda x: x, "relu": functional.relu}

    def weight(values: np.ndarray) -> Any:
        return torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(values)), requires_grad=False)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.ParameterDict()
            for number, op in enumerate(program.ops):
                if isinstance(op, ops.Conv):
                    full = np.zeros((*op.mask.T.shape, *op.window), np.float32)
                    full[op.mask.T] = op.kernels
                    self.weights[f"{number}"], self.weights[f"{number}b"] = weight(full), weight(op.bias)
                elif isinstance(op, ops.Dense):
                    self.weights[f"{number}"], self.weights[f"{number}b"] = weight(op.kernel.T), weight(op.bias)
                elif isinstance(op, ops.GlobalPool) and op.weights is not None:
                    self.weights[f"{number}"] = weight(op.weights.transpose(2, 0, 1))

        def forward(self, images: Any) -> Any:
            values: list[Any] = []
            for number, op in enumerate(program.ops):
                inputs = [values[value] for value in op.inputs]
                values.append(images if isinstance(op, ops.Input) else self.apply_op(number, op, inputs))
            return values[program.outputs[0]]

        def apply_op(self, number: int, op: ops.Op, inputs: list[Any]) -> Any:
            if isinstance(op, ops.Conv):
                x = functional.relu(inputs[0]) if op.relu_input else inputs[0]
                if min(op.pads) < 0:
                    x = x[:, :, -op.pads[0] :, -op.pads[1] :]
                pads = tuple(max(pad, 0) for pad in op.pads)
                x = functional.conv2d(x, self.weights[f"{number}"], self.weights[f"{number}b"], op.strides, pads)
                return activations[op.activation](x)
            if isinstance(op, ops.Elementwise) and op.scale is None:
                return activations[op.activation](sum(inputs[1:], inputs[0]))
            if isinstance(op, ops.Concatenate):
                return torch.cat(inputs, 1)
            if isinstance(op, ops.GlobalPool):
                return (
                    inputs[0].mean((2, 3))
                    if op.weights is None
                    else (inputs[0] * self.weights[f"{number}"]).sum((2, 3))
                )
            if isinstance(op, ops.Dense):
                return functional.linear(inputs[0], self.weights[f"{number}"], self.weights[f"{number}b"])
            raise NotImplementedError(type(op).__name__)

    return Module()


# Timing.


@contextlib.contextmanager
def engines(model: keras.Model, threads: int, *, narrow: bool = False) -> Iterator[dict[str, Call]]:
    """All engines that are installed, on one model; ours in bfloat16 if that is wanted.

    Where masks leave channels dead, ours has the compacted model, and the others that and the whole one.
    """
    try:
        small = pruning.compact(model, check=False)
    except ValueError:  # layers of others' own
        small = model
    weights = sum(math.prod(weight.shape) for weight in model.weights if not weight.path.endswith("mask"))
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as compacted:
        calls = {}
        forms = [(name, make, small, compacted) for name, make in ENGINES.items()]
        if small.count_params() < weights:
            forms += [
                (name + WHOLE, make, model, whole) for name, make in ENGINES.items() if name not in (OURS, NARROW)
            ]
        for name, make, form, folder in forms:
            if name == NARROW and not narrow:
                continue
            try:
                calls[name] = make(form, Path(folder), threads)
            except Exception as error:  # each peer has errors of its own for what it cannot read
                expected = isinstance(error, (ImportError, nhn_tf.sparse.UnsupportedLayerError))
                if name in (OURS, NARROW) and not expected:
                    raise
                print(f"  {name}: skipped ({type(error).__name__}: {str(error)[:200]})", file=sys.stderr)
        yield calls


@dataclasses.dataclass
class Speed:
    """Ours over the fastest peer, by batch.

    Attributes:
      float32: in float32, as the peer.
      default: in float32, the peer at its default.
      narrow: in bfloat16, the peer at its default; empty where ours does not take part.
    """

    float32: dict[str, float] = dataclasses.field(default_factory=dict)
    default: dict[str, float] = dataclasses.field(default_factory=dict)
    narrow: dict[str, float] = dataclasses.field(default_factory=dict)


def compare(
    title: str,
    model: keras.Model,
    batches: tuple[int, ...],
    seconds: float,
    errors: list[tuple[float, float, float]],
    *,
    narrow: bool = False,
) -> Speed:
    """Ours against the peers for each batch, on one thread; with `narrow`, also ours in bfloat16.

    Appends to `errors` how far our logits are off Keras's and the exact ones, and Keras's off the exact ones.
    """
    print(title)
    rng = np.random.default_rng(1)
    double = in_float64(model)
    speed = Speed()
    with engines(model, 1, narrow=narrow) as calls:
        if narrow:
            agreement(calls, double, rng.standard_normal((96, *model.input_shape[1:])).astype(np.float32))
        for batch in batches:
            images = rng.standard_normal((batch, *model.input_shape[1:])).astype(np.float32)
            expected = keras.ops.convert_to_numpy(model(images, training=False))
            exact = np.concatenate([double(images[at : at + 16], training=False) for at in range(0, batch, 16)])
            logits = {name: call(images) for name, call in calls.items()}
            error = {name: _off(values, expected) for name, values in logits.items()}
            errors.append((error[OURS], _off(logits[OURS], exact), _off(expected, exact)))
            off = "off Keras's {:.1e}; off float64, ours {:.1e}, Keras's {:.1e}".format(*errors[-1])
            print(f"  batch {batch:3d}  {off}")
            times = timed({name: _bound(call, images) for name, call in calls.items()}, seconds, cpu_time=True)
            report(batch, times, error, speed)
    return speed


def agreement(calls: dict[str, Call], double: keras.Model, images: np.ndarray) -> None:
    """Prints how far each engine's logits are off the exact ones, and how often the largest is the exact one's."""
    pieces = [images[at : at + 16] for at in range(0, len(images), 16)]
    exact = np.concatenate([double(piece, training=False) for piece in pieces])
    print(f"  {len(images)} images, logits' rms {exact.std():.2f}")
    for name, call in calls.items():
        logits = np.concatenate([np.array(call(piece)) for piece in pieces])
        same = np.mean(logits.argmax(1) == exact.argmax(1))
        print(f"  {name:24s} largest error of a logit {_off(logits, exact):.1e}, the same class {same:.1%}")


def types(sparsity: float, seed: int, batches: tuple[int, ...], seconds: float) -> dict[str, dict[str, float]]:
    """How much faster than float32 the paper-size network is in other types, by batch, and OpenVINO in int8."""
    print(f"paper-size network, sparsity {sparsity:.2f}, our types and OpenVINO's int8")
    model = pruned_network(sparsity, filters=96, shape=(32, 32, 3), seed=seed)
    images = np.random.default_rng(1).standard_normal((160, *model.input_shape[1:])).astype(np.float32)
    runtimes: dict[str, Call] = {}
    for dtype, there in TYPES.items():
        given = {"calibrate": images[128:]} if dtype == "int8" else {}
        if there():
            runtimes[dtype] = nhn_tf.sparse.compile(model, threads=1, dtype=dtype, check=False, cache=False, **given)
    with contextlib.suppress(ImportError):
        runtimes[OPENVINO_INT8] = openvino_int8(model, images[128:])
    exact = runtimes["float32"](images[:96])
    found: dict[str, dict[str, float]] = {dtype: {} for dtype in runtimes if dtype != "float32"}
    for dtype in found:
        logits = runtimes[dtype](images[:96])
        same = np.mean(logits.argmax(1) == exact.argmax(1))
        print(f"  {dtype:13s} off float32's logits, of rms {exact.std():.2f}: largest {_off(logits, exact):.3f}, "
              f"rms {np.sqrt(np.mean((logits - exact) ** 2)):.3f}; the same class {same:.1%}")  # fmt: skip
    for batch in batches:
        calls = {dtype: _bound(runtime, images[:batch]) for dtype, runtime in runtimes.items()}
        for call in calls.values():
            call()
        times = timed(calls, seconds, cpu_time=True)
        print(f"  batch {batch:3d}  " + "  ".join(f"{d} {1e3 * t / batch:.2f} ms an image" for d, t in times.items()))
        for dtype in found:
            found[dtype][str(batch)] = round(times["float32"] / times[dtype], 3)
    return found


def two_threads(model: keras.Model, batches: list[int], seconds: float) -> float:
    """The least speed-up of two threads over one."""
    print("paper-size network, sparsity 0.90, two threads")
    rng = np.random.default_rng(1)
    least = float("inf")
    single = nhn_tf.sparse.compile(model, threads=1)
    with engines(model, 2) as calls:
        for batch in batches:
            images = rng.standard_normal((batch, *model.input_shape[1:])).astype(np.float32)
            alone = f"{OURS}, one thread"
            bound = {name: _bound(call, images) for name, call in (*calls.items(), (alone, single))}
            for call in bound.values():
                call()
            times = timed(bound, seconds, cpu_time=False)
            gain = times.pop(alone) / times[OURS]
            report(batch, times, {}, Speed())
            print(f"  two threads of {OURS} are {gain:.2f}x one")
            least = min(least, gain)
    return round(least, 3)


def _off(logits: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(logits - expected).max())


def _bound(call: Call, images: np.ndarray) -> Callable[[], Any]:
    return lambda: call(images)


def timed(calls: dict[str, Callable[[], Any]], seconds: float, *, cpu_time: bool) -> dict[str, float]:
    """Median seconds of each call; they take turns until each had its time, three turns at least. Each must have been
    called before.

    A turn is calls for `TURN_S`, at least one: of small networks most calls find their weights and their code in the
    caches, as those of a program do that does nothing else.
    """
    walls: dict[str, list[float]] = {name: [] for name in calls}
    works: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds * len(calls)
    turns = 0
    while turns < 3 or time.perf_counter() < end:
        turns += 1
        for name, call in calls.items():
            turn = time.perf_counter() + TURN_S
            while True:
                wall, work = time.perf_counter(), time.process_time()
                call()
                works[name].append(time.process_time() - work)
                walls[name].append(time.perf_counter() - wall)
                if time.perf_counter() >= turn:
                    break
    result = {name: float(np.median(values)) for name, values in walls.items()}
    if cpu_time:
        result = {name: min(wall, float(np.median(works[name]))) for name, wall in result.items()}
    return result


def report(batch: int, times: dict[str, float], error: dict[str, float], speed: Speed) -> None:
    """Prints a case, and adds what we are faster by to `speed`; not a number without a peer."""
    for name, seconds in sorted(times.items(), key=lambda item: item[1]):
        off = f"  max abs error {error[name]:.1e}" if name in error else ""
        print(f"  batch {batch:3d}  {name:24s} {1e3 * seconds / batch:8.3f} ms an image{off}")
    default = [name for name in times if name not in (OURS, NARROW)]
    float32 = [name for name in default if name not in DEFAULTS]
    for ratios, ours, peers in (
        (speed.float32, OURS, float32), (speed.default, OURS, default), (speed.narrow, NARROW, default)
    ):  # fmt: skip
        if ours in times:
            ratios[str(batch)] = float("nan")
        if ours in times and peers:
            fastest = min(peers, key=times.__getitem__)
            ratios[str(batch)] = round(times[fastest] / times[ours], 3)
            print(f"  batch {batch:3d}  {ours} is {ratios[str(batch)]:.2f}x {fastest}", flush=True)


if __name__ == "__main__":
    main()
