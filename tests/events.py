"""What TensorBoard reads from event files, as comparable values: through the reader that it uses itself."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.util import tensor_util

ALL = {plugin_event_accumulator.TENSORS: 0}
TIMES = {"epoch_seconds", "epoch_images_per_second"}
KINDS = {"scalars": "scalar", "images": "image", "histograms": "histogram", "text": "text", "hparams": "HParams",
         "graphs": "graph"}  # fmt: skip


class Point(NamedTuple):
    """One thing at one step: a scalar as a float, a text as it is, anything else as a digest."""

    step: int
    value: float | str


def read(directory):
    """{(run, tag): (kind, points)} of every event file below a directory; "" is its own run."""
    found = {}
    runs = sorted({path.parent for path in directory.rglob("events.out.tfevents.*")})
    for run in runs:
        reader = plugin_event_accumulator.EventAccumulator(str(run), size_guidance=ALL)
        reader.Reload()
        for tag in reader.Tags()[plugin_event_accumulator.TENSORS]:
            kind = KINDS[reader.SummaryMetadata(tag).plugin_data.plugin_name]
            points = [Point(event.step, _value(kind, event.tensor_proto)) for event in reader.Tensors(tag)]
            name = os.path.relpath(run, directory)
            found["" if name == "." else name, tag] = (kind, points)
    return found


def _value(kind, tensor):
    if kind == "scalar":
        return float(tensor_util.make_ndarray(tensor))
    if kind == "text":
        return tensor_util.make_ndarray(tensor).item().decode()
    return hashlib.sha256(tensor.SerializeToString()).hexdigest()[:16]


def untimed(stage):
    """What two stages that did the same have in common: all but times, and the command, which names the run."""
    found = read(stage / "tensorboard")
    return {
        (run, tag): (kind, [] if tag in TIMES or (run, tag) == ("", "command") else points, len(points))
        for (run, tag), (kind, points) in found.items()
    }
