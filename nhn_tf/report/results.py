"""results.json: everything the report says, as one JSON value.

Its measured figures are copies of figures in a file of the run, under the name they have there, and `source` beside
them is that file: a done.json, but for the layers of pruning. What is calculated from them stands under a key
`computed`, what the paper states under a key `paper`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from nhn_tf.models import complexity
from nhn_tf.report import best_locations, classes, exports, pareto, published, verdict
from nhn_tf.report.placement import source_name
from nhn_tf.report.reading import Run
from nhn_tf.runs import NOT_IN_DIGEST, StageRecord, lineage
from nhn_tf.settings import PRESETS
from nhn_tf.storage.commands import called
from nhn_tf.values.comparison import Comparison
from nhn_tf.values.genotype import Genotype
from nhn_tf.values.intervals import noise, wilson

SCHEMA: Final = 1

SEARCHES: Final = ("enas", "lds_location", "lds_direction")

# Stages that end in a trained network, and what its row in Table 1 is called.
TRAINED: Final = {"base": "base network", "pruned": "pruned and retrained", "final": "NHN"}

_ORIGIN: Final = ("kept_as_at_initialisation", "kept_by_chance", "decay_e_folds")
# Of the per-layer table of pruning: what is summed up.
_COUNTS: Final = ("kernels", "kernels_kept", "dead_neurons", "params", "live_params", "flops", "live_flops")

# Whether the schedule is gradual -> what the network is, and where the paper's figure for it stands.
_AFTER_PRUNING: Final = {
    False: ("right after pruning, before retraining", "after_pruning"),
    True: ("after gradual pruning, before retraining", None),
}

Json = dict[str, Any]


def collect(run: Run) -> Json:
    """The value of results.json for a run."""
    rows = [row for name, method in TRAINED.items() if (row := _measured_row(run.stages[name], method))]
    comparable = run.begun[0].config["data"].get("dataset") == published.DATASET
    found = {
        "schema": SCHEMA,
        "run": _identity(run),
        "comparable": comparable,
        "caveats": caveats(run),
        "table": {"measured": rows, "paper": [_published_row(row) for row in published.TABLE_1 if comparable]},
        "main_row": rows[-1] if rows else None,
        "baseline": _baseline(run, rows[-1]["stage"] if rows else ""),
        "stages": [_stage(stage, run.left_out) for stage in run.stages.values()],
        "computed": {"wall_s": sum(stage.done.wall_s for stage in run.finished)},
        "genotype": _genotype(run),
        "ablations": _ablations(run),
        "controls": [row for name in SEARCHES for row in controls(run.stages[name])],
        "front": pareto.collect(run.stages["enas"]),
        "settings": settings_beside_the_paper(run),
        "convergence": {stage.name: f"{stage.directory}/metrics.csv" for stage in run.begun if stage.history},
        "pruning": _pruning(run.stages["prune"]),
        "sensitivities": _sensitivities(run),
        "classes": classes.collect(run),
        "pairs": classes.pairs(run),
        "exports": exports.collect(run),
        "locations": f"{run.stages[best_locations.STAGE].directory}/trials.csv",
        "calls": [_call(call) for call in run.calls],
    }
    return {**found, "verdict": verdict.sentences(run, found)}


def _identity(run: Run) -> Json:
    """Where the figures come from: settings, versions, devices."""
    first = run.begun[0].config
    call = {key: run.calls[-1].get(key) for key in ("versions", "git_commit", "cpus")}
    return {
        "name": run.path.resolve().name,
        "path": str(run.path),
        "presets": _distinct(stage.config.get("preset") for stage in run.begun),
        "seeds": _distinct(stage.config.get("seed") for stage in run.begun),
        "dataset": first["data"].get("dataset"),
        "devices": _distinct(stage.done.device for stage in run.finished),
        "backends": _distinct(stage.done.backend for stage in run.finished),
        **call,
    }


def _call(call: Mapping[str, Any]) -> Json:
    """A call of run.json as it was typed, and when."""
    command = called([*map(str, call.get("argv", ()))])
    return {"command": command, "time": call.get("time"), "git_commit": call.get("git_commit")}


def _distinct(values: Any) -> list[Any]:
    return list(dict.fromkeys(value for value in values if value not in (None, "")))


# Table 1.


def _measured_row(stage: StageRecord, method: str) -> Json | None:
    """The stage's row; None when it has no test error or no parameter count."""
    metrics = finite(stage.metrics)
    params = metrics.get("live_params", metrics.get("params"))
    if "test_error" not in metrics or params is None:
        return None
    config = stage.config["config"]
    with_cutout = config.get("cutout", 0) != 0
    if stage.name == "base" and not config.get("genotype"):
        method = f"ENAS {method}"
    row = {
        "method": method + (" + c/o" if with_cutout else ""),
        "stage": stage.name,
        "source": f"{stage.directory}/done.json",
        "dataset": stage.config["data"].get("dataset"),
        "live_params": params,
        "test_error": metrics["test_error"],
        "images": stage.done.images.get("test"),
        "computed": {
            "score": complexity.score(metrics["test_error"], params / 1e6),
            "test_accuracy": 1 - metrics["test_error"] / 100,
            "interval": interval(stage, 1 - metrics["test_error"] / 100),
        },
    }
    flops = metrics.get("live_flops", metrics.get("flops"))
    return row if flops is None else {**row, "live_flops": flops}


def _baseline(run: Run, stage: str) -> Json | None:
    """The plain network's row, and its answers beside those of stage `stage`; None where it was not trained."""
    row = _measured_row(run.baseline, "plain CNN") if run.baseline.is_done else None
    if row is not None:
        row["computed"]["against"] = classes.against_baseline(run, stage)
    return row


def interval(stage: StageRecord, test_accuracy: float) -> list[float] | None:
    """The Wilson interval of a stage's test accuracy; None where its record does not say of how many images."""
    images = stage.done.images.get("test")
    return list(wilson(round(test_accuracy * images), images)) if images else None


def _published_row(row: published.Row) -> Json:
    return {
        "block": row.block,
        "method": row.method,
        "reference": row.reference,
        "params_m": row.params_m,
        "test_error": row.error,
        "score": row.score,
    }


def caveats(run: Run) -> list[str]:
    """What a reader must know before relying on the figures, a sentence or two each."""
    data = run.begun[0].config["data"]
    told = []
    if images := next((stage.done.images for stage in run.finished if stage.done.images), None):
        limited = data.get("train_limit") or data.get("eval_limit")
        told.append(
            f"{images['train']:,} training, {images['val']:,} validation and {images['test']:,} test images of "
            f"{images['classes']} classes{' (at most so many were asked for)' if limited else ''}."
        )
        told += _told_of_images(images)
    for stage in run.begun:
        if stage.config["config"].get("eval_split") == "test":
            told.append(f"Stage {stage.name} selected on test images, as the paper did; its test figures are too good.")
    told += _stale(run)
    planned = [stage for stage in run.stages.values() if stage.name not in run.left_out]
    if missing := [stage.name for stage in planned if not stage.is_done]:
        told.append(f"The run is not complete. Without a result: {', '.join(missing)}.")
    for why in dict.fromkeys(run.left_out.values()):
        names = [name for name in run.left_out if run.left_out[name] == why]
        told.append(f"Left out by the plan for the time limit: {', '.join(names)} ({why}).")
    if run.finished:
        told.append("Every measured figure is of a single run with a single seed.")
    return told


def _told_of_images(images: Mapping[str, Any]) -> list[str]:
    """What was chosen by the images, and which files were left out."""
    choices = [f"{name}={choice['value']}: {choice['why']}." for name, choice in images.get("choices", {}).items()]
    files = ", ".join(f"{count:,} {kind}" for kind, count in images.get("left_out", {}).items())
    return [*choices, *([f"Files left out: {files}."] if files else [])]


def _stale(run: Run) -> list[str]:
    """Stages that began from a network or from weights that have been replaced since."""
    return [f"Stage {name} began from {departure}." for name, departure in lineage.departures(run.stages).items()]


# Stages.


def _stage(stage: StageRecord, left_out: Mapping[str, str]) -> Json:
    state = "left out" if stage.name in left_out and not stage.has_begun else stage.state
    result: Json = {"stage": stage.name, "state": state, "paper": {"time": published.HOURS[stage.name]}}
    if stage.is_done:
        result |= {
            "source": f"{stage.directory}/done.json",
            "wall_s": stage.done.wall_s,
            "device": stage.done.device,
            "metrics": _jsonable(stage.metrics),
            "computed": {
                "intervals": {
                    name: interval(stage, value)
                    for name, value in finite(stage.metrics).items()
                    if "test_accuracy" in name and 0 <= value <= 1
                }
            },
        }
    return result


def _jsonable(value: Any) -> Any:
    """`value` with NaN and infinities as None, which JSON can hold."""
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures among `metrics`: finite numbers, by name."""
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


# The network.


def _genotype(run: Run) -> Json | None:
    if run.genotype is None or run.genotype_stage is None:
        return None
    return {
        "stage": run.genotype_stage,
        "source": f"{run.stages[run.genotype_stage].directory}/genotype.json",
        "enas_text": run.genotype.to_enas_text(),
        "addons": addons(run.genotype),
        "digest": run.genotype.digest,
    }


def addons(genotype: Genotype) -> list[Json]:
    """The add-ons in words: "layer 1" to "layer 3", "pool" or "stem" for a segment's input."""
    return [
        {
            "source": source_name(genotype, addon.target, addon.source),
            "target": f"layer {addon.target}",
            "kernel_size": addon.kernel_size,
        }
        for addon in genotype.addons
    ]


# Comparisons.


def _ablations(run: Run) -> list[Json]:
    """Test accuracies along the way, those that there are; names as in done.json."""
    prune = run.stages["prune"]
    gradual = bool(prune.has_begun and prune.config["config"].get("schedule") == "gradual")
    wanted = (
        ("base", "test_accuracy", "base network", "base"),
        ("prune", "test_accuracy_before", "base network, measured again before pruning", None),
        ("prune", "test_accuracy", *_AFTER_PRUNING[gradual]),
        ("prune", "random_test_accuracy", "random pruning at the same sparsity, before retraining", None),
        ("pruned", "test_accuracy", "pruned and retrained, no add-ons", "pruned"),
        ("final", "test_accuracy", "final network", "final"),
        ("final", "test_accuracy_without_addons", "final network with its add-ons removed", "without_addons"),
    )
    rows: list[Json] = []
    for name, figure, what, paper in wanted:
        value = finite(run.stages[name].metrics).get(figure)
        if value is not None:
            told = published.ACCURACY[paper] if paper else "—"
            source = f"{run.stages[name].directory}/done.json"
            row = {"stage": name, "source": source, "what": what, "figure": figure, "value": value}
            bounds = interval(run.stages[name], value) if 0 <= value <= 1 else None
            rows.append({**row, "paper": {"value": told}, "computed": {"interval": bounds}})
    return rows


def controls(stage: StageRecord) -> list[Json]:
    """A search's figures beside those of its controls."""
    return [
        {
            "stage": stage.name,
            "source": f"{stage.directory}/done.json",
            **dataclasses.asdict(comparison),
            "control_figure": comparison.control_figure,
            "computed": {"gain": comparison.gain, "noise": _noise(stage, comparison)},
        }
        for comparison in Comparison.read(finite(stage.metrics))
    ]


def _noise(stage: StageRecord, comparison: Comparison) -> float | None:
    """How far two accuracies may differ by chance; None where they are none, or it is not known on how many images."""
    images = stage.done.images.get(stage.config["config"].get("eval_split", "val"))
    if not images or not comparison.is_accuracy:
        return None
    return noise(comparison.found, comparison.control_value or 0.0, images)


def settings_beside_the_paper(run: Run) -> list[Json]:
    """Settings of the run that are not those of the `paper` preset: section, name, here, there."""
    paper = PRESETS["paper"]
    rows: list[Json] = []
    seen = set()
    for stage in run.begun:
        sections = {"data": paper.data, "compute": paper.compute, stage.name: paper.stage(stage.name)}
        for section, reference in sections.items():
            here = stage.config["config" if section == stage.name else section]
            there = reference.to_json()
            for name, value in here.items():
                entry = (section, name, repr(value))
                if name in NOT_IN_DIGEST or there.get(name) == value or entry in seen:
                    continue
                seen.add(entry)
                row = {"section": section, "setting": name, "here": value, "paper": {"value": there.get(name)}}
                rows.append(row)
    return rows


def _pruning(stage: StageRecord) -> Json | None:
    """layers.csv, a cell a number or a text, with the sums over its layers; None where there is none.

    Where a column `prunable` says which layers have masks (0 or 1), only those are listed: their kernels are those
    that the sparsity counts.
    """
    layers: list[Json] = [{name: _number(cell) for name, cell in row.items()} for row in stage.layers]
    layers = [row for row in layers if row.pop("prunable", 1) == 1]
    if not layers:
        return None
    counted = [name for name in _COUNTS if all(isinstance(row.get(name), int) for row in layers)]
    sums = {name: sum(row[name] for row in layers) for name in counted}
    table = {"source": f"{stage.directory}/layers.csv", "layers": _jsonable(layers), "computed": {"sums": sums}}
    metrics = finite(stage.metrics)
    origin = {name: metrics[name] for name in _ORIGIN if name in metrics}
    return {**table, "origin": {"source": f"{stage.directory}/done.json", **origin} if origin else None}


def _sensitivities(run: Run) -> str | None:
    """The histogram of sensitivities that pruning drew, as seen from the report's directory."""
    directory = run.stages["prune"].directory
    return f"../{directory}/sensitivities.png" if (run.path / directory / "sensitivities.png").exists() else None


def _number(cell: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
