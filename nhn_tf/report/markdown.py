"""report.md: the value of results.json as a page for people."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nhn_tf.report import published
from nhn_tf.report.results import Json

# What a stage's line shows of its figures, as far as it has them; all figures stand at the end of the page.
_KEY_FIGURES = {
    "enas": ("val_accuracy", "random_search_val_accuracy"),
    "base": ("test_accuracy", "live_params"),
    "prune": ("kernel_sparsity", "params_removed", "live_params"),
    "pruned": ("test_accuracy", "live_params"),
    "lds_location": ("val_accuracy", "random_search_val_accuracy", "no_addons_val_accuracy"),
    "lds_direction": ("val_accuracy", "no_addons_val_accuracy"),
    "final": ("test_accuracy", "live_params"),
}

# For each picture its caption, and the stages whose points it shows.
_CAPTIONS = {
    "enas": (
        "Architecture search: rewards are accuracies on one validation batch, level lines on all of validation.",
        ("enas",),
    ),
    "training": ("Training of the base, the pruned and the final network.", ("base", "pruned", "final")),
    "lds": (
        "Add-on search: fitness of each cycle, on a few evaluation batches; level lines on all evaluation images.",
        ("lds_location", "lds_direction"),
    ),
}


def render(results: Json, pictures: Sequence[str]) -> str:
    """The page.

    Args:
      results: as `results.collect` returns it.
      pictures: names of the PNG files beside the page, without ending.
    """
    parts = [
        _head(results),
        _network(results, "network" in pictures),
        _table_1(results),
        _stages(results),
        _ablations(results["ablations"]),
        _controls(results["controls"]),
        _convergence(results, [name for name in pictures if name in _CAPTIONS]),
        _pruning(results),
        _settings(results["settings"]),
        _all_figures(results["stages"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Json) -> str:
    run = results["run"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted((run["versions"] or {}).items()))
    facts = {
        "data set": run["dataset"],
        "preset": ", ".join(run["presets"]),
        "seed": ", ".join(map(str, run["seeds"])),
        "device": "; ".join(run["devices"]) + (f" ({run['cpus']} processors)" if run["cpus"] else ""),
        "Keras backend": ", ".join(run["backends"]),
        "versions": versions,
        "commit": run["git_commit"],
    }
    lines = [f"# Report of the run {_text(run['name'])}", ""]
    lines += [f"- {name}: {_text(value)}" for name, value in facts.items() if value]
    if results["caveats"]:
        lines += ["", "Before comparing:", "", *(f"- {_text(caveat)}" for caveat in results["caveats"])]
    return "\n".join(lines)


def _network(results: Json, has_picture: bool) -> str:
    genotype = results["genotype"]
    if genotype is None:
        return ""
    lines = ["## The network", ""]
    if has_picture:
        lines += ["![The discovered network](network.png)", ""]
    lines += [
        f"As stage {genotype['stage']} left it (`{genotype['source']}`), in ENAS's text form: a row for each layer, "
        f"the op's code and then a bit for each output before the layer's own input.",
        "",
        "```",
        genotype["enas_text"].rstrip("\n"),
        "```",
        "",
        "### Add-on neurons",
        "",
    ]
    rows = [(row["source"], row["target"], f"{row['kernel_size']}×{row['kernel_size']}") for row in genotype["addons"]]
    lines.append(_table(("from", "to", "kernel"), rows) if rows else "None.")
    return "\n".join(lines)


def _table_1(results: Json) -> str:
    table = results["table"]
    rows: list[Sequence[str]] = []
    for block in published.BLOCKS:
        rows.append((f"**{block}**", "", "", "", ""))
        for row in table["paper"]:
            if row["block"] == block:
                method = row["method"] + (f" ({row['reference']})" if row["reference"] else "")
                rows.append((method, _millions(row["params_m"]), _error(row["test_error"]), _score(row["score"]), ""))
    if table["measured"]:
        rows.append(("**Measured here**", "", "", "", ""))
    for row in table["measured"]:
        figures = (_measured_millions(row["live_params"]), _error(row["test_error"]), _score(row["computed"]["score"]))
        where = f"{row['dataset']}, `{row['source']}`"
        if "live_flops" in row:
            where += f", {_mega(row['live_flops'])}M multiply-adds an image"
        rows.append((f"**{row['method']}**", *figures, where))
    head = ("method", "params", "test error", "score", "measured here on")
    note = (
        "The unmarked rows are the paper's: CIFAR-10, its table 1. score = sqrt((e / 2)² + (n / 25)²), e the test "
        "error in percent, n the parameters in millions; smaller is better. d/o dropout, s/s Shake-Shake, c/o cutout, "
        "d/p drop-path. Measured rows count live parameters: pruned kernels are left out."
    )
    if table["measured"] and not results["comparable"]:
        note = f"**{results['caveats'][0]}**\n\n{note}"
    return "\n".join(["## Table 1", "", _table(head, rows, right=(1, 2, 3)), "", note])


def _stages(results: Json) -> str:
    rows = []
    for stage in results["stages"]:
        time, device = (_clock(stage["wall_s"]), stage["device"]) if "wall_s" in stage else ("—", "—")
        metrics = stage.get("metrics", {})
        keys = [name for name in _KEY_FIGURES[stage["stage"]] if metrics.get(name) is not None]
        told = ", ".join(f"{name} {figure(name, metrics[name])}" for name in keys)
        source = f"`{stage['source']}`" if "source" in stage else ""
        rows.append((stage["stage"], stage["state"], time, stage["paper"]["time"], device, told, source))
    total = _clock(results["computed"]["wall_s"])
    rows.append(("**all finished**", "", f"**{total}**", published.HOURS_TOTAL, "", "", "computed"))
    head = ("stage", "state", "wall time (h:mm:ss)", f"paper, {published.DEVICE}", "device", "result", "source")
    return "\n".join(["## Stages", "", _table(head, rows, right=(2,)), "", published.HOURS_NOTE])


def _ablations(rows: list[Json]) -> str:
    if not rows:
        return ""
    cells = [(row["what"], figure(row["figure"], row["value"]), row["paper"]["value"], _source(row)) for row in rows]
    head = ("network", "measured", "paper (CIFAR-10, cutout)", "source")
    return "\n".join(["## Ablations: test accuracy along the way", "", _table(head, cells, right=(1, 2))])


def _controls(rows: list[Json]) -> str:
    if not rows:
        return ""
    cells = []
    for row in rows:
        pair = (figure(row["figure"], row["found"]), figure(row["figure"], row["control_value"]))
        gain = f"{100 * row['computed']['gain']:+.2f} points"
        cells.append((row["stage"], row["figure"], pair[0], row["control"], pair[1], gain, f"`{row['source']}`"))
    head = ("search", "figure", "found", "control", "control's", "gain", "source")
    return "\n".join(["## The searches beside their controls", "", _table(head, cells, right=(2, 4, 5))])


def _convergence(results: Json, names: Sequence[str]) -> str:
    """The curves and the files that they were drawn from."""
    if not names:
        return ""
    points = results["convergence"]
    levels = {stage["stage"]: stage["source"] for stage in results["stages"] if "source" in stage}
    parts = []
    for name in names:
        caption, stages = _CAPTIONS[name]
        told = f"Curves: {_sources(points, stages)}."
        if lines := _sources(levels, stages):
            told += f" Level lines: {lines}."
        parts.append(f"![{caption}]({name}.png)\n\n{caption} {told}")
    return "## Convergence\n\n" + "\n\n".join(parts)


def _sources(files: Mapping[str, str], stages: Sequence[str]) -> str:
    """The files of those stages that have one."""
    return ", ".join(f"`{files[stage]}`" for stage in stages if stage in files)


def _pruning(results: Json) -> str:
    parts = []
    if pruning := results["pruning"]:
        sums = {"layer": "**all of them**", **pruning["computed"]["sums"]}
        # Layers without a kernel tell nothing.
        rows = [row for row in pruning["layers"] if row.get("kernels") != 0]
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[figure(name, row.get(name)) for name in names] for row in rows]
        cells.append([figure(name, sums[name]) if name in sums else "" for name in names])
        parts.append(_table([name.replace("_", " ") for name in names], cells, right=range(1, len(names))))
        parts.append(
            f"From `{pruning['source']}`; the last line is computed. Kept are kernels between live neurons: a mask "
            f"may keep more, which lead to or from a dead neuron."
        )
    if results["sensitivities"]:
        picture = results["sensitivities"]
        parts.append(f"![How sensitive the kernels are, and the threshold]({picture})\n\n`{picture}`")
    return "\n\n".join(["## Pruning by layer", *parts]) if parts else ""


def _settings(rows: list[Json]) -> str:
    head = "## Settings that are not the paper's"
    if not rows:
        return f"{head}\n\nNone."
    cells = [(row["section"], row["setting"], _setting(row["here"]), _setting(row["paper"]["value"])) for row in rows]
    return "\n".join([head, "", _table(("stage", "setting", "here", "preset `paper`"), cells)])


def _all_figures(stages: list[Json]) -> str:
    lines = ["## All figures"]
    for stage in stages:
        metrics = stage.get("metrics", {})
        cells = [(name, repr(value)) for name, value in sorted(metrics.items()) if isinstance(value, (int, float))]
        if cells:
            lines += ["", f"### {stage['stage']}, `{stage['source']}`", "", _table(("figure", "value"), cells)]
    return "\n".join(lines) if len(lines) > 1 else ""


# Cells.


def _source(row: Json) -> str:
    return f"`{row['source']}`: {row['figure']}"


def figure(name: str, value: Any) -> str:
    """A figure as a reader wants it, by its name: accuracies and shares in percent, counts in full."""
    if value is None:
        return "—"
    if isinstance(value, (str, bool)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        shares = ("accuracy", "fitness", "sparsity", "density", "removed")
        return f"{100 * value:.2f}%" if any(share in name for share in shares) else f"{value:.4g}"
    return str(value)


def _millions(params_m: float | None) -> str:
    return "—" if params_m is None else f"{params_m:.1f}M"


def _measured_millions(params: int) -> str:
    return f"{_mega(params)}M"


def _mega(count: int) -> str:
    """A count in millions, to three digits or more: 1,234, 7.03, 0.125, 0.00207."""
    millions = count / 1e6
    return f"{millions:,.0f}" if millions >= 100 else f"{millions:.2f}" if millions >= 1 else f"{millions:.3g}"


def _error(error: float) -> str:
    return f"{error:.2f}%"


def _score(score: float | None) -> str:
    return "—" if score is None else f"{score:.2f}"


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds, rounded."""
    return str(datetime.timedelta(seconds=round(seconds)))


def _setting(value: Any) -> str:
    if value is None:
        return "—"
    return ", ".join(map(str, value)) if isinstance(value, list) else "(empty)" if value == "" else str(value)


def _text(value: Any) -> str:
    """`value` with what Markdown would take for markup made harmless."""
    text = str(value)
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """A Markdown table; `right` are the columns that are set flush right."""
    right = set(right)
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
