"""The table of a run's exports as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nhn_tf.export.formats import FORMATS


def render(value: Mapping[str, Any]) -> str:
    """The text of export.md.

    Args:
      value: the content of export.json.
    """
    parts = [_head(value), _table(value["formats"]), _reading(value)]
    if value["skipped"]:
        parts.append("Not written:\n\n" + "\n".join(f"- {name}: {why}." for name, why in value["skipped"].items()))
    return "\n\n".join(parts) + "\n"


def _head(value: Mapping[str, Any]) -> str:
    return (
        f"# Exports of {value['run']}\n\n"
        f"The network of stage `{value['stage']}` on `{value['dataset']}`: all {value['params']:,} parameters, "
        f"{value['compacted_params']:,} compacted (without dead channels), {value['live_params']:,} live "
        "(outside pruned kernels). Dense formats hold the compacted ones, the kernel-sparse file the live ones."
    )


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    header = (
        "format",
        "file",
        "weights",
        "KiB",
        "max abs logit error",
        "same top-1",
        "1 image, ms",
        "16 images, ms",
        "load, s",
    )
    lines = [" | ".join(header), " | ".join(["---", "---", "---", *["---:"] * (len(header) - 3)])]
    for name, row in rows.items():
        latency = row["latency_ms"]
        cells = (
            FORMATS[name].title,
            f"`{row['file']}`",
            row.get("weights", "float32"),  # which exports of before do not say
            f"{row['bytes'] / 1024:,.1f}",
            f"{row['max_abs_error']:.1e}",
            f"{100 * row['same_top1']:.2f} %",
            f"{latency['1']:.3g}",
            f"{latency['16']:.3g}",
            f"{row['load_s']:.2f}",
        )
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _reading(value: Mapping[str, Any]) -> str:
    found: dict[str, str] = {}
    for row in value["formats"].values():
        found |= row["versions"]
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    written = value["written_with"]
    return (
        f"Each file was loaded in a fresh process and compared with the run's own network in Keras on "
        f"{value['images']:,} test images. Latency is the median of at least half a second of calls, "
        "one thread on one core; load "
        "includes imports. The kernel-sparse file loads with `nhn_tf` and without Keras. "
        "Every other file loads without `nhn_tf`.\n\n"
        f"Written with Keras {written['keras']} on {written['backend']} ({written['device']}); "
        f"loaded with {versions}.\n\n"
        "**Inputs are normalised as in training**: float32 [batch, height, width, channels], "
        "(pixel / 255 - mean) / std for each channel. Mean, standard deviation and the names of the classes are in "
        "`preprocessing.json`. Outputs are logits."
    )
