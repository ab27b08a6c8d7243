"""The .nhn file: round trips, sizes, and files that were damaged or made to do damage."""

import hashlib
import json
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import sparse_reference as reference

import nhn_tf.sparse
from nhn_tf.sparse.native.machine import HOSTS
from nhn_tf.sparse.plan.lower import lower
from nhn_tf.sparse.plan.memory import CapacityError
from nhn_tf.sparse.program import file_format
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.file_format import PREFIX
from nhn_tf.storage.files import DamagedFileError


def pruned_network(rng, *, filters=24, density=0.1):
    """Input, dense 1x1, sparse 3x3, pool, classes."""
    convs = [
        reference.random_conv(rng, (8, 8, 3), filters, window=(1, 1), activation="relu"),
        reference.random_conv(rng, (8, 8, filters), filters, window=(3, 3), density=density, value=1),
    ]
    head = ops.Dense(
        inputs=(3,), kernel=rng.standard_normal((filters, 10)).astype(np.float32), bias=np.zeros(10, np.float32)
    )
    pool = ops.GlobalPool(inputs=(2,), kind="average")
    return ops.Program((ops.Input(inputs=(), size=(8, 8, 3)), *convs, pool, head), (4,))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.nhn"
    file_format.save(path, pruned_network(np.random.default_rng(0)))
    return path


def rewrite(path, change, arrays=None):
    """Alters the header and makes the checksum right again: what an attacker would do."""
    data = path.read_bytes()
    length = PREFIX.unpack_from(data)[2]
    header = json.loads(data[PREFIX.size : PREFIX.size + length])
    change(header)
    text = json.dumps(header).encode()
    body = text + (data[PREFIX.size + length :] if arrays is None else arrays)
    path.write_bytes(
        PREFIX.pack(file_format.MAGIC, file_format.VERSION, len(text), hashlib.sha256(body).digest()) + body
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_program_comes_back_as_it_was(seed, tmp_path):
    rng = np.random.default_rng(seed)
    program = reference.random_program(rng)
    file_format.save(tmp_path / "net.nhn", program)
    loaded = file_format.load(tmp_path / "net.nhn")
    assert loaded.shapes == program.shapes
    images = rng.standard_normal((1, *program.shapes[0]))
    for result, expected in zip(reference.compute(loaded, images), reference.compute(program, images), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (ops.Combine(inputs=(0,), kind="power"), "`kind` must be one of sum"),
        (ops.Combine(inputs=(0, 1), kind="sum"), "the inputs must have one shape"),
        (ops.Combine(inputs=65 * (0,), kind="sum"), "up to 64 inputs"),
        (ops.Normalize(inputs=(0,), groups=5, center=True, epsilon=0.1), "`groups` must be 0 or divide 6 channels"),
        (ops.Normalize(inputs=(0,), groups=0, center=True, epsilon=-0.1), "`epsilon` must be from 0"),
        (ops.Unflatten(inputs=(2,), size=(4, 3, 7)), r"the vector must fill \(4, 3, 7\)"),
        (ops.Unflatten(inputs=(2,), size=(2**70, 1, 1)), r"`size` must be three numbers in 1\.\."),
        (ops.Transpose(inputs=(2,)), "reads a map"),
        (ops.Interleave(inputs=(0,), factors=(2, 2), corner=(0, 0), size=(8, 6)), "in 4 groups"),
        (ops.Interleave(inputs=(0,), factors=(2, 1), corner=(1, 0), size=(8, 3)), "must lie within the map"),
        (ops.Interleave(inputs=(0,), factors=(2, 1), corner=(-1, 0), size=(8, 3)), "`corner` must be two numbers"),
        (ops.Resample(inputs=(0,), axis=1, matrix=np.ones((2, 4), np.float32)), r"`matrix` must be float32 \(2, 3\)"),
        (ops.Resample(inputs=(0,), axis=2, matrix=np.ones((2, 4), np.float32)), "`axis` must be 0 or 1"),
        (ops.Resample(inputs=(1,), axis=0, matrix=np.ones((2, 65), np.float32)), "a sum of up to 64"),
        (ops.Constant(inputs=(), values=np.ones((3, 2), np.float32)), "reads a map"),
    ],
)
def test_operations_that_do_not_fit_are_refused(op, message):
    given = [ops.Input(inputs=(), size=size) for size in ((4, 3, 6), (65, 3, 6), (72,))]
    with pytest.raises(ops.ProgramError, match=message):
        ops.Program((*given, op), (3,))


def test_a_program_without_an_input_is_refused():
    with pytest.raises(ops.ProgramError, match="a program has an input"):
        ops.Program((ops.Constant(inputs=(), values=np.ones((3, 2, 1), np.float32)),), (0,))


def test_equal_programs_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        file_format.save(tmp_path / name, pruned_network(np.random.default_rng(3)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 4), ("float16", 2)])
def test_a_file_is_hardly_larger_than_its_live_parameters(dtype, bytes_each, tmp_path):
    program = pruned_network(np.random.default_rng(0), filters=256)
    file_format.save(tmp_path / "net.nhn", program, dtype=dtype)
    assert (tmp_path / "net.nhn").stat().st_size < 1.1 * bytes_each * program.parameters


def test_float16_rounds_weights_to_eleven_bits_and_refuses_what_it_cannot_hold(tmp_path):
    program = pruned_network(np.random.default_rng(0))
    file_format.save(tmp_path / "net.nhn", program, dtype="float16")
    loaded = file_format.load(tmp_path / "net.nhn")
    np.testing.assert_allclose(loaded.ops[2].kernels, program.ops[2].kernels, rtol=2**-11, atol=1e-7)
    program.ops[2].kernels[0] = 1e6
    with pytest.raises(ValueError, match=r"do not fit into float16. Use float32"):
        file_format.save(tmp_path / "net.nhn", program, dtype="float16")
    with pytest.raises(ValueError, match="`dtype` must be one of float32, float16"):
        file_format.save(tmp_path / "net.nhn", program, dtype="int8")


def test_every_flipped_bit_and_every_truncation_is_refused(saved):
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(PREFIX.size), *rng.integers(PREFIX.size, len(data), 200)]
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(broken)
        with pytest.raises(DamagedFileError):
            file_format.load(saved)
    for length in (0, 7, PREFIX.size - 1, PREFIX.size, PREFIX.size + 10, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(DamagedFileError):
            file_format.load(saved)
    saved.write_bytes(data + b"\0")
    with pytest.raises(DamagedFileError, match="checksum"):
        file_format.load(saved)


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(header):
        for key in path:
            header = header[key]
        header[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("operations", 1, "inputs_", [0]),
        _set("operations", 1, "settings", "inputs", [1]),
        _set("operations", 1, "settings", "inputs", [-1]),
        _set("operations", 1, "settings", "inputs", [2**40]),
        _set("operations", 1, "settings", "inputs", [0, 0]),
        _set("operations", 1, "settings", "inputs", []),
        _set("operations", 1, "settings", "inputs", "0"),
        _set("operations", 1, "settings", "window", [2**31, 1]),
        _set("operations", 1, "settings", "window", [1]),
        _set("operations", 1, "settings", "window", [1.0, 1.0]),
        _set("operations", 1, "settings", "strides", [0, 0]),
        _set("operations", 1, "settings", "pads", [-(10**9), 0]),
        _set("operations", 1, "settings", "size", [1 << 30, 1 << 30]),
        _set("operations", 1, "settings", "size", [True, 8]),
        _set("operations", 1, "settings", "slope", float("inf")),
        _set("operations", 1, "settings", "slope", None),
        _set("operations", 1, "settings", "relu_input", 1),
        _set("operations", 1, "settings", "activation", "system"),
        _set("operations", 1, "settings", "unknown", 1),
        _set("operations", 1, "arrays", "mask", [3, 2**62]),
        _set("operations", 1, "arrays", "mask", [3, -24]),
        _set("operations", 1, "arrays", "bias", [25]),
        _set("operations", 1, "arrays", "kernels", [[1], 1, 1]),
        _set("operations", 1, "kind", "__class__"),
        _set("operations", 0, "settings", "size", [1024, 1024, 65536]),
        _set("operations", 0, "settings", "size", [8, 8, 2]),
        _set("operations", 0, "settings", "size", []),
        _set("operations", []),
        _set("operations", [[]]),
        _set("operations", {}),
        _set("outputs", []),
        _set("outputs", [5]),
        _set("outputs", [-1]),
        _set("outputs", [None]),
        _set("dtype", "object"),
        _set("dtype", "float16"),
        lambda header: header.pop("outputs"),
        lambda header: header["operations"].pop(),
        lambda header: header["operations"][3]["settings"].update(kind="weighted"),
        lambda header: header["operations"].extend(5000 * [header["operations"][3]]),
        _set("operations", 1, "settings", "size", [1024, 1024]),  # Far beyond the map of 8x8.
        _set("operations", 1, "settings", "pads", [1, 0]),  # The first window lies outside.
        _set("outputs", 257 * [4]),
        _set("operations", 0, "settings", "size", [1 << 25]),
        _set("operations", 1, "arrays", "kernels", [0, 1 << 27, 1 << 27, 1 << 27]),
    ],
)
def test_a_lying_file_with_a_right_checksum_is_refused(saved, change):
    rewrite(saved, change)
    with pytest.raises(DamagedFileError, match="is no sound .nhn file"):
        file_format.load(saved)


def joined(first, count, make):
    """A program of `count` operations that read a first one; all of them are needed."""
    operations = [ops.Input(inputs=(), size=first)]
    for number in range(count):
        operations.append(make(number))
        operations.append(ops.GlobalPool(inputs=(len(operations) - 1,), kind="max"))
    operations.append(ops.Concatenate(inputs=tuple(range(2, len(operations), 2))))
    return ops.Program(tuple(operations), (len(operations) - 1,))


def many_copies():
    kernels, bias = np.zeros((1, 15, 15), np.float32), np.zeros(1, np.float32)
    settings = {"window": (15, 15), "strides": (8, 8), "pads": (7, 7), "multiplier": 1, "kernels": kernels}
    return joined((512, 512, 1), 400, lambda n: ops.Depthwise(inputs=(0,), size=(64, 64), bias=bias, **settings))


def much_code():
    kernels, bias = np.zeros((1, 12, 12), np.float32), np.zeros(1, np.float32)
    settings = {"window": (12, 12), "strides": (1, 1), "pads": (0, 0), "multiplier": 1, "kernels": kernels}
    return joined(
        (64, 64, 1), 400, lambda n: ops.Depthwise(inputs=(0,), size=(53 - n % 20, 53 - n // 20), bias=bias, **settings)
    )


def large_maps():
    operations = [ops.Input(inputs=(), size=(1024, 1024, 128))]
    operations += [ops.Elementwise(inputs=(i,), activation="tanh") for i in range(9)]
    operations.append(ops.Elementwise(inputs=tuple(range(10))))
    return ops.Program((*operations, ops.GlobalPool(inputs=(10,), kind="max")), (11,))


def many_parts():
    operations = [ops.Input(inputs=(), size=(2, 2, 1)), ops.Concatenate(inputs=2000 * (0,))]
    return ops.Program((*operations, ops.GlobalPool(inputs=(1,), kind="max")), (2,))


def large_constants():
    softmaxes = [ops.Softmax(inputs=(i,)) for i in range(17)]
    return ops.Program((ops.Input(inputs=(), size=(1 << 24,)), *softmaxes), (17,))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (large_maps, "the maps need .* GiB for one image; the limit is 2 GiB"),
        (many_parts, "joined of more than 1024 others"),
        pytest.param(many_copies, "too many copies of rows", marks=pytest.mark.slow),
        pytest.param(much_code, "bytes of code", marks=pytest.mark.slow),
        pytest.param(large_constants, "constants", marks=pytest.mark.slow),
    ],
)
def test_what_a_small_file_can_ask_for_is_bounded(program, message, tmp_path):
    pytest.importorskip("llvmlite")
    file_format.save(tmp_path / "net.nhn", program())
    assert (tmp_path / "net.nhn").stat().st_size < 1e6
    start = time.process_time()
    with pytest.raises(CapacityError, match=message):
        nhn_tf.sparse.load(tmp_path / "net.nhn")
    assert time.process_time() - start < 20


def test_a_depthwise_convolution_of_many_channels_takes_no_quadratic_memory():
    pytest.importorskip("llvmlite")
    channels = 1 << 15
    kernels, bias = np.ones((channels, 1, 1), np.float32), np.zeros(channels, np.float32)
    slide = {"window": (1, 1), "strides": (1, 1), "pads": (0, 0), "size": (1, 1)}
    conv = ops.Depthwise(inputs=(0,), multiplier=1, kernels=kernels, bias=bias, **slide)
    tracemalloc.start()
    plan = lower(ops.Program((ops.Input(inputs=(), size=(1, 1, channels)), conv), (1,)), HOSTS[4])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * channels
    assert plan.arena < 100 * channels


def test_headers_that_are_no_json_or_nest_too_deep_are_refused(saved):
    for text in (b"{", b"\xff\xfe", b"[" * 100_000, b"null", b"NaN"):
        digest = hashlib.sha256(text).digest()
        saved.write_bytes(PREFIX.pack(file_format.MAGIC, file_format.VERSION, len(text), digest) + text)
        with pytest.raises(DamagedFileError):
            file_format.load(saved)


def test_another_version_is_named(saved):
    data = bytearray(saved.read_bytes())
    data[8] = 9
    saved.write_bytes(data)
    with pytest.raises(DamagedFileError, match="its version is 9; this runtime reads version 1"):
        file_format.load(saved)


def _mutate(rng, value):
    """A JSON value with one random thing changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(list(value)))
        return {**value, key: _mutate(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = int(rng.integers(len(value)))
        return [*value[:place], _mutate(rng, value[place]), *value[place + 1 :]]
    odd = [
        0,
        1,
        -1,
        2,
        3,
        8,
        15,
        16,
        64,
        2**31,
        2**63,
        -(2**40),
        0.5,
        1e300,
        None,
        True,
        "",
        "max",
        [],
        {},
        [0],
        [1, 1],
    ]
    return odd[int(rng.integers(len(odd)))]


def fuzz(path, rng, rounds):
    """Loads mutated files; those that are still sound must run."""
    pytest.importorskip("llvmlite")
    from nhn_tf.sparse.compiler import compile_program

    data = path.read_bytes()
    sound = 0
    for _ in range(rounds):
        path.write_bytes(data)

        def change(header):
            mutated = header
            for _ in range(int(rng.integers(1, 3))):
                mutated = _mutate(rng, mutated)
            if isinstance(mutated, dict):
                header.clear()
                header.update(mutated)

        rewrite(path, change)
        try:
            program = file_format.load(path)
        except DamagedFileError:
            continue
        if sum(int(np.prod(shape)) for shape in program.shapes) < 1e6:
            sound += 1
            if sound <= max(rounds // 200, 3):
                runtime = compile_program(program, threads=1)
                runtime(*(np.zeros((1, *shape), np.float32) for shape in runtime.input_shapes))
    assert sound < rounds / 2


def test_mutated_headers_are_refused_or_run(saved):
    fuzz(saved, np.random.default_rng(0), 400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_mutated_headers_are_refused_or_run(seed, tmp_path):
    rng = np.random.default_rng(seed)
    file_format.save(tmp_path / "net.nhn", reference.random_program(rng))
    fuzz(tmp_path / "net.nhn", rng, 1500)


def test_loading_needs_neither_keras_nor_a_backend_and_starts_fast(saved):
    pytest.importorskip("llvmlite")
    script = f"""
import sys, time
start = time.process_time()
import nhn_tf.sparse.runtime
seconds = time.process_time() - start
runtime = nhn_tf.sparse.load({str(saved)!r})
import numpy as np
assert runtime(np.zeros((3, 8, 8, 3), np.float32)).shape == (3, 10)
foreign = {{"keras", "tensorflow", "jax", "torch"}} & set(sys.modules)
assert not foreign, foreign
print(seconds)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.5
