"""Convolutions and the depthwise ones behind them: phases in place of copies, some channels at a time."""

import dataclasses

import numpy as np
import pytest
import sparse_reference as reference

from nhn_tf.sparse.native import machine
from nhn_tf.sparse.plan import lower_pairs, pairs
from nhn_tf.sparse.plan.lower import lower
from nhn_tf.sparse.program import operations as ops

LANES = list(machine.HOSTS)


@pytest.fixture
def small(monkeypatch):
    """Small maps, too, are made some channels at a time."""
    monkeypatch.setattr(pairs, "LEAST_MAP", 1)
    monkeypatch.setattr(lower_pairs, "KEPT", 300)


def depthwise(rng, shape, *, value, window=(3, 3), strides=(1, 1), same=True, pads=None, multiplier=1, **settings):
    size, own = reference.output_size(shape, window, strides, same=same)
    pads, channels = pads or own, shape[2] * multiplier
    return ops.Depthwise(
        inputs=(value,), window=window, strides=strides, pads=pads, size=size, multiplier=multiplier,
        kernels=rng.standard_normal((channels, *window)).astype(np.float32) / 3,
        bias=rng.standard_normal(channels).astype(np.float32), **settings,
    )  # fmt: skip


CASES = {
    "one part": ((32, 32, 3), 20, {}, {"strides": (2, 2)}),
    "cut into parts": ((8, 8, 5), 13, {}, {"strides": (2, 2), "window": (5, 5)}),
    "a part with a row too many": ((12, 12, 3), 7, {}, {"strides": (2, 2), "window": (5, 5)}),
    "few pixels": ((4, 4, 24), 40, {}, {"strides": (2, 2)}),
    "strides of two kinds": ((6, 12, 3), 5, {}, {"strides": (2, 3), "window": (3, 4)}),
    "phases that nothing reads": ((8, 8, 3), 5, {}, {"strides": (4, 4), "window": (2, 3)}),
    "odd sides, which are copied": ((9, 7, 3), 20, {}, {"strides": (2, 2)}),
    "windows inside the map": ((10, 10, 3), 6, {}, {"strides": (2, 2), "same": False}),
    "windows that begin within the map": ((8, 12, 3), 6, {}, {"strides": (2, 2), "pads": (-2, -1)}),
    "windows that begin far outside": ((8, 8, 3), 6, {}, {"strides": (2, 2), "window": (9, 9), "pads": (8, 7)}),
    "fewer filters than inputs": ((8, 8, 9), 5, {}, {"strides": (2, 2)}),
    "no stride": ((7, 7, 3), 20, {}, {}),
    "no stride, long rows": ((5, 40, 3), 11, {}, {"window": (5, 5)}),
    "no stride, one pixel": ((8, 8, 3), 20, {}, {"window": (1, 1)}),
    "a stem": ((16, 16, 3), 9, {"window": (3, 3), "strides": (2, 2), "activation": "relu6"}, {}),
    "two channels of each": ((8, 8, 3), 6, {}, {"strides": (2, 2), "multiplier": 2}),
    "most kernels dead": ((16, 16, 8), 30, {"density": 0.1}, {"strides": (2, 2)}),
    "no kernel alive": ((8, 8, 3), 5, {"density": 0.0}, {"strides": (2, 2)}),
    "activations": (
        (8, 8, 3), 5, {"relu_input": True, "activation": "leaky_relu"},
        {"strides": (2, 2), "relu_input": True, "activation": "relu"},
    ),
}  # fmt: skip


def program_of(shape, filters, before, behind, seed=0):
    """A convolution, a depthwise one, and a convolution of what that makes."""
    rng = np.random.default_rng(seed)
    conv = reference.random_conv(rng, shape, filters, **{"window": (1, 1), **before})
    second = depthwise(rng, (*conv.size, filters), value=1, **behind)
    last = reference.random_conv(rng, (*second.size, len(second.bias)), 4, window=(1, 1), value=2)
    return ops.Program((ops.Input(inputs=(), size=shape), conv, second, last), (3,))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("some_at_a_time", [False, True])
def test_a_pair_is_numpys(case, lanes, some_at_a_time, request):
    if some_at_a_time:
        request.getfixturevalue("small")
    reference.check(program_of(*CASES[case]), 1, lanes)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_a_convolution_may_read_the_pixel_beside_its_own(lanes, strides, small):
    program = program_of((8, 8, 3), 20, {}, {"strides": strides})
    conv = dataclasses.replace(program.ops[1], pads=(-1, -1))
    reference.check(ops.Program((program.ops[0], conv, *program.ops[2:]), (3,)), 1, lanes)


def copies(program, number):
    """The copies for an operation."""
    plan = lower(program, machine.HOSTS[16])
    return [name for op, name in plan.calls if op == number and name.startswith("copy")]


def test_the_map_between_is_copied_only_where_it_cannot_be_written_by_phases():
    assert not copies(program_of(*CASES["one part"]), 2)
    assert copies(program_of(*CASES["odd sides, which are copied"]), 2)
    assert copies(program_of(*CASES["fewer filters than inputs"]), 2)
    assert not copies(program_of((32, 32, 2), 64, {}, {"strides": (4, 4), "window": (4, 4)}), 2)
    assert copies(program_of((64, 64, 2), 64, {}, {"strides": (8, 8), "window": (8, 8)}), 2)  # 64 phases.


def test_memory_for_the_map_between_is_that_of_a_few_channels(small):
    shape, _, before, behind = CASES["no stride, long rows"]
    few, many = (lower(program_of(shape, count, before, behind), machine.HOSTS[16]).arena for count in (64, 256))
    assert many - few < 1.3 * 5 * 40 * (256 - 64)  # The map behind grows, that between does not.


def test_a_map_that_something_else_reads_is_made_whole(small):
    program = program_of(*CASES["no stride"])
    plan = lower(ops.Program(program.ops, (3, 1)), machine.HOSTS[16])
    assert [op for op, _ in plan.calls].index(2) > [op for op, _ in plan.calls].index(1)
    reference.check(ops.Program(program.ops, (3, 1)), 1, 16)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("poison", [0x7FFFFFFF, 0x7F617F61], ids=["nan", "3e38"])
def test_nothing_is_read_that_was_not_written(seed, poison, small):
    program = program_of(*list(CASES.values())[seed])
    reference.check_poisoned(
        lower(program, machine.HOSTS[LANES[seed % len(LANES)]]), np.random.default_rng(seed), poison
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_many_random_pairs_are_numpys(seed, small):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 18, 3))
    window, strides = (tuple(int(n) for n in rng.integers(1, most, 2)) for most in (6, 4))
    before = {"density": float(rng.choice([0.1, 0.5, 1.0])), "relu_input": bool(rng.random() < 0.3)}
    behind = {"window": window, "strides": strides}
    if rng.random() < 0.3:
        behind["pads"] = tuple(int(rng.integers(-stride, size)) for stride, size in zip(strides, window, strict=True))
    elif window[0] <= shape[0] and window[1] <= shape[1]:
        behind["same"] = bool(rng.random() < 0.5)
    reference.check(program_of(shape, int(rng.integers(1, 60)), before, behind, seed), 1, LANES[seed % len(LANES)])
