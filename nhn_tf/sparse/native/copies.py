"""Generator of the kernel that moves rows of maps from one layout to another.

It returns LLVM IR made for one pair of steps; which rows and channels are moved is data.
"""

from __future__ import annotations

from nhn_tf.sparse.native.emitter import Function


def copy(name: str, source_step: int, target_step: int, lanes: int) -> str:
    """Copies rows of every channel; the steps are from one value of a row to the next.

    `rows` holds (target offset, source offset, count) for each row, from the channel's first pixel.
    """
    f = Function(
        name,
        ["ptr noalias %source", "ptr noalias %target", "ptr noalias %source_planes", "ptr noalias %target_planes",
         "i64 %channels", "ptr noalias %rows", "i64 %count"],
        lanes,
    )  # fmt: skip
    with f.loop(0, "%channels") as channel:
        source = f.at("%source", f.index("%source_planes", channel))
        target = f.at("%target", f.index("%target_planes", channel))
        with f.loop(0, "%count") as row:
            entry = f.at("%rows", f.mul(row, 3), "i32")
            to, start, count = f.at(target, f.index(entry)), f.at(source, f.index(entry, 1)), f.index(entry, 2)
            with f.loop(0, count) as x:
                value = f.new(f"load float, ptr {f.at(start, f.mul(x, source_step))}, align 4")
                f.do(f"store float {value}, ptr {f.at(to, f.mul(x, target_step))}, align 4")
    return str(f)
