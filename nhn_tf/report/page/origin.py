"""Sections on what to repeat it by and compare it with: commands, settings, all figures, the paper's table."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nhn_tf.report import published
from nhn_tf.report.cells import millions, setting, with_interval
from nhn_tf.report.elements import Block, Bullets, Code, Heading, Paragraph, Picture, Strong, Table, Text
from nhn_tf.report.results import Json
from nhn_tf.storage.commands import typed


def run(results: Json) -> list[Block]:
    run = results["run"]
    facts = {
        "data set": run["dataset"],
        "preset": ", ".join(run["presets"]),
        "seed": ", ".join(map(str, run["seeds"])),
        "device": "; ".join(run["devices"]) + _processors(run["cpus"]),
        "Keras backend": ", ".join(run["backends"]),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted((run["versions"] or {}).items())),
        "commit": run["git_commit"],
    }
    blocks: list[Block] = [Bullets([f"{name}: {value}" for name, value in facts.items() if value])]
    if results["caveats"]:
        blocks += [Paragraph("Before relying on it:"), Bullets(results["caveats"])]
    return blocks


def _processors(count: int | None) -> str:
    return f" ({count} processor{'s' if count > 1 else ''})" if count else ""


def commands(results: Json) -> list[Block]:
    rows = [(call["time"] or "—", Code(call["command"]), (call["git_commit"] or "—")[:10]) for call in results["calls"]]
    again = f"{typed('nhn-pipeline')} --repeat={results['run']['path']}/run.json --model_dir=NEW"
    return [Table(("when", "command", "commit"), rows), Paragraph(("The whole run once more: ", Code(again), "."))]


def settings(results: Json) -> list[Block]:
    rows = results["settings"]
    if not rows:
        return [Paragraph("None.")]
    cells = [(row["section"], row["setting"], setting(row["here"]), setting(row["paper"]["value"])) for row in rows]
    return [Table(("stage", "setting", "here", ("preset ", Code("paper"))), cells)]


def all_figures(results: Json) -> list[Block]:
    blocks: list[Block] = []
    for stage in results["stages"]:
        metrics = stage.get("metrics", {})
        cells = [(name, repr(value)) for name, value in sorted(metrics.items()) if isinstance(value, (int, float))]
        if cells:
            blocks += [Heading((f"{stage['stage']}, ", Code(stage["source"]))), Table(("figure", "value"), cells)]
    return blocks


def table_1(results: Json, pictures: Collection[str]) -> list[Block]:
    """The paper's table with the measured rows; for CIFAR-10 only, since nothing else can be compared with it."""
    table = results["table"]
    if not results["comparable"]:
        return []
    rows: list[Sequence[Text]] = []
    for block in published.BLOCKS:
        rows.append((Strong(block), "", "", "", ""))
        for row in table["paper"]:
            if row["block"] == block:
                method = row["method"] + (f" ({row['reference']})" if row["reference"] else "")
                params = "—" if row["params_m"] is None else f"{row['params_m']:.1f}M"
                rows.append((method, params, f"{row['test_error']:.2f}%", _score(row["score"]), ""))
    if table["measured"]:
        rows.append((Strong("Measured here"), "", "", "", ""))
    for row in table["measured"]:
        bounds = row["computed"]["interval"]
        error = with_interval(f"{row['test_error']:.2f}%", bounds and [1 - bounds[1], 1 - bounds[0]])
        cells = (millions(row["live_params"]), error, _score(row["computed"]["score"]), Code(row["source"]))
        rows.append((Strong(row["method"]), *cells))
    head = ("method", "params", "test error", "score", "measured here in")
    note = (
        "The unmarked rows are the paper's: CIFAR-10, its table 1. score = sqrt((e / 2)² + (n / 25)²), e the test "
        "error in percent, n the parameters in millions; smaller is better. d/o dropout, s/s Shake-Shake, c/o cutout, "
        "d/p drop-path. Measured rows count live parameters: pruned kernels are left out."
    )
    blocks: list[Block] = [Table(head, rows, right=(1, 2, 3)), Paragraph(note)]
    if "score_plane" in pictures:
        caption = "Test error against parameters; along each line the score is the same, and lower left is better."
        blocks.append(Picture("score_plane", f"Table 1 as a plane. {caption}", caption))
    return blocks


def _score(score: float | None) -> str:
    return "—" if score is None else f"{score:.2f}"
