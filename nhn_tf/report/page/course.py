"""Sections on how it came about: the searches, the trainings, the pruning, the stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nhn_tf.report import pareto, published
from nhn_tf.report.cells import clock, difference, figure, with_interval
from nhn_tf.report.elements import Block, Code, Paragraph, Picture, Strong, Table, Text
from nhn_tf.report.results import Json

# What a stage's line shows of its figures, as far as it has them; all figures stand at the end of the page.
_KEY_FIGURES = {
    "enas": ("val_accuracy", "random_search_val_accuracy", "val_reward", "random_search_val_reward"),
    "base": ("test_accuracy", "live_params"),
    "prune": ("kernel_sparsity", "pointwise_sparsity", "params_removed", "live_params"),
    "pruned": ("test_accuracy", "live_params"),
    "lds_location": ("val_accuracy", "random_search_val_accuracy", "no_addons_val_accuracy"),
    "lds_direction": ("val_accuracy", "no_addons_val_accuracy"),
    "final": ("test_accuracy", "live_params"),
}

# For each picture of curves its caption, and the stages whose points it shows, as far as they have any.
_CURVES = {
    "enas": (
        "Architecture search: rewards on one validation batch, level lines on all of validation.",
        ("enas",),
    ),
    "training": ("Training of the {}.", ("base", "pruned", "final")),
    "lds": (
        "Add-on search: fitness of each cycle, on a few evaluation batches; level lines on all evaluation images.",
        ("lds_location", "lds_direction"),
    ),
}


def controls(results: Json, pictures: Collection[str]) -> list[Block]:
    blocks: list[Block] = []
    cells = []
    for row in results["controls"]:
        computed = row["computed"]
        pair = figure(row["figure"], row["found"]), figure(row["figure"], row["control_value"])
        chance = "—" if computed["noise"] is None else f"±{100 * computed['noise']:.2f}"
        gain = difference(row["figure"], computed["gain"])
        cells.append((row["stage"], row["figure"], pair[0], row["control"], pair[1], gain, chance, Code(row["source"])))
    if cells:
        head = ("search", "figure", "found", "control", "control's", "gain", "chance makes", "source")
        note = "Chance: how far two equally good networks differ on so many images, in 95 of 100 cases."
        blocks += [Table(head, cells, right=(2, 4, 5, 6)), Paragraph(note)]
    if "pareto" in pictures:
        value = results["front"]
        caption = (
            "Every ranked architecture: its accuracy with the shared weights on all of validation, and the "
            f"{pareto.LABELS[value['cost']]} of its network; the lines join those that none of the same source beats "
            "in both."
        )
        blocks.append(Picture("pareto", caption, (caption, " From ", Code(value["source"]), ".")))
    return blocks


def convergence(results: Json, pictures: Collection[str]) -> list[Block]:
    """The curves and the files that they were drawn from."""
    points = results["convergence"]
    levels = {stage["stage"]: stage["source"] for stage in results["stages"] if "source" in stage}
    blocks: list[Block] = []
    for name, (caption, stages) in _CURVES.items():
        if name not in pictures:
            continue
        caption = caption.format(", the ".join(f"{stage} network" for stage in stages if stage in points))
        told: list[str] = [caption, " Curves: ", *_sources(points, stages), "."]
        if lines := _sources(levels, stages):
            told += [" Level lines: ", *lines, "."]
        blocks.append(Picture(name, caption, tuple(told)))
    return blocks


def _sources(files: Mapping[str, str], stages: Sequence[str]) -> list[str]:
    """The files of those stages that have one, with commas between them."""
    found = [Code(files[stage]) for stage in stages if stage in files]
    return [piece for file in found for piece in (", ", file)][1:]


def pruning(results: Json, pictures: Collection[str]) -> list[Block]:
    blocks: list[Block] = []
    if pruning := results["pruning"]:
        sums = {"layer": Strong("all of them"), **pruning["computed"]["sums"]}
        # Layers without a kernel tell nothing.
        rows = [row for row in pruning["layers"] if row.get("kernels") != 0]
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells: list[list[Text]] = [[figure(name, row.get(name)) for name in names] for row in rows]
        last = [sums[name] if name == "layer" else figure(name, sums[name]) if name in sums else "" for name in names]
        blocks.append(Table([name.replace("_", " ") for name in names], [*cells, last], right=range(1, len(names))))
        note = (
            "; the last line is computed. Kept are kernels between live neurons: a mask may keep more, which lead to "
            "or from a dead neuron."
        )
        blocks.append(Paragraph(("From ", Code(pruning["source"]), note)))
        if pruning["origin"]:
            blocks.append(_origin(pruning["origin"]))
    if "histograms" in pictures:
        alt = (
            "How sensitive the kernels of each layer are: the standard deviation of each kernel, those pruned in grey, "
            "and the layer's threshold."
        )
        blocks.append(Picture("histograms", alt, alt))
    if picture := results["sensitivities"]:
        alt = "How sensitive the kernels are, and the threshold"
        blocks.append(Picture(picture.removesuffix(".png"), alt, Code(picture)))
    return blocks


def _origin(origin: Json) -> Paragraph:
    """Whether pruning kept what was learned, or what was large before training."""
    told = []
    if "kept_by_chance" in origin:
        kept, chance = (figure(name, origin[name]) for name in ("kept_as_at_initialisation", "kept_by_chance"))
        told.append(
            f"Of the kernels kept, {kept} would have been kept before training, too; by chance it would be {chance}. "
        )
    if "decay_e_folds" in origin:
        e_folds = figure("decay_e_folds", origin["decay_e_folds"])
        told.append(f"In the base's training L2 shrank a weight that nothing else moves by {e_folds} e-folds. ")
    return Paragraph((*told, "From ", Code(origin["source"]), "."))


def stages(results: Json, pictures: Collection[str]) -> list[Block]:
    rows: list[list[Text]] = []
    for stage in results["stages"]:
        time, device = (clock(stage["wall_s"]), stage["device"]) if "wall_s" in stage else ("—", "—")
        source = Code(stage.get("source", ""))
        rows.append([stage["stage"], stage["state"], time, stage["paper"]["time"], device, _result(stage), source])
    total = clock(results["computed"]["wall_s"])
    rows.append([Strong("all finished"), "", Strong(total), published.HOURS_TOTAL, "", "", "computed"])
    head = ["stage", "state", "wall time (h:mm:ss)", f"paper, {published.DEVICE}", "device", "result", "source"]
    if not results["comparable"]:
        head, rows = head[:3] + head[4:], [row[:3] + row[4:] for row in rows]
    blocks: list[Block] = [Table(head, rows, right=(2,))]
    if results["comparable"]:
        blocks.append(Paragraph(published.HOURS_NOTE))
    if "timeline" in pictures:
        longest = max((stage for stage in results["stages"] if "wall_s" in stage), key=lambda stage: stage["wall_s"])
        caption = "When each stage ran, one after the other, pauses left out."
        alt = f"{caption} The longest: {longest['stage']}, {clock(longest['wall_s'])} of {total}."
        blocks.append(Picture("timeline", alt, caption))
    return blocks


def _result(stage: Json) -> str:
    metrics = stage.get("metrics", {})
    told = []
    for name in _KEY_FIGURES[stage["stage"]]:
        if metrics.get(name) is not None:
            bounds = stage["computed"]["intervals"].get(name)
            told.append(f"{name} {with_interval(figure(name, metrics[name]), bounds)}")
    return ", ".join(told)
