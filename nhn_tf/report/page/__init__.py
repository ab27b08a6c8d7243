"""The report's sections in their order, made of the value of results.json; Markdown and HTML set the same page."""

from __future__ import annotations

from collections.abc import Collection

from nhn_tf.report.elements import Block, Bullets, Heading, Page, Section
from nhn_tf.report.page import course, origin, outcome
from nhn_tf.report.results import Json

_VERDICT = {
    "found": "What was found",
    "helped": "What helped, beyond chance",
    "use": "What to use",
    "improve": "What would improve it",
}


def page(results: Json, pictures: Collection[str]) -> Page:
    """The report.

    Args:
      results: as `results.collect` returns it.
      pictures: names of those that were drawn.
    """
    sections = [
        Section("Verdict", _verdict(results)),
        Section("The run", origin.run(results)),
        Section("The network", outcome.network(results, pictures)),
        Section("Accuracy and size", outcome.accuracy(results)),
        Section("Classes", outcome.classes(results, pictures)),
        Section("Exported files", outcome.exports(results)),
        Section("The searches beside their controls", course.controls(results, pictures)),
        Section("Convergence", course.convergence(results, pictures)),
        Section("Ablations: test accuracy along the way", outcome.ablations(results)),
        Section("Pruning by layer", course.pruning(results, pictures)),
        Section("Stages", course.stages(results, pictures)),
        Section("Commands", origin.commands(results)),
        Section("Settings that are not the paper's", origin.settings(results), details=True),
        Section("All figures", origin.all_figures(results), details=True),
        Section("Table 1", origin.table_1(results, pictures)),
    ]
    return Page(f"Report of the run {results['run']['name']}", [part for part in sections if part.blocks])


def _verdict(results: Json) -> list[Block]:
    blocks: list[Block] = []
    for about, title in _VERDICT.items():
        if texts := [sentence["text"] for sentence in results["verdict"] if sentence["about"] == about]:
            blocks += [Heading(title), Bullets(texts)]
    return blocks
