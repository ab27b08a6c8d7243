"""Convolutions in bfloat16 against NumPy's: by the processor's instructions, and emulated, which any machine can."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import sparse_reference as reference
from sparse_reference import images_of, single

pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

import nhn_tf.sparse
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine, peaks
from nhn_tf.sparse.native.machine import EMULATED, PAIR_HOST
from nhn_tf.sparse.plan import dtypes, tail
from nhn_tf.sparse.plan.lower_packed import to_bfloat16
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.optimize import merge

needs_instruction = pytest.mark.skipif(not machine.has_pairs(), reason="the processor has no instructions for bfloat16")
HOSTS = [EMULATED, pytest.param(PAIR_HOST, marks=needs_instruction)]

STEP = 2.0**-7
"""From a bfloat16 number to the next, at most, relative to it: what a sum in float32 may round another way."""

DRIFT = 2.0**-6
"""Of a network's outputs, relative to the largest: numbers that were rounded another way, and what they led to."""


@pytest.fixture(autouse=True)
def all_in_pairs(monkeypatch):
    """Also convolutions that would be as fast in float32: of maps that leave lanes empty, of few channels."""
    monkeypatch.setattr(dtypes, "LEAST_FILLED", 0.0)
    monkeypatch.setattr(dtypes, "CONVERSION", 0.0)


def compiled(program, host, **options):
    return compile_program(program, host=host, threads=1, **options)


def expected_of(runtime, images):
    program = merge(runtime.program)
    return reference.compute(program, *images, packed=dtypes.packed(program, runtime.plan.host))


def check_layer(program, host):
    """Every number is the emulation's or the next one, nearly all the same."""
    runtime, images = compiled(program, host), images_of(program)
    (expected,) = expected_of(runtime, images)
    found = runtime(*images)
    np.testing.assert_allclose(found, expected, rtol=STEP, atol=1e-6 * (1 + np.abs(expected).max()))
    assert np.mean(found == expected) > 0.98
    (decision,) = runtime.plan.decisions
    assert decision.narrow == "bfloat16"
    return decision


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("shape", "filters", "window", "strides", "same", "density"),
    [
        ((32, 32, 3), 5, (3, 3), 1, True, 1.0),  # Rows of one vector, an odd channel; filters, then what is left.
        ((16, 16, 5), 6, (5, 5), 1, True, 0.3),  # Two parts to a vector.
        ((8, 8, 7), 13, (5, 5), 1, True, 0.4),  # Four parts.
        ((7, 7, 3), 4, (5, 5), 1, True, 0.5),  # An odd width, and rows too many in the last part.
        ((4, 4, 3), 4, (7, 7), 1, True, 0.5),  # Halos reach over several parts.
        ((13, 27, 4), 3, (3, 3), 1, True, 0.6),  # Lanes are left over behind a row.
        ((12, 40, 4), 3, (5, 5), 1, True, 0.6),  # Rows of several vectors: neighbours are read.
        ((9, 75, 3), 3, (3, 7), 1, True, 0.6),
        ((56, 56, 2), 3, (3, 3), 1, True, 0.5),  # Parts in rows of several vectors.
        ((10, 12, 3), 3, (4, 2), 1, True, 0.6),
        ((32, 32, 6), 14, (1, 1), 1, True, 1.0),
        ((8, 8, 9), 5, (1, 1), 1, True, 0.3),
        ((5, 90, 4), 7, (1, 1), 1, True, 1.0),
        ((1, 1, 5), 7, (3, 3), 1, True, 1.0),
        ((32, 32, 4), 5, (1, 1), 2, True, 1.0),
        ((15, 18, 4), 5, (3, 3), 2, True, 0.6),
        ((16, 66, 3), 4, (2, 2), 2, True, 1.0),
        ((22, 23, 3), 4, (3, 5), 3, False, 0.6),
        ((19, 35, 2), 3, (5, 5), 1, False, 0.7),  # The copy's right halo holds pixels.
        ((9, 9, 4), 5, (3, 3), 1, True, 0.0),  # Every kernel pruned: the bias is left.
    ],
)
def test_a_convolution_is_the_emulations(shape, filters, window, strides, same, density, host):
    rng = np.random.default_rng(shape[1] + filters)
    settings = {"window": window, "strides": (strides, strides), "same": same, "density": density}
    check_layer(single(rng, shape, filters, **settings), host)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("activation", ops.FUSED_ACTIVATIONS)
def test_activations_come_before_rounding_and_a_relu_before_the_window(activation, host):
    settings = {"activation": activation, "slope": 0.3, "relu_input": True}
    check_layer(single(np.random.default_rng(0), (16, 16, 6), 7, window=(3, 3), density=0.5, **settings), host)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_filters_that_were_pruned_together_share_a_list(block, host):
    decision = check_layer(reference.pruned_together(np.random.default_rng(block), block), host)
    assert decision.sparse and block % decision.block.filters == 0


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("shape", [(16, 16), (7, 7), (5, 43)])
def test_a_residual_block_stays_in_bfloat16(shape, host):
    """Of odd widths and rows of several vectors; the sum's shift must not reach what lies behind a row."""
    program = reference.residual_block(np.random.default_rng(0), *shape)
    runtime, images = compiled(program, host), images_of(program)
    names = [name for _, name in runtime.plan.calls]
    assert sum(name.startswith(("pack_", "unpack_")) for name in names) == 2
    (expected,) = expected_of(runtime, images)
    np.testing.assert_allclose(runtime(*images), expected, atol=DRIFT * np.abs(expected).max())


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seed", range(12))
def test_a_random_program_is_the_emulations(seed, host):
    check_network(seed, host, length=8)


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seed", range(2000, 2060))
def test_many_random_programs_are_the_emulations(seed, host):
    check_network(seed, host, side=(4, 12, 40, 64)[seed % 4], length=3 + seed % 10)


def check_network(seed, host, **options):
    program = reference.random_program(np.random.default_rng(seed), **options)
    runtime, images = compiled(program, host), images_of(program)
    for found, expected in zip(runtime(*images), expected_of(runtime, images), strict=True):
        scale = 1 + np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, atol=DRIFT)
    return runtime


@needs_instruction
@pytest.mark.parametrize("seed", range(8))
def test_the_emulation_has_the_instructions_bits(seed):
    program = reference.random_program(np.random.default_rng(40 + seed), length=8)
    images = images_of(program)
    for emulated, found in zip(
        compiled(program, EMULATED)(*images), compiled(program, PAIR_HOST)(*images), strict=True
    ):
        np.testing.assert_array_equal(emulated, found)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seed", range(3))
def test_images_side_by_side_and_threads_change_no_bit(seed, host, monkeypatch):
    monkeypatch.setattr(tail, "LEAST_GAIN", -(10**9))
    monkeypatch.setattr(tail, "CHUNK", 200)
    program = reference.random_program(np.random.default_rng(seed), length=8)
    reference.check_images_side_by_side(compiled(program, host), images_of(program, 19))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("bad", "is_bad"), [(np.nan, np.isnan), (-np.float32(np.nan), np.isnan), (np.inf, np.isinf)])
def test_what_is_not_finite_stays_so_and_reaches_no_other_filter(bad, is_bad, host):
    """An odd number of inputs is filled up with zeros of their own, and a ReLU keeps a NaN of either sign."""
    program = single(np.random.default_rng(0), (8, 8, 3), 4, window=(3, 3), density=0.5, relu_input=True)
    (images,), live = images_of(program), program.ops[1].mask[0]
    images[:, 4, 4, 0] = bad
    found = compiled(program, host)(images)
    assert live.any() and not live.all()
    assert is_bad(found[:, 3:6, 3:6, live]).all()
    assert np.isfinite(found).sum() == found.size - 2 * 9 * live.sum()


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even():
    rows = [
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),  # Half way to the next: the even one.
        (1 + 3 * 2**-8, 0x3F82),
        (1 + 2**-8 + 2**-20, 0x3F81),
        (-(1 + 3 * 2**-8), 0xBF82),
        (3.4e38, 0x7F80),  # Beyond the largest.
        (np.nan, 0x7FC0),
    ]
    values, expected = np.array(rows).T
    np.testing.assert_array_equal(to_bfloat16(values.astype(np.float32)), expected.astype(np.uint16))


def test_maps_that_leave_lanes_empty_are_computed_in_float32(monkeypatch):
    monkeypatch.undo()
    rng = np.random.default_rng(0)

    def in_pairs(side):
        runtime = compiled(single(rng, (side, side, 128), 128, window=(1, 1)), EMULATED)
        return bool(runtime.plan.decisions[0].narrow)

    assert [in_pairs(side) for side in (1, 3, 7, 8, 16)] == [False, False, True, True, True]


def test_convolutions_that_save_less_than_conversions_cost_are_computed_in_float32(monkeypatch):
    monkeypatch.undo()
    rng = np.random.default_rng(0)

    def in_pairs(channels, density=1.0, count=1):
        convs = [
            reference.random_conv(rng, (16, 16, channels), channels, window=(1, 1), density=density, value=value)
            for value in range(count)
        ]
        program = ops.Program((ops.Input(inputs=(), size=(16, 16, channels)), *convs), (count,))
        return [number in dtypes.packed(program, EMULATED) for number in range(1, count + 1)]

    # Of C channels C * C / 2 multiply-adds a pixel are saved; 20 are paid for each of C numbers in and C out.
    assert (in_pairs(72), in_pairs(88), in_pairs(200, 0.3)) == ([False], [True], [False])
    assert in_pairs(48, count=4) == [True] * 4  # Both ends pay for one conversion each: 1,152 against 960.
    assert in_pairs(36, count=4) == [False] * 4  # 648 against 720: the ends, then what has become the ends.


def test_a_network_of_pairs_is_converted_where_others_read_it():
    """Input and pool are float32: 2 channels are packed, the 3 that the pool reads are unpacked, and no more."""
    rng = np.random.default_rng(0)
    first = reference.random_conv(rng, (16, 16, 2), 3, window=(3, 3), value=0)
    second = reference.random_conv(rng, (16, 16, 3), 3, window=(1, 1), value=1)
    joined = ops.Concatenate(inputs=(1, 2))
    third = reference.random_conv(rng, (16, 16, 6), 3, window=(1, 1), value=3)
    pool = ops.GlobalPool(inputs=(4,), kind="average")
    program = ops.Program((ops.Input(inputs=(), size=(16, 16, 2)), first, second, joined, third, pool), (5,))
    names = [re.sub(r"_\d+$", "", name) for _, name in compiled(program, EMULATED).plan.calls]
    assert names.count("pack") == names.count("unpack") == 1
    assert names.count("packed_convolution") == 3


@pytest.mark.parametrize("host", HOSTS)
def test_profiling_changes_no_bit(host):
    program = reference.random_program(np.random.default_rng(3), length=6)
    images = images_of(program)
    for plain, timed in zip(
        compiled(program, host)(*images), compiled(program, host, timed=True)(*images), strict=True
    ):
        np.testing.assert_array_equal(plain, timed)


# What a caller asks for.


def saved(tmp_path):
    program = single(np.random.default_rng(0), (16, 16, 4), 6, window=(3, 3), density=0.5)
    compile_program(program, threads=1).save(tmp_path / "network.nhn")
    return tmp_path / "network.nhn"


def test_a_file_holds_float32_and_the_type_is_chosen_where_it_is_loaded(tmp_path):
    path = saved(tmp_path)
    exact = nhn_tf.sparse.load(path, threads=1)
    assert not exact.plan.host.narrow
    if machine.has_pairs():
        rounded = nhn_tf.sparse.load(path, threads=1, dtype="bfloat16")
        assert rounded.plan.host == PAIR_HOST and "bfloat16" in rounded.summary()
        (images,) = images_of(exact.program)
        assert 0 < np.abs(rounded(images) - exact(images)).max() < 0.1
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(rounded))(images), rounded(images))
        rounded.save(path)
        np.testing.assert_array_equal(nhn_tf.sparse.load(path, threads=1)(images), exact(images))


def test_a_processor_without_the_instructions_refuses_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(machine, "has_pairs", lambda: False)
    with pytest.raises(nhn_tf.sparse.MissingInstructionError, match="bfloat16 needs a processor"):
        nhn_tf.sparse.load("there is no such file", dtype="bfloat16")
    with pytest.raises(nhn_tf.sparse.MissingInstructionError, match="bfloat16 needs a processor"):
        nhn_tf.sparse.compile(None, dtype="bfloat16")
    assert issubclass(nhn_tf.sparse.MissingInstructionError, ValueError)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match=r"`dtype` must be one of float32, bfloat16, int8, auto. Received: 'float16'"):
        nhn_tf.sparse.compile(None, dtype="float16")


@pytest.mark.parametrize(("gain", "narrow"), [(0.9, ""), (1.2, ""), (1.9, "bfloat16")])
def test_auto_takes_what_a_measurement_says(gain, narrow, monkeypatch):
    monkeypatch.setattr(machine, "has_pairs", lambda: True)
    monkeypatch.setattr(peaks, "multiply_adds", lambda host: gain if host.narrow else 1.0)
    peaks.fastest_host.cache_clear()
    assert peaks.fastest_host().narrow == narrow
    peaks.fastest_host.cache_clear()


def test_auto_is_float32_without_the_instructions(monkeypatch):
    monkeypatch.setattr(machine, "has_pairs", lambda: False)
    peaks.fastest_host.cache_clear()
    assert peaks.fastest_host() == machine.host()
    peaks.fastest_host.cache_clear()


@needs_instruction
def test_the_peak_of_both_types_is_that_of_a_processor():
    for host in (machine.host(), PAIR_HOST):
        assert 1e9 < peaks.multiply_adds(host) < 1e12


@needs_instruction
def test_a_library_computes_the_same_bits_and_is_for_this_processor_alone(tmp_path):
    runtime = nhn_tf.sparse.load(saved(tmp_path), threads=1, dtype="bfloat16")
    with pytest.raises(ValueError, match="becomes a library for this machine's processor alone"):
        runtime.export_library(tmp_path / "network.o", processor="x86-64-v4")
    runtime.export_library(tmp_path / "network.so")
    images = images_of(runtime.program)[0]
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "expected.npy", runtime(images))
    subprocess.run([sys.executable, "-c", CALLER], cwd=tmp_path, check=True)


CALLER = """
import ctypes
import numpy as np
library = ctypes.CDLL("./network.so")
library.nhn_load.restype = ctypes.c_void_p
images, expected = np.load("images.npy"), np.load("expected.npy")
found = np.empty_like(expected)
tables = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (images, found)]
assert library.nhn_run(ctypes.c_void_p(library.nhn_load()), *tables, ctypes.c_int64(len(images))) == 0
np.testing.assert_array_equal(found, expected)
"""
