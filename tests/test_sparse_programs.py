"""Native code against NumPy: random programs, sizes, strides, densities and vector widths."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import sparse_reference as reference
from sparse_reference import check, single

from nhn_tf.sparse import calibration
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.native.layout import Grid, Layout, grid_for
from nhn_tf.sparse.plan import blocks, dtypes, tail
from nhn_tf.sparse.plan.forms import read_by
from nhn_tf.sparse.plan.lower import lower
from nhn_tf.sparse.plan.moves import vector_moves
from nhn_tf.sparse.program import operations as ops
from nhn_tf.sparse.program.optimize import merge

LANES = list(machine.HOSTS)
"""On machines of narrower vectors LLVM splits the wide ones."""


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    ("shape", "filters", "window", "stride", "same", "density"),
    [
        ((32, 32, 3), 5, 3, 1, True, 1.0),  # The stem: rows of two vectors.
        ((16, 16, 5), 6, 5, 1, True, 0.2),
        ((8, 8, 6), 13, 5, 1, True, 0.3),  # Two parts to a vector: halos are copied.
        ((7, 7, 3), 4, 5, 1, True, 0.5),  # The last part has a row too many.
        ((4, 4, 3), 4, 7, 1, True, 0.5),  # Halos reach over several parts.
        ((13, 28, 4), 3, 3, 1, True, 0.5),  # The last vector overlaps.
        ((24, 24, 2), 3, 3, 1, True, 1.0),
        ((1, 1, 5), 7, 3, 1, True, 1.0),  # One lane of a vector is stored.
        ((64, 64, 2), 3, 1, 1, True, 1.0),
        ((9, 5, 3), 4, 3, 2, True, 0.5),
        ((16, 16, 3), 4, 2, 2, True, 1.0),
        ((11, 10, 3), 4, 3, 3, False, 1.0),
        ((9, 9, 2), 3, 5, 1, False, 0.5),
        ((6, 6, 4), 5, 3, 1, True, 0.0),  # Every kernel pruned: the bias is left.
    ],
)
def test_a_convolution_is_numpys(shape, filters, window, stride, same, density, lanes):
    rng = np.random.default_rng(shape[0] + filters)
    settings = {"window": (window, window), "strides": (stride, stride), "same": same, "density": density}
    check(single(rng, shape, filters, **settings), 1, lanes)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    ("shape", "filters", "settings"),
    [
        ((3, 3, 40), 70, {}),  # Groups, then what is left of them.
        ((1, 1, 300), 33, {"activation": "relu"}),  # More inputs than a segment.
        ((2, 2, 24), 16, {"relu_input": True, "activation": "leaky_relu"}),
        ((2, 3, 24), 50, {"density": 0.5}),  # Dead kernels among live ones.
        ((5, 5, 20), 40, {"strides": (2, 2), "activation": "relu6"}),  # 3x3 outputs, of a copy.
        ((5, 4, 200), 48, {}),  # More pixels than registers.
        ((2, 2, 24), 33, {"window": (3, 3)}),  # Most of a window beyond the border.
        ((3, 2, 70), 16, {"window": (5, 3), "density": 0.5, "relu_input": True}),
        ((5, 5, 20), 40, {"window": (3, 3), "strides": (2, 2), "activation": "relu"}),
        ((4, 4, 20), 32, {"window": (2, 2), "same": False}),
    ],
)
def test_a_convolution_with_filters_in_lanes_is_numpys(shape, filters, settings, lanes, monkeypatch):
    monkeypatch.setattr(blocks, "RESULT_COST", -10.0)
    monkeypatch.setattr(blocks, "SCALAR_LOAD", 0.01)
    rng = np.random.default_rng(shape[0] + filters)
    monkeypatch.setattr(blocks, "MAX_UNROLLED", 10_000)
    runtime = check(single(rng, shape, filters, **{"window": (1, 1), **settings}), 1, lanes)
    assert [decision.filter_lanes for decision in runtime.plan.decisions] == [True]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_filters_that_were_pruned_together_share_a_list(block, lanes):
    rng = np.random.default_rng(block)
    conv = reference.random_conv(rng, (14, 14, 96), 48, window=(1, 1))
    mask = np.repeat(rng.random((96, 48 // block)) < 0.1, block, axis=1)
    kernels = rng.standard_normal((int(mask.sum()), 1, 1)).astype(np.float32)
    conv = dataclasses.replace(conv, mask=mask, kernels=kernels)
    runtime = check(ops.Program((ops.Input(inputs=(), size=(14, 14, 96)), conv), (1,)), 1, lanes)
    (decision,) = runtime.plan.decisions
    assert decision.sparse
    assert (
        decision.block.filters in {1: (1,), 2: (2,), 4: (2, 4), 8: (2, 4, 8)}[block]
    )  # Narrow vectors have few registers.


def test_what_is_computed_is_what_any_filter_of_a_group_needs():
    mask = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]], bool)  # Live entries by rows, in groups:
    assert read_by(mask, 1).sum() == 1 + 2 + 5
    assert read_by(mask, 2).sum() == 1 + 2 + 3  # 10 00 0, 01 00 1, 11 11 1
    assert read_by(mask, 4).sum() == 1 + 2 + 2


def test_filters_lie_in_lanes_where_pixels_would_leave_them_empty():
    rng = np.random.default_rng(0)

    def in_lanes(side, inputs, filters, window=1, density=1.0):
        program = single(rng, (side, side, inputs), filters, window=(window, window), density=density)
        return lower(program, machine.HOSTS[16]).decisions[0].filter_lanes

    assert in_lanes(3, 960, 160)  # 9 of 32 lanes.
    assert in_lanes(2, 960, 160)  # 4 of 16.
    assert not in_lanes(4, 96, 576)  # 16 of 16.
    assert not in_lanes(8, 96, 576)
    assert not in_lanes(3, 4, 576)  # So few inputs that bringing results to planes weighs more.
    assert not in_lanes(3, 960, 10)  # Too few filters for a vector.
    assert in_lanes(2, 128, 128, 3)  # 4 of 16, and 16 of the 36 weights that the window has for a map.
    assert not in_lanes(2, 128, 128, 3, 0.1)  # Live kernels alone are fewer.
    assert not in_lanes(8, 128, 128, 3)


@pytest.mark.parametrize("seed", range(9))
def test_a_random_program_is_numpys(seed):
    check(reference.random_program(np.random.default_rng(seed), length=6), seed, LANES[seed % len(LANES)])


@pytest.fixture
def tails(monkeypatch):
    """What only large networks gain by, small programs get too: a tail, of pieces of few weights, filters in lanes."""
    monkeypatch.setattr(blocks, "RESULT_COST", -(10.0**9))
    monkeypatch.setattr(tail, "LEAST_GAIN", -(10**9))
    monkeypatch.setattr(tail, "CHUNK", 200)


@pytest.fixture
def all_in_pairs(monkeypatch):
    """Also convolutions that would be as fast in float32."""
    monkeypatch.setattr(dtypes, "LEAST_FILLED", 0.0)
    monkeypatch.setattr(dtypes, "CONVERSION", 0.0)
    monkeypatch.setattr(dtypes, "LEAST_DENSE", 0)


@pytest.mark.parametrize("seed", range(20, 29))
def test_a_random_program_with_a_tail_is_numpys(seed, tails):
    program = reference.random_program(np.random.default_rng(seed), length=6, side=7, channels=20)
    assert check(program, seed, LANES[seed % len(LANES)]).plan.group > 1


@pytest.mark.parametrize("seed", range(3))
def test_images_side_by_side_have_the_bits_that_they_have_alone(seed, tails):
    rng = np.random.default_rng(seed)
    runtime = compile_program(reference.random_program(rng, length=8), threads=1)
    images = [rng.standard_normal((19, *shape)).astype(np.float32) for shape in runtime.input_shapes]
    expected = runtime(*images)
    for first in range(19):
        for one, all_ in zip(runtime(*(image[first : first + 1] for image in images)), expected, strict=True):
            np.testing.assert_array_equal(one[0], all_[first])
    for threads in (2, 3):
        for result, wanted in zip(runtime(*images, threads=threads), expected, strict=True):
            np.testing.assert_array_equal(result, wanted)


def test_the_tail_begins_where_weights_outweigh_maps():
    rng = np.random.default_rng(0)
    operations = [ops.Input(inputs=(), size=(16, 16, 64))]
    for number in range(3):  # 4,096 weights, maps of 16,384 numbers.
        operations.append(reference.random_conv(rng, (16, 16, 64), 64, window=(1, 1), value=number))
    operations.append(ops.GlobalPool(inputs=(3,), kind="average"))
    operations.append(ops.Dense(inputs=(4,), kernel=np.zeros((64, 1000), np.float32), bias=np.zeros(1000, np.float32)))
    assert tail.tail_start(ops.Program(tuple(operations), (5,))) == 5  # 65,000 numbers for a copy of 64.
    assert tail.tail_start(ops.Program(tuple(operations[:5]), (4,))) == 5  # None.


def test_chunks_hold_up_to_so_many_weights_or_one_group(monkeypatch):
    monkeypatch.setattr(tail, "CHUNK", 10)
    assert tail.chunks(np.array([0, 4, 8, 12, 40, 41, 51])) == [(0, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert tail.chunks(np.array([0, 10, 20])) == [(0, 1), (1, 2)]
    assert tail.chunks(np.array([0])) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1400, 1500))
def test_many_random_programs_with_tails_are_numpys(seed, tails):
    rng = np.random.default_rng(seed)
    side, channels = (int(rng.choice(sizes)) for sizes in ([4, 12, 40], [6, 20]))
    program = reference.random_program(rng, side=side, channels=channels, length=int(rng.integers(3, 14)))
    check(program, seed, LANES[seed % len(LANES)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1400))
def test_many_random_programs_are_numpys(seed):
    rng = np.random.default_rng(seed)
    program = reference.random_program(rng, side=int(rng.choice([4, 12, 40, 64])), length=int(rng.integers(3, 14)))
    check(program, seed, LANES[seed % len(LANES)])


@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
def test_activations_are_exact_to_float32_over_their_range(activation):
    values = np.concatenate([np.linspace(-80, 80, 400), np.linspace(-1, 1, 99)]).astype(np.float32)
    op = ops.Elementwise(inputs=(0,), activation=activation, slope=0.3)
    program = ops.Program((ops.Input(inputs=(), size=(len(values),)), op), (1,))
    result = compile_program(program, threads=1)(values[None])
    expected = reference.activate(values[None].astype(float), activation, 0.3)
    np.testing.assert_allclose(result, expected, rtol=3e-6, atol=2e-7)


def test_softmax_stands_large_logits_and_ignores_unused_lanes():
    program = ops.Program((ops.Input(inputs=(), size=(5,)), ops.Softmax(inputs=(0,))), (1,))
    logits = np.float32([[1000, 999, -1000, 0, 1000], [-2000, -2001, -2002, -2003, -2004]])
    expected = reference.compute(program, logits)[0]
    np.testing.assert_allclose(compile_program(program, threads=1)(logits), expected, atol=1e-6)


def test_long_sums_round_less_than_in_order():
    channels = 20_000
    rng = np.random.default_rng(0)
    conv = reference.random_conv(rng, (1, 1, channels), 24, window=(1, 1))
    conv.kernels[:] = rng.uniform(0.5, 1.5, conv.kernels.shape)
    conv.bias[:] = 0
    program = ops.Program((ops.Input(inputs=(), size=(1, 1, channels)), conv), (1,))
    images = rng.uniform(0.5, 1.5, (1, 1, 1, channels)).astype(np.float32)
    products = conv.kernels.reshape(24, channels) * images[0, 0, 0]
    in_order = np.cumsum(products, axis=1, dtype=np.float32)[:, -1]
    expected = reference.compute(program, images)[0].ravel()
    found = compile_program(program, threads=1)(images).ravel()
    off, off_in_order = (np.abs(values / expected - 1).mean() for values in (found, in_order))
    assert off < 3e-7 < off_in_order


def test_a_nan_in_an_image_reaches_the_result():
    rng = np.random.default_rng(0)
    program = single(rng, (8, 8, 2), 3, window=(3, 3), activation="relu")
    images = rng.standard_normal((1, 8, 8, 2)).astype(np.float32)
    images[0, 4, 4, 0] = np.nan
    assert np.isnan(compile_program(program, threads=1)(images)[0, 3:6, 3:6]).all()


@pytest.mark.parametrize("lanes", LANES)
def test_a_nan_goes_through_maxima_and_activations(lanes):
    images = ops.Input(inputs=(), size=(5, 7, 2))
    window = {"window": (2, 2), "strides": (1, 1), "pads": (0, 0), "size": (4, 6)}
    pool = ops.Pool(inputs=(0,), kind="max", **window)
    whole = ops.GlobalPool(inputs=(0,), kind="max")
    curves = [ops.Elementwise(inputs=(0,), activation=name) for name in ops.ACTIVATIONS]
    program = ops.Program((images, pool, whole, *curves, ops.Softmax(inputs=(2,))), tuple(range(1, 4 + len(curves))))
    runtime = compile_program(program, threads=1, host=machine.HOSTS[lanes])
    for y, x in ((0, 0), (2, 3), (4, 6)):
        values = np.zeros((1, 5, 7, 2), np.float32)
        values[0, y, x, 0] = np.nan
        pooled, largest, *curved, soft = runtime(values)
        assert np.isnan(pooled[0, max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1, 0]).all()
        assert np.isnan(pooled).sum() == (min(y, 3) - max(y - 1, 0) + 1) * (min(x, 5) - max(x - 1, 0) + 1)
        assert np.isnan(largest[0]).tolist() == [True, False]
        assert all(np.isnan(curve[0, y, x, 0]) and np.isnan(curve).sum() == 1 for curve in curved)
        assert np.isnan(soft).all()


def test_the_exponential_is_zero_and_infinite_where_float32_is():
    values = np.float32([-np.inf, -200, -87.5, -85, 88, 88.5, 88.72, 88.73, 200, np.inf])
    op = ops.Elementwise(inputs=(0,), activation="exponential")
    program = ops.Program((ops.Input(inputs=(), size=(len(values),)), op), (1,))
    with np.errstate(over="ignore"):
        expected = np.exp(values)
    np.testing.assert_allclose(compile_program(program, threads=1)(values[None])[0], expected, rtol=3e-6, atol=1e-37)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("poison", [0x7FFFFFFF, 0x7F617F61], ids=["nan", "3e38"])
@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize(
    "narrow", [None, machine.EMULATED, machine.EMULATED_QUADS], ids=["float32", "bfloat16", "int8"]
)
def test_nothing_is_read_that_was_not_written(seed, poison, side_by_side, narrow, request):
    if side_by_side:
        request.getfixturevalue("tails")
    if narrow:
        request.getfixturevalue("all_in_pairs")
    rng = np.random.default_rng(100 + seed)
    sizes = {"side": 7, "channels": 20} if side_by_side else {}  # So that filters may fill lanes.
    program = merge(reference.random_program(rng, length=6, **sizes))
    check_nothing_is_read(rng, program, narrow or machine.HOSTS[LANES[seed % len(LANES)]], poison)


@pytest.mark.parametrize("host", [machine.EMULATED, machine.EMULATED_QUADS], ids=["bfloat16", "int8"])
def test_planes_between_two_types_are_written_alike_or_apart(host, all_in_pairs):
    """Of a map of one column, narrower than a lane: on the way to a narrow type the others' planes stay zero."""
    rng = np.random.default_rng(0)
    check_nothing_is_read(rng, single(rng, (4, 1, 2), 3, window=(3, 3)), host, 0x7F617F61)


def check_nothing_is_read(rng, program, host, poison):
    ranges = None
    if host.narrow == "int8":
        ranges = calibration.ranges(
            program, host, [rng.standard_normal((2, *program.shapes[n])).astype(np.float32) for n in program.inputs]
        )
    reference.check_poisoned(lower(program, host, ranges=ranges), rng, poison)


def test_every_second_value_is_copied_by_vectors_that_overlap_at_the_end():
    moves = vector_moves(((10, 0, 6),), (2, 1), 4)  # Values 0, 2, 4, 6, 8, 10 to 10..15.
    assert moves.patterns == (((0, 2, 4, 6), 2),)
    np.testing.assert_array_equal(moves.vectors, [[10, 0], [12, 4]])


def test_rows_that_share_a_target_row_are_copied_together():
    moves = vector_moves(((0, 0, 2), (1, 20, 2), (7, 50, 1)), (1, 2), 4)  # Two parts; a lone value to 7.
    assert moves.patterns == (((0, None, None, None), 1), ((0, 20, 1, 21), 1))
    np.testing.assert_array_equal(moves.vectors, [[7, 50], [0, 0]])


@pytest.mark.parametrize("seed", range(20))
def test_vectors_copy_what_rows_say_and_write_nothing_else(seed):
    rng = np.random.default_rng(seed)
    lanes, steps = int(rng.choice([4, 8, 16])), (int(rng.integers(1, 5)), int(rng.integers(1, 4)))
    rows, to = [], 0
    for _ in range(int(rng.integers(1, 8))):
        count = int(rng.integers(1, 40))
        rows.append((to, int(rng.integers(0, 300)), count))
        to += count * steps[1] + int(rng.integers(16, 40))
    source, expected = rng.standard_normal(500), np.zeros(to)
    for start, first, count in rows:
        expected[start : start + count * steps[1] : steps[1]] = source[first : first + count * steps[0] : steps[0]]
    moves = vector_moves(tuple(rows), steps, lanes)
    found = np.zeros(to)
    patterns = [pattern for pattern, count in moves.patterns for _ in range(count)]
    for (target, first), pattern in zip(moves.vectors, patterns, strict=True):
        for lane, offset in enumerate(pattern):
            if offset is not None:
                found[target + lane] = source[first + offset]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (5, 3), (1, 1), (4, 16), (9, 2)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_seams_make_every_part_see_its_neighbours(height, width, parts):
    if parts > height:
        return
    layout = Layout(Grid(height, width, parts), above=2, below=2, left=2, right=2)
    plane = np.zeros(layout.plane)
    image = 1 + np.arange(height * width, dtype=float).reshape(height, width)
    interior = plane[layout.origin :]
    for y in range(height):
        interior[layout.row(y) : layout.row(y) + width * parts : parts] = image[y]
    for target, source in layout.seams():
        for x in range(width):
            plane[layout.origin + target + x * parts] = plane[layout.origin + source + x * parts]
    padded = np.zeros((parts * layout.grid.rows + 4, width + 4))
    padded[2 : height + 2, 2 : width + 2] = image
    for part in range(parts):
        for local in range(-2, layout.grid.rows + 2):
            start = layout.origin + local * layout.stride + part
            row = plane[start - 2 * parts : start + (width + 2) * parts : parts]
            np.testing.assert_array_equal(row, padded[part * layout.grid.rows + local + 2])


PROTECTED = """
import ctypes, mmap, sys
import numpy as np
sys.path.insert(0, "tests")
import sparse_reference as reference
from sparse_reference import single
from nhn_tf.sparse.compiler import compile_program
from nhn_tf.sparse.native import machine
from nhn_tf.sparse.program import operations as ops

libc = ctypes.CDLL(None, use_errno=True)
def image(shape):  # It ends where memory ends.
    size = 4 * int(np.prod(shape))
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + pages), mmap.PAGESIZE, 0) == 0
    return np.frombuffer(memory, np.float32, size // 4, pages - size).reshape(shape)

rng = np.random.default_rng(0)
for lanes in (4, 8, 16):
    for shape in ((1, 1, 1), (5, 7, 3), (8, 8, 2), (3, 3, 17), (20, 33, 1)):
        conv = reference.random_conv(rng, shape, 2, window=(3, 3))
        program = ops.Program((ops.Input(inputs=(), size=shape), conv), (0, 1))
        runtime = compile_program(program, threads=1, host=machine.HOSTS[lanes])
        images = image((1, *shape))
        images[:] = rng.standard_normal(images.shape)
        np.testing.assert_array_equal(runtime(images)[0], images)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects memory as Linux does")
def test_nothing_behind_an_image_is_read():
    subprocess.run([sys.executable, "-c", PROTECTED], check=True)


def test_narrow_maps_are_cut_into_parts_that_fill_a_vector():
    assert grid_for(8, 8, 16) == Grid(8, 8, 2)
    assert grid_for(32, 32, 16) == Grid(32, 32, 1)
    assert grid_for(4, 4, 16) == Grid(4, 4, 4)
    assert grid_for(1, 1, 16) == Grid(1, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": (3,)}, "must name operations before"),
        ({"window": (16, 3)}, "`window` must be two numbers in 1..15"),
        ({"size": (0, 8)}, "`size` must be"),
        ({"bias": np.zeros(4, np.float32)}, "`bias` must be float32"),
        ({"mask": np.ones((3, 3), bool)}, "`mask` must be bool"),
        ({"kernels": np.zeros((1, 3, 3), np.float32)}, "`kernels` must be float32"),
        ({"activation": "tanh"}, "`activation` must be one of"),
        ({"slope": float("nan")}, "`slope` must be a number below 1e30"),
    ],
)
def test_a_program_refuses_what_does_not_fit(change, message):
    conv = reference.random_conv(np.random.default_rng(0), (8, 8, 2), 3, window=(3, 3))
    changed = dataclasses.replace(conv, **change)
    with pytest.raises(ops.ProgramError, match=message):
        ops.Program((ops.Input(inputs=(), size=(8, 8, 2)), changed), (1,))
