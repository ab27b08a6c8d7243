"""What a run's networks answered to the test images: class by class, what is taken for what, network against network.

All of it is computed from `predictions.npz` of the training stages. Letters: K classes.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np

from nhn_tf.report.reading import BASELINE, Run
from nhn_tf.values.intervals import sign_test, wilson
from nhn_tf.values.predictions import NAME, Predictions

MOST_CONFUSIONS: Final = 10
MOST_MISTAKES: Final = 24
MOST_CLASSES: Final = 20
"""Of the confusion matrix as a table; more do not fit a page."""

Json = dict[str, Any]


def last(run: Run) -> tuple[str, Predictions] | None:
    """The last training stage that has left its answers, and them."""
    answers = _own(run)
    return answers[-1] if answers else None


def _own(run: Run) -> list[tuple[str, Predictions]]:
    """The answers of the run's own networks, in the order of the stages."""
    return [(name, found) for name, found in run.predictions.items() if name != BASELINE]


def collect(run: Run) -> Json | None:
    """The classes as the run's last network sees them; None where no stage has left its answers."""
    if (found := last(run)) is None:
        return None
    stage, answers = found
    rows = _rows(answers)
    present = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    commonest = int(np.argmax(answers.train_counts))
    share = rows[commonest]["test"] / len(answers)
    return {
        "stage": stage,
        "source": f"{run.stages[stage].directory}/{NAME}",
        "computed": {
            "images": len(answers),
            "rows": rows,
            "balanced_accuracy": sum(present) / len(present),
            "alike": bool(np.ptp(answers.train_counts) <= 1),  # a remainder of splitting
            "commonest": {"name": answers.class_names[commonest], "accuracy": share},
            "confusion": answers.confusion.tolist() if len(rows) <= MOST_CLASSES else None,
            "confusions": _confusions(answers),
            "mistakes": [_mistake(answers, index) for index in answers.mistakes[:MOST_MISTAKES].tolist()],
        },
    }


def pairs(run: Run) -> list[Json]:
    """Each trained network against the one before it, on the images that only one of them has right."""
    compared = [(before, after, _pair(old, new)) for (before, old), (after, new) in itertools.pairwise(_own(run))]
    return [{"stage": after, "before": before, "computed": pair} for before, after, pair in compared if pair]


def against_baseline(run: Run, stage: str) -> Json | None:
    """A stage's network against the baseline, as `pairs` does; None where either has left no answers."""
    answers = run.predictions
    return _pair(answers[BASELINE], answers[stage]) if {BASELINE, stage} <= set(answers) else None


def _pair(old: Predictions, new: Predictions) -> Json | None:
    """How many images only the new one has right, and only the old one; None where they are of other images."""
    if not np.array_equal(old.labels, new.labels):
        return None
    was, now = old.predicted == old.labels, new.predicted == new.labels
    wins, losses = int(np.sum(now & ~was)), int(np.sum(was & ~now))
    return {"wins": wins, "losses": losses, "p": sign_test(wins, losses)}


def _rows(answers: Predictions) -> list[Json]:
    """For each class its images in each part, and how many of its test images are right, with an interval of 95%."""
    confusion = answers.confusion
    rows = []
    for number, name in enumerate(answers.class_names):
        test, right = int(confusion[number].sum()), int(confusion[number, number])
        row = {"name": name, "train": answers.train_counts[number], "val": answers.val_counts[number]}
        row |= {"test": test, "right": right, "accuracy": right / test if test else None}
        rows.append({**row, "interval": list(wilson(right, test)) if test else None})
    return rows


def _confusions(answers: Predictions) -> list[Json]:
    """Which class is most often taken for which, the largest share of the class first among equal counts."""
    confusion = answers.confusion
    totals = confusion.sum(axis=1)
    pairs = [(i, j) for i, j in np.argwhere(confusion).tolist() if i != j]
    pairs.sort(key=lambda pair: (-confusion[pair], -confusion[pair] / totals[pair[0]], pair))
    names = answers.class_names
    return [
        {"true": names[i], "taken_for": names[j], "images": int(confusion[i, j]), "of": int(totals[i])}
        for i, j in pairs[:MOST_CONFUSIONS]
    ]


def _mistake(answers: Predictions, index: int) -> Json:
    names = answers.class_names
    return {
        "image": index,
        "true": names[answers.labels[index]],
        "taken_for": names[answers.predicted[index]],
        "confidence": float(answers.confidence[index]),
    }
