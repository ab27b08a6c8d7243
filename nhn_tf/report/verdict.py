"""What a run comes to, in plain sentences: what was found, what helped, what to use, what would improve it.

Every sentence is made of figures in results.json. A difference of accuracies counts when it is larger than what chance
makes on so many images (`values.intervals`); a single run cannot tell more.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from nhn_tf.report import cells, pareto
from nhn_tf.report.reading import Run
from nhn_tf.storage.commands import typed
from nhn_tf.values.intervals import noise

Json = dict[str, Any]

_SEARCHES: Final = {
    "enas": "The architecture search",
    "lds_location": "The search for add-on locations",
    "lds_direction": "The search for add-on directions",
}
_NETWORKS: Final = {"base": "base network", "pruned": "pruned network", "final": "final network"}

KNOWN: Final = 0.97
"""From this training accuracy on, a network knows its training images."""
GAP: Final = 0.03
"""From this lead of training over test accuracy on, more images promise more than longer training."""
COARSE: Final = 0.02
"""From this half width of the interval on, the test images are too few to tell good networks apart."""
_MOST_WEAK = 3
_HARDER: Final = ("cutmix", "mixup", "trivial_augment")
"""With these settings training accuracy says little of what a network knows."""


def sentences(run: Run, results: Json) -> list[Json]:
    """The verdict.

    Args:
      run: for the progress of its trainings.
      results: as `results.collect` has it but for the verdict.

    Returns:
      For each sentence what it is about, "found", "helped", "use" or "improve", and its text.
    """
    told = {
        "found": [*_baseline(results), *_found(results)],
        "helped": [*_searches(results), *_weighing(results), *_additions(results)],
        "use": _use(results),
        "improve": _improve(run, results),
    }
    return [{"about": about, "text": text} for about, texts in told.items() for text in texts]


def _found(results: Json) -> list[str]:
    row = results["main_row"]
    if row is None:
        return ["No network has been trained yet."]
    accuracy, bounds = row["computed"]["test_accuracy"], row["computed"]["interval"]
    of = f" of the {row['images']:,} test images" if row["images"] else " of the test images"
    between = f" (between {cells.interval(bounds)} with 95% confidence)" if bounds else ""
    told = [
        f"The {_NETWORKS[row['stage']]} gets {cells.percent(accuracy)}{of} right{between}, with "
        f"{row['live_params']:,} live parameters."
    ]
    if classes := results["classes"]:
        commonest = classes["computed"]["commonest"]
        share = cells.percent(commonest["accuracy"])
        which = "the same class" if classes["computed"]["alike"] else f"{commonest['name']!r}, the commonest class,"
        always = f"Always answering {which} would get {share}"
        worse = bounds is not None and bounds[0] <= commonest["accuracy"]
        told.append(f"{always}: the network is not better than that beyond chance." if worse else f"{always}.")
    return told


def _baseline(results: Json) -> list[str]:
    """The plain network beside the run's main one; first of all, since whoever it beats need not be looked at."""
    row, plain = results["main_row"], results["baseline"]
    if row is None or plain is None:
        return []
    ours, theirs = row["computed"]["test_accuracy"], plain["computed"]["test_accuracy"]
    pair = f"{cells.percent(theirs)} against {cells.percent(ours)} of the {_NETWORKS[row['stage']]}"
    sizes = f"{plain['live_params']:,} live parameters against {row['live_params']:,}"
    differs = _beyond_chance(row, plain)
    verdict = (
        "wins" if differs and theirs > ours else "loses" if differs else "is as accurate as far as chance lets tell"
    )
    return [f"A plain CNN, trained on the same images, {verdict}: {pair}, with {sizes}."]


def _beyond_chance(row: Json, plain: Json) -> bool:
    """Whether the main network and the plain one differ by more than chance: image by image where that is known."""
    if against := plain["computed"]["against"]:
        return against["p"] < 0.05
    ours, theirs = row["computed"]["test_accuracy"], plain["computed"]["test_accuracy"]
    return bool(row["images"]) and abs(ours - theirs) > noise(ours, theirs, row["images"])


def _searches(results: Json) -> list[str]:
    """Each search against its controls: the best that each found."""
    told = []
    for row in results["controls"]:
        margin = row["computed"]["noise"]
        if row["figure"].startswith("mean_") or margin is None:
            continue
        gain = row["computed"]["gain"]
        pair = f"{cells.percent(row['found'])} against {cells.percent(row['control_value'])}"
        chance = f"{cells.points(gain)}; chance makes up to {100 * margin:.2f} on so many images"
        name, control = _SEARCHES[row["stage"]], row["control"]
        if gain > margin:
            told.append(f"{name} helped: {pair} with {control} ({chance}).")
        elif gain < -margin:
            told.append(f"{name} did harm: {pair} with {control} ({chance}).")
        else:
            told.append(f"{name} has not shown to help: {pair} with {control} ({chance}).")
    return told


def _weighing(results: Json) -> list[str]:
    """What a search that weighed accuracy against cost came to, and how it stands beside random search."""
    metrics = next(stage.get("metrics", {}) for stage in results["stages"] if stage["stage"] == "enas")
    if "best_cost" not in metrics or (front := results["front"]) is None:
        return []
    told = []
    for which, who in (("best", "the best found"), ("best_random", "the best of random search")):
        if f"{which}_cost" in metrics:
            accuracy, cost = (cells.figure(name, metrics[f"{which}_{name}"]) for name in ("accuracy", "cost"))
            told.append(f"{who} has {accuracy} at {cost}")
    points = front["computed"]["front"]
    own = sum(source == "controller" for _, _, source in points)
    weighed = pareto.LABELS[front["cost"]]
    return [
        f"The architecture search weighed validation accuracy against {weighed}: {', '.join(told)}. Of the "
        f"{cells.counted(len(points), 'architecture')} that none beats in both, the controller found {own:,}."
    ]


def _additions(results: Json) -> list[str]:
    """Each trained network against the one before it, image by image."""
    told = []
    for pair in results["pairs"]:
        wins, losses, p = (pair["computed"][name] for name in ("wins", "losses", "p"))
        new, old = _NETWORKS[pair["stage"]], _NETWORKS[pair["before"]]
        images = cells.counted(wins, "test image")
        counts = f"it has {images} right that the {old} has wrong, and {losses:,} the other way round"
        if p >= 0.05:
            verdict = f"The {new} is as good as the {old} as far as chance lets tell"
        else:
            verdict = f"The {new} is {'better' if wins > losses else 'worse'} than the {old} beyond chance"
        longer = pair["stage"] == "final" and p < 0.05 and wins > losses
        more = "; it was also trained longer, so not all of it need be the add-ons'" if longer else ""
        told.append(f"{verdict}: {counts} (sign test, p = {p:.2g}){more}.")
    return told


def _use(results: Json) -> list[str]:
    rows = results["table"]["measured"]
    if not rows:
        return []
    plain, row = results["baseline"], results["main_row"]
    if plain and plain["test_error"] < row["test_error"] and _beyond_chance(row, plain):
        return ["Use a plain CNN, or give the run more time: what the searches made is worse beyond chance."]
    best = max(rows, key=lambda row: (row["computed"]["test_accuracy"], -row["live_params"]))
    told = [f"Use the {_NETWORKS[best['stage']]}, the most accurate of this run."]
    equal = [row for row in rows if _indistinguishable(row, best) and row["live_params"] < best["live_params"]]
    if equal:
        small = min(equal, key=lambda row: row["live_params"])
        told[0] += (
            f" Where size matters, the {_NETWORKS[small['stage']]} ({small['live_params']:,} live parameters, "
            f"{cells.percent(small['computed']['test_accuracy'])}) is not worse beyond chance."
        )
    exports = results["exports"]
    if exports and exports["current"] and (files := exports["files"]):
        fast, light = min(files, key=lambda f: f["latency_ms"]["1"]), min(files, key=lambda f: f["bytes"])
        other = "" if light is fast else f"export/{light['file']} "
        told.append(
            f"Of the exported files export/{fast['file']} is the fastest, {fast['latency_ms']['1']:.3g} ms an image on "
            f"one core, and {other}the smallest, {cells.size(light['bytes'])}."
        )
    else:
        again = " has changed since: export it again" if exports else " can be exported"
        told.append(f"The network{again} with {typed('nhn-export')} --model_dir={results['run']['path']}.")
    return told


def _indistinguishable(row: Json, best: Json) -> bool:
    interval = row["computed"]["interval"]
    return interval is not None and interval[1] >= best["computed"]["test_accuracy"]


def _improve(run: Run, results: Json) -> list[str]:
    told = []
    unfinished = [stage["stage"] for stage in results["stages"] if stage["state"] != "finished"]
    if missing := [name for name in unfinished if name not in run.left_out]:
        told.append(f"Finish the run: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} still to come.")
    row = results["main_row"]
    if row is None:
        return told
    learned = _training_accuracy(run, row["stage"])
    if learned is not None:
        told += _time_or_images(row, learned)
    told += _weak_classes(results)
    bounds = row["computed"]["interval"]
    if bounds and (half := (bounds[1] - bounds[0]) / 2) > COARSE:
        told.append(
            f"Keep back more test images: {row['images']:,} tell accuracies apart only to ±{100 * half:.1f} points."
        )
    return told


def _training_accuracy(run: Run, stage: str) -> float | None:
    """The accuracy on augmented training images, over the last tenth of the epochs."""
    if any(run.stages[stage].config["config"].get(name) for name in _HARDER):
        return None
    values = [row["accuracy"] for row in run.stages[stage].history if "accuracy" in row]
    return float(np.mean(values[-max(1, len(values) // 10) :])) if values else None


def _time_or_images(row: Json, learned: float) -> list[str]:
    accuracy = row["computed"]["test_accuracy"]
    ended = f"the {_NETWORKS[row['stage']]}'s accuracy on its own (augmented) training images ended"
    bounds = row["computed"]["interval"]
    if learned - accuracy >= GAP and (bounds is None or learned > bounds[1]):
        return [f"More images: {ended} at {cells.percent(learned)}, far above that on the test images."]
    if learned < KNOWN:
        return [f"More time: {ended} at {cells.percent(learned)}, so more epochs or more filters can still gain."]
    return []


def _weak_classes(results: Json) -> list[str]:
    """Classes whose interval ends below that of all of them together, the worst first."""
    overall = results["main_row"]["computed"]["interval"]
    if results["classes"] is None or overall is None:
        return []
    rows = results["classes"]["computed"]["rows"]
    rows = [row for row in rows if row["interval"] and row["interval"][1] < overall[0]]
    rows.sort(key=lambda row: row["accuracy"])
    return [
        f"More images of {row['name']!r}: {row['right']:,} of its {row['test']:,} test images are right, after "
        f"{cells.counted(row['train'], 'training image')}."
        for row in rows[:_MOST_WEAK]
    ]
