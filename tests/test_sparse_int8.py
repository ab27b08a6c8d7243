"""Convolutions in int8 against NumPy's: by the processor's instructions, and emulated, which any machine can."""

import ctypes
import pickle

import numpy as np
import pytest
import sparse_reference as reference
from sparse_reference import images_of, single

pytest.importorskip("llvmlite", reason="the sparse runtime makes its kernels with llvmlite")

import nhn_tf.sparse
from nhn_tf.sparse import calibration, code_cache, compiler
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine, peaks
from nhn_tf.sparse.native.machine import EMULATED_QUADS, QUAD_HOST
from nhn_tf.sparse.plan import dtypes, tail
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.optimize import merge

needs_instruction = pytest.mark.skipif(not machine.has_quads(), reason="the processor has no instructions for int8")
HOSTS = [EMULATED_QUADS, pytest.param(QUAD_HOST, marks=needs_instruction)]


@pytest.fixture(autouse=True)
def all_in_quads(monkeypatch):
    """Also convolutions that would be as fast in float32: of maps that leave lanes empty, of few channels."""
    monkeypatch.setattr(dtypes, "LEAST_FILLED", 0.0)
    monkeypatch.setattr(dtypes, "CONVERSION", 0.0)
    monkeypatch.setattr(dtypes, "LEAST_DENSE", 0)


def compiled(program, host, **options):
    return compile_program(program, host=host, threads=1, calibrate=images_of(program), **options)


def expected_of(runtime, images):
    program, ranges = merge(runtime.program), runtime.plan.given_ranges or {}
    return reference.compute(program, *images, packed=dtypes.packed(program, runtime.plan.host), ranges=ranges)


def check_layer(program, host, seed=1):
    """Every number is NumPy's or a step beside it, nearly all the same."""
    runtime, images = compiled(program, host), images_of(program, seed=seed)
    (expected,) = expected_of(runtime, images)
    found = runtime(*images)
    step = reference.to_int8(merge(program), runtime.plan.given_ranges).steps(1)
    off = np.abs(found - expected) / step
    assert off.max() < 1.01
    assert np.mean(off < 0.01) > 0.98
    (decision,) = runtime.plan.decisions
    assert decision.narrow == "int8"
    return decision


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("shape", "filters", "window", "strides", "same", "density"),
    [
        ((32, 32, 3), 5, (3, 3), 1, True, 1.0),  # Two parts to a vector, three channels; filters, then what is left.
        ((16, 16, 5), 6, (5, 5), 1, True, 0.3),  # Four parts.
        ((8, 8, 7), 13, (5, 5), 1, True, 0.4),  # Eight parts of one row each.
        ((7, 7, 3), 4, (5, 5), 1, True, 0.5),  # An odd width, and rows too many in the last part.
        ((13, 27, 4), 3, (3, 3), 1, True, 0.6),  # Lanes are left over behind a row.
        ((12, 70, 9), 3, (5, 5), 1, True, 0.6),  # Rows of several vectors: neighbours are read.
        ((9, 75, 3), 3, (3, 7), 1, True, 0.6),
        ((10, 12, 3), 3, (4, 2), 1, True, 0.6),
        ((32, 32, 6), 14, (1, 1), 1, True, 1.0),
        ((8, 8, 9), 5, (1, 1), 1, True, 0.3),
        ((1, 1, 5), 7, (3, 3), 1, True, 1.0),
        ((32, 32, 4), 5, (1, 1), 2, True, 1.0),
        ((15, 18, 4), 5, (3, 3), 2, True, 0.6),
        ((16, 130, 3), 4, (2, 2), 2, True, 1.0),
        ((22, 23, 3), 4, (3, 5), 3, False, 0.6),
        ((19, 35, 2), 3, (5, 5), 1, False, 0.7),  # The copy's right halo holds pixels.
        ((9, 9, 4), 5, (3, 3), 1, True, 0.0),  # Every kernel pruned: the bias is left.
    ],
)
def test_a_convolution_is_numpys(shape, filters, window, strides, same, density, host):
    rng = np.random.default_rng(shape[1] + filters)
    settings = {"window": window, "strides": (strides, strides), "same": same, "density": density}
    check_layer(single(rng, shape, filters, **settings), host)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("activation", ops.FUSED_ACTIVATIONS)
@pytest.mark.parametrize("relu_input", [False, True])
def test_activations_come_before_rounding_and_a_relu_before_the_window(activation, relu_input, host):
    settings = {"activation": activation, "slope": 0.3, "relu_input": relu_input}
    check_layer(single(np.random.default_rng(0), (16, 16, 6), 7, window=(3, 3), density=0.5, **settings), host)


@pytest.mark.parametrize("host", HOSTS)
def test_what_lies_beyond_the_ranges_is_cut(host):
    """Other images than those that it was calibrated with."""
    program = single(np.random.default_rng(0), (8, 8, 4), 5, window=(3, 3), density=0.5)
    runtime = compiled(program, host)
    (images,) = images_of(program, seed=5)
    (expected,) = expected_of(runtime, [100 * images])
    assert np.abs(runtime(100 * images) - expected).max() < 1.01 * np.abs(expected).max() / 127
    assert np.abs(runtime(np.full_like(images, np.nan))).max() <= np.abs(expected).max()


@pytest.mark.parametrize("host", HOSTS)
def test_a_map_that_was_never_other_than_zero_stays_zero(host):
    program = single(np.random.default_rng(0), (8, 8, 4), 5, window=(3, 3), activation="relu")
    program.ops[1].bias[:] = -1e7
    runtime = compiled(program, host)
    assert runtime.plan.given_ranges[1] == (0.0, 0.0)
    assert not runtime(*images_of(program, seed=2)).any()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_filters_that_were_pruned_together_share_a_list(block, host):
    decision = check_layer(reference.pruned_together(np.random.default_rng(block), block), host)
    assert decision.sparse and block % decision.block.filters == 0


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("shape", [(16, 16), (7, 7), (5, 83)])
def test_a_residual_block_stays_in_int8(shape, host):
    """Of odd widths and rows of several vectors; the sum's shift must not reach what lies behind a row."""
    program = reference.residual_block(np.random.default_rng(0), *shape)
    runtime, images = compiled(program, host), images_of(program)
    names = [name for _, name in runtime.plan.calls]
    assert sum(name.startswith(("pack_", "unpack_")) for name in names) == 2
    (expected,) = expected_of(runtime, images)
    np.testing.assert_allclose(runtime(*images), expected, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seed", range(6))
def test_a_random_program_is_numpys(seed, host):
    check_network(seed, host, length=8)


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seed", range(3000, 3060))
def test_many_random_programs_are_numpys(seed, host):
    check_network(seed, host, side=(4, 12, 40, 64)[seed % 4], length=3 + seed % 10)


def check_network(seed, host, **options):
    program = reference.random_program(np.random.default_rng(seed), **options)
    runtime, images = compiled(program, host), images_of(program)
    for found, expected in zip(runtime(*images), expected_of(runtime, images), strict=True):
        off = np.abs(found - expected) / (np.abs(expected).max() + 1e-6)
        assert off.max() < 0.06  # A number at half a step may go either way, and what it led to.
        assert np.mean(off < 1e-5) > 0.8
    return runtime


@needs_instruction
@pytest.mark.parametrize("seed", range(4))
def test_the_emulation_has_the_instructions_bits(seed):
    program = reference.random_program(np.random.default_rng(40 + seed), length=8)
    images = images_of(program)
    made = [compiled(program, host)(*images) for host in (EMULATED_QUADS, QUAD_HOST)]
    for emulated, found in zip(*made, strict=True):
        np.testing.assert_array_equal(emulated, found)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seed", range(2))
def test_images_side_by_side_and_threads_change_no_bit(seed, host, monkeypatch):
    monkeypatch.setattr(tail, "LEAST_GAIN", -(10**9))
    monkeypatch.setattr(tail, "CHUNK", 200)
    program = reference.random_program(np.random.default_rng(seed), length=8)
    reference.check_images_side_by_side(compiled(program, host), images_of(program, 19))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("inputs", "filters"), [(5, 3), (70, 40), (200, 130)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_dense_layer_is_numpys(inputs, filters, signed, host):
    rng = np.random.default_rng(inputs)
    kernel, bias = rng.standard_normal((inputs, filters)), rng.standard_normal(filters)
    dense = ops.Dense(inputs=(0,), kernel=kernel.astype(np.float32), bias=bias.astype(np.float32), activation="relu")
    program = ops.Program((ops.Input(inputs=(), size=(inputs,)), dense), (1,))
    (images,) = images_of(program, count=9)
    images = images if signed else np.abs(images)
    runtime = compile_program(program, host=host, threads=1, calibrate=images)
    (expected,) = expected_of(runtime, [images])
    assert any(name.startswith("quantize") for _, name in runtime.plan.calls)
    np.testing.assert_allclose(runtime(images), expected, atol=1e-5 * np.abs(expected).max())
    exact = np.maximum(images @ kernel + bias, 0)
    assert 0 < np.abs(runtime(images) - exact).max() < 0.03 * exact.max()


def test_a_convolution_whose_sums_could_overflow_is_computed_in_float32():
    program = single(np.random.default_rng(0), (4, 4, 8), 2, window=(3, 3))
    assert dtypes.packed(program, EMULATED_QUADS) == {1}
    wide = single(np.random.default_rng(0), (4, 4, dtypes.MOST_PRODUCTS // 9 + 1), 1, window=(3, 3), density=0.001)
    assert dtypes.packed(wide, EMULATED_QUADS) == set()


def test_the_largest_sums_are_exact():
    """All bytes at their ends: 255 or 127 + 128 times 127, of as many products as are allowed."""
    channels = dtypes.MOST_PRODUCTS // 9
    mask, kernels = np.ones((channels, 1), bool), np.ones((channels, 3, 3), np.float32)
    conv = ops.Conv(
        inputs=(0,), window=(3, 3), strides=(1, 1), pads=(1, 1), size=(3, 3), mask=mask, kernels=kernels,
        bias=np.zeros(1, np.float32),
    )  # fmt: skip
    program = ops.Program((ops.Input(inputs=(), size=(3, 3, channels)), conv), (1,))
    ones = np.ones((2, 3, 3, channels), np.float32)
    for images in (ones, ones * np.array([[[[1]]], [[[-1]]]], np.float32)):
        runtime = compile_program(program, host=EMULATED_QUADS, threads=1, calibrate=images)
        np.testing.assert_allclose(runtime(images)[:, 1, 1, 0], images[:, 1, 1, 0] * 9 * channels, rtol=1e-5)


def test_ranges_are_those_of_all_images_and_hold_zero():
    images = np.zeros((20, 4, 4, 3), np.float32)
    images[17, 1, 2] = 5, -2, 0.5
    program = single(np.random.default_rng(0), (4, 4, 3), 2, window=(1, 1), activation="relu")
    found = calibration.ranges(program, EMULATED_QUADS, images)
    assert sorted(found) == [0, 1]
    assert found[0] == (-2, 5)
    expected = np.maximum(images.reshape(-1, 3) @ program.ops[1].kernels.reshape(2, 3).T + program.ops[1].bias, 0)
    assert found[1] == (0, pytest.approx(expected.max(), rel=1e-5))


@pytest.mark.parametrize("host", HOSTS)
def test_profiling_changes_no_bit(host):
    program = reference.random_program(np.random.default_rng(3), length=6)
    images = images_of(program)
    made = [compiled(program, host, timed=timed)(*images) for timed in (False, True)]
    for plain, timed in zip(*made, strict=True):
        np.testing.assert_array_equal(plain, timed)


# What a caller asks for.


@pytest.fixture
def saved(tmp_path):
    program = single(np.random.default_rng(0), (16, 16, 4), 6, window=(3, 3), density=0.5)
    compile_program(program, threads=1).save(tmp_path / "network.nhn")
    return tmp_path / "network.nhn"


@needs_instruction
def test_a_file_holds_float32_and_images_are_given_where_it_is_loaded(saved):
    exact = nhn_tf.sparse.load(saved, threads=1)
    (images,) = images_of(exact.program)
    rounded = nhn_tf.sparse.load(saved, threads=1, dtype="int8", calibrate=images)
    assert rounded.plan.host == QUAD_HOST and "int8" in rounded.summary()
    assert repr(rounded) == "SparseRuntime([B, 16, 16, 4] -> [B, 16, 16, 6], int8, threads=1)"
    assert 0 < np.abs(rounded(images) - exact(images)).max() < 0.1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rounded))(images), rounded(images))
    profile = nhn_tf.sparse.profile(rounded, images, seconds=0.01)
    assert "int8" in str(profile) and profile.peak == pytest.approx(2 * peaks.multiply_adds(QUAD_HOST), rel=0.9)
    rounded.save(saved)
    np.testing.assert_array_equal(nhn_tf.sparse.load(saved, threads=1)(images), exact(images))


@needs_instruction
def test_a_network_is_pickled_of_which_nothing_is_in_int8():
    pool = ops.Pool(inputs=(0,), kind="max", window=(2, 2), strides=(2, 2), pads=(0, 0), size=(4, 4))
    program = ops.Program((ops.Input(inputs=(), size=(8, 8, 3)), pool), (1,))
    (images,) = images_of(program)
    runtime = compile_program(program, dtype="int8", calibrate=images)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(runtime))(images), runtime(images))
    assert "int8 in no convolution" in repr(runtime)


@needs_instruction
def test_a_pickled_network_is_refused_where_the_instructions_are_not(saved, monkeypatch):
    """Rather than end the process, as LLVM does."""
    (images,) = images_of(nhn_tf.sparse.load(saved).program)
    pickled = pickle.dumps(nhn_tf.sparse.load(saved, dtype="int8", calibrate=images))
    monkeypatch.setattr(machine, "has_quads", lambda: False)
    with pytest.raises(nhn_tf.sparse.MissingInstructionError, match="int8 needs a processor"):
        pickle.loads(pickled)


@needs_instruction
def test_the_cache_keeps_what_images_decided(saved, tmp_path, monkeypatch):
    monkeypatch.setenv(code_cache.SWITCH, "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images = images_of(nhn_tf.sparse.load(saved).program, count=4)[0]

    def load(seen):
        return nhn_tf.sparse.load(saved, threads=1, dtype="int8", calibrate=seen)

    first, other = load(images), load(images[:2])
    monkeypatch.setattr(compiler, "lower", None)
    monkeypatch.setattr(calibration, "lower", None)
    for runtime, seen in ((first, images), (other, images[:2])):
        again = load(seen)
        np.testing.assert_array_equal(again(images), runtime(images))
        assert again.plan.ranges == runtime.plan.ranges
    assert first.plan.ranges != other.plan.ranges


@needs_instruction
@pytest.mark.parametrize("given", ["array", "list", "tensor"])
def test_a_model_is_compiled_with_images(given):
    keras = pytest.importorskip("keras")
    layers, image = keras.layers, keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(8, 3, padding="same")(x)
    model = keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    images = np.random.default_rng(0).random((20, 16, 16, 3)).astype(np.float32)
    seen = {"array": images, "list": [images], "tensor": keras.ops.convert_to_tensor(images)}[given]
    runtime = nhn_tf.sparse.compile(model, dtype="int8", calibrate=seen)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    off = np.abs(runtime(images) - expected).max() / np.abs(expected).max()
    assert 1e-6 < off < 0.05  # Rounded, and no more than that.


IMAGES = np.zeros((2, 16, 16, 4), np.float32)


@needs_instruction
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:, :8], r"`calibrate` must have the shape \[B, 16, 16, 4\]. Received: \(2, 8, 16, 4\)"),
        (IMAGES[0], r"Received: \(16, 16, 4\)"),
        (list(IMAGES), r"Received: \(16, 16, 4\), \(16, 16, 4\)"),
        ([], "Received: none"),
        (5, r"Received: \(\)"),
        ("images", "`calibrate` must be real numbers"),
        (IMAGES.astype(object), "`calibrate` must be real numbers"),
        (IMAGES.astype("M8[s]"), "`calibrate` must be real numbers"),
        (IMAGES[:0], "`calibrate` must hold one image or more"),
        (IMAGES * np.nan, "`calibrate` must be finite"),
    ],
)
@pytest.mark.parametrize("cache", ["0", "1"])
def test_images_that_do_not_fit_are_refused(images, message, cache, saved, tmp_path, monkeypatch):
    monkeypatch.setenv(code_cache.SWITCH, cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        nhn_tf.sparse.load(saved, dtype="int8", calibrate=images)


@needs_instruction
def test_int8_is_refused_where_keras_must_compute_a_layer():
    keras = pytest.importorskip("keras")
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv1D(4, 3)(keras.layers.Reshape((256, 3))(image))
    with pytest.raises(
        nhn_tf.sparse.UnsupportedLayerError, match='"float32" or "bfloat16". Received: "int8", and layer'
    ):
        nhn_tf.sparse.compile(keras.Model(image, x), dtype="int8", calibrate=np.zeros((1, 16, 16, 3)), fallback="keras")


@needs_instruction
def test_each_input_has_as_many_images(tmp_path):
    size = (8, 8, 4)
    inputs = [ops.Input(inputs=(), size=size) for _ in range(2)]
    program = ops.Program((*inputs, ops.Elementwise(inputs=(0, 1))), (2,))
    with pytest.raises(ValueError, match="all inputs must have as many images"):
        compile_program(program, dtype="int8", calibrate=[np.zeros((count, *size)) for count in (8, 16)])


@pytest.mark.parametrize(("dtype", "calibrate"), [("int8", None), ("float32", np.zeros((1, 2)))])
def test_images_belong_to_int8(dtype, calibrate):
    with pytest.raises(ValueError, match="`calibrate` must be images for int8, and for it alone"):
        nhn_tf.sparse.load("there is no such file", dtype=dtype, calibrate=calibrate)


def test_a_processor_without_the_instructions_refuses_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(machine, "has_quads", lambda: False)
    with pytest.raises(nhn_tf.sparse.MissingInstructionError, match="int8 needs a processor"):
        nhn_tf.sparse.load("there is no such file", dtype="int8", calibrate=np.zeros((1, 2)))


@needs_instruction
def test_a_library_computes_the_same_bits(saved, tmp_path):
    (images,) = images_of(nhn_tf.sparse.load(saved).program)
    runtime = nhn_tf.sparse.load(saved, threads=1, dtype="int8", calibrate=images)
    with pytest.raises(ValueError, match=r"computes in int8 becomes a library for this machine's processor alone"):
        runtime.export_library(tmp_path / "network.o", processor="x86-64-v4")
    runtime.export_library(tmp_path / "network.so")
    library = ctypes.CDLL(str(tmp_path / "network.so"))
    library.nhn_load.restype = ctypes.c_void_p
    found = np.empty_like(expected := runtime(images))
    inputs, outputs = ((ctypes.c_void_p * 1)(array.ctypes.data) for array in (images, found))
    network = ctypes.c_void_p(library.nhn_load())
    assert library.nhn_run(network, inputs, outputs, ctypes.c_int64(len(images))) == 0
    library.nhn_free(network)
    np.testing.assert_array_equal(found, expected)
