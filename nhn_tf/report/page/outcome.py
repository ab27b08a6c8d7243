"""Sections on what came out: the network, its accuracy and size, its classes, its files."""

from __future__ import annotations

from collections.abc import Collection

from nhn_tf.report.cells import counted, figure, millions, percent, size, with_interval
from nhn_tf.report.elements import Block, Code, Heading, Listing, Paragraph, Picture, Strong, Table, Text
from nhn_tf.report.results import Json


def network(results: Json, pictures: Collection[str]) -> list[Block]:
    genotype = results["genotype"]
    if genotype is None:
        return []
    blocks: list[Block] = []
    if "network" in pictures:
        layers = genotype["enas_text"].count("\n")
        alt = f"Drawing of the network: {counted(layers, 'layer')} from the stem to the classifier"
        told = "; ".join(f"{row['kernel_size']}×{row['kernel_size']} from {row['source']} to {row['target']}"
                         for row in genotype["addons"])  # fmt: skip
        blocks.append(Picture("network", f"{alt}. Add-on neurons: {told or 'none'}."))
    blocks += [
        Paragraph((
            f"As stage {genotype['stage']} left it (", Code(genotype["source"]), "), in ENAS's text form: a row for "
            "each layer, the op's code and then a bit for each output before the layer's own input.",
        )),
        Listing(genotype["enas_text"]),
        Heading("Add-on neurons"),
    ]  # fmt: skip
    rows = [(row["source"], row["target"], f"{row['kernel_size']}×{row['kernel_size']}") for row in genotype["addons"]]
    blocks.append(Table(("from", "to", "kernel"), rows) if rows else Paragraph("None."))
    if "locations" in pictures:
        caption = (
            "The best sets of add-on locations that the search ranked, 1 the best, in one drawing (paper, figure 2)."
        )
        blocks.append(Picture("locations", caption, (caption, " From ", Code(results["locations"]), ".")))
    return blocks


def accuracy(results: Json) -> list[Block]:
    """The trained networks; interval, size and cost of each."""
    rows = [
        (
            row["method"], _interval(row), f"{row['test_error']:.2f}%", f"{row['live_params']:,}",
            millions(row["live_flops"]) if "live_flops" in row else "—", Code(row["source"]),
        )
        for row in (*results["table"]["measured"], *filter(None, [results["baseline"]]))
    ]  # fmt: skip
    if not rows:
        return []
    head = ("network", "test accuracy (95% interval)", "test error", "live parameters", "multiply-adds", "source")
    note = (
        "Live parameters and multiply-adds an image leave pruned kernels and dead neurons out. Intervals are Wilson's."
    )
    blocks: list[Block] = [Table(head, rows, right=(1, 2, 3, 4)), Paragraph(note)]
    if classes := results["classes"]:
        found = classes["computed"]
        commonest = found["commonest"]
        which = "the same class" if found["alike"] else f"{commonest['name']}, the commonest class,"
        blocks.append(Paragraph(
            f"Always answering {which} would get {percent(commonest['accuracy'])}; "
            f"stage {classes['stage']}'s accuracy, averaged over classes, is {percent(found['balanced_accuracy'])}."
        ))  # fmt: skip
    return blocks


def _interval(row: Json) -> str:
    return with_interval(percent(row["computed"]["test_accuracy"]), row["computed"]["interval"])


def classes(results: Json, pictures: Collection[str]) -> list[Block]:
    classes = results["classes"]
    if classes is None:
        return []
    found = classes["computed"]
    where: Text = (f"What stage {classes['stage']} answers to {found['images']:,} test images, from ",
                   Code(classes["source"]), ".")  # fmt: skip
    rows = [
        (
            row["name"], f"{row['train']:,}", f"{row['val']:,}", f"{row['test']:,}", f"{row['right']:,}",
            "—" if row["accuracy"] is None else with_interval(percent(row["accuracy"]), row["interval"]),
        )
        for row in found["rows"]
    ]  # fmt: skip
    head = ("class", "training images", "validation", "test", "right", "accuracy (95% interval)")
    blocks: list[Block] = [Paragraph(where), Table(head, rows, right=(1, 2, 3, 4, 5))]
    blocks.append(Heading("What is taken for what"))
    if not found["confusions"]:
        return [*blocks, Paragraph("Every test image is right.")]
    worst = found["confusions"][0]
    told = f"{worst['images']} of {worst['of']} images of {worst['true']} are taken for {worst['taken_for']}"
    if "confusion" in pictures:
        blocks.append(Picture("confusion", f"Confusion matrix of {len(rows)} classes. The most frequent: {told}.",
                              "Rows: what an image shows. Columns: what it is taken for."))  # fmt: skip
    names = [row["name"] for row in found["rows"]]
    if found["confusion"]:
        cells = [(Strong(name), *map(str, row)) for name, row in zip(names, found["confusion"], strict=True)]
        blocks.append(Table(("shown \\ taken for", *names), cells, right=range(1, len(names) + 1)))
    pairs = [(row["true"], row["taken_for"], f"{row['images']:,}", f"{row['of']:,}") for row in found["confusions"]]
    blocks.append(Table(("shows", "is taken for", "images", "of its test images"), pairs, right=(2, 3)))
    if "confusions" in pictures:
        blocks.append(Picture("confusions", f"Examples of the most frequent confusions: {told}.",
                              "Examples of the most frequent confusions."))  # fmt: skip
    blocks.append(Heading("The most confident mistakes"))
    if "mistakes" in pictures:
        first = found["mistakes"][0]
        alt = f"first {first['true']} taken for {first['taken_for']} with {percent(first['confidence'])}"
        blocks.append(Picture("mistakes", f"Contact sheet of {len(found['mistakes'])} test images: {alt}.",
                              "What the image shows → what it is taken for, and how confidently."))  # fmt: skip
    mistakes = [
        (f"{row['image']:,}", row["true"], row["taken_for"], percent(row["confidence"])) for row in found["mistakes"]
    ]
    blocks.append(Table(("test image", "shows", "is taken for", "confidence"), mistakes, right=(0, 3)))
    return blocks


def exports(results: Json) -> list[Block]:
    exports = results["exports"]
    if not exports or not exports["files"]:
        return []
    rows = [
        (
            Code(row["file"]), size(row["bytes"]), *(f"{row['latency_ms'][count]:.3g} ms" for count in ("1", "16")),
            percent(row["same_top1"]), f"{row['max_abs_error']:.1e}",
        )
        for row in exports["files"]
    ]  # fmt: skip
    head = ("file", "size", "1 image", "16 images", "same answers", "largest error of a logit")
    stale = "" if exports["current"] else " They are of weights that the stage no longer holds: export the run again."
    note: Text = (
        f"The network of stage {exports['stage']}, one thread on one core ({exports['device']}); same answers are "
        "those that agree with the run's own network. From ", Code(exports["source"]), f".{stale}",
    )  # fmt: skip
    return [Table(head, rows, right=(1, 2, 3, 4, 5)), Paragraph(note)]


def ablations(results: Json) -> list[Block]:
    rows = results["ablations"]
    if not rows:
        return []
    measured = [with_interval(figure(row["figure"], row["value"]), row["computed"]["interval"]) for row in rows]
    source = [(Code(row["source"]), f": {row['figure']}") for row in rows]
    cells = [(row["what"], *told) for row, *told in zip(rows, measured, source, strict=True)]
    head = ["network", "measured (95% interval)", "source"]
    if results["comparable"]:
        head.insert(2, "paper (CIFAR-10, cutout)")
        cells = [(*row[:2], told["paper"]["value"], row[2]) for row, told in zip(cells, rows, strict=True)]
    return [Table(head, cells, right=range(1, len(head) - 1))]
