"""Which augmentation fits the images: whether mirrored and shifted pictures still show their class.

A quick classifier decides: random patches of the training pictures as filters, pooled over a grid, and a linear model
(Coates, Lee & Ng 2011 found that patches do nearly as well as learnt filters). It learns from some training pictures
and is asked about others, as they are and mirrored. Where mirror images are as likely as pictures, every classifier
knows as many of either; where it knows fewer, left and right mean something.

Letters: N pictures, K classes, F filters of P x P pixels, C channels, D = 9 F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from nhn_tf.data import pictures
from nhn_tf.data.splits import Choice, Split, limit
from nhn_tf.values.randomness import Stream, generator

MOST_PICTURES: Final = 1200
MOST_PIXELS: Final = 32
"""A side; larger pictures are scaled down."""
FILTERS: Final = 64
GRID: Final = 3
FOLDS: Final = 5
RIDGE: Final = 0.3
"""Of the features' mean square, added to each."""
_SEED: Final = 0
_CHUNK: Final = 128  # pictures whose patches are in memory at a time
_LEVEL: Final = 0.005  # variance that counts as contrast, of levels in [0, 1]
_THRESHOLD: Final = 1.0  # of a filter's response, in standard deviations of a patch

SAME: Final = 0.1
"""Mirror images that lose less than this share of what is known above chance are as good as the pictures."""
OTHER: Final = 0.5
"""Those that lose more are of no class; in between, learning from them decides."""


@dataclass(frozen=True)
class Recognition:
    """What the quick classifier knows of pictures that it did not learn from; shares of each class, averaged.

    Attributes:
      pictures: how many it was asked about.
      chance: what guessing would give.
      doubt: standard error of guessing.
      plain: of the pictures, having learnt from pictures.
      mirrored: of their mirror images.
      with_mirrored: of the pictures, having learnt from mirror images too.
      with_shifted: of the pictures, having learnt from shifted ones too.
      shift_doubt: standard error of `with_shifted - plain`.
    """

    pictures: int
    chance: float
    doubt: float
    plain: float
    mirrored: float
    with_mirrored: float
    with_shifted: float
    shift_doubt: float

    def flip(self) -> Choice:
        """Whether to mirror training images."""
        known = self.plain - self.chance
        seen = f"a quick classifier knows {self.plain:.0%} of {self.pictures:,} pictures"
        if known < 2 * self.doubt:
            return Choice("off", f"{seen}, too few to tell whether mirror images show the same")
        lost = (self.plain - self.mirrored) / known
        why = f"{seen} and {self.mirrored:.0%} of their mirror images"
        if SAME < lost < OTHER:
            gain = self.with_mirrored > self.plain
            return Choice("on" if gain else "off", f"{why}; {self.with_mirrored:.0%} having learnt from those too")
        return Choice("on" if lost <= SAME else "off", why)

    def pad(self, most: int) -> Choice:
        """How far to shift training images: `most` pixels, or not at all where that does harm."""
        why = f"a quick classifier knows {self.plain:.1%} of the pictures, {self.with_shifted:.1%} having learnt from "
        harm = self.plain - self.with_shifted > 2 * self.shift_doubt
        beyond = "less, beyond chance" if harm else "no harm beyond chance"
        return Choice(
            0 if harm else most, f"{why}pictures shifted by up to {most} pixel{'s' if most > 1 else ''}: {beyond}"
        )


def measure(split: Split, *, pad: int) -> Recognition:
    """Asks the quick classifier; a second or two, the same for equal images.

    Args:
      split: training images, of two classes at least.
      pad: pixels that shifted pictures are shifted by at most.
    """
    rng = generator(_SEED, Stream.PROBE)
    classes = len(np.unique(split.labels))
    split = limit(split, max(MOST_PICTURES, classes), rng, setting="train_limit")
    split = split.take(np.argsort(split.labels, kind="stable"))  # so that each fold has its share of each class
    images = split.images
    if max(images.shape[1:3]) > MOST_PIXELS:
        images = pictures.resize(images, MOST_PIXELS)
        pad = max(1, pad * MOST_PIXELS // min(split.images.shape[1:3]))
    images = images.astype(np.float32) / 255
    describe = _Descriptor(images, rng)
    ways = [images, images[:, :, ::-1], *(_shifted(images, pad, rng) for _ in range(2))]
    features = [describe(way) for way in ways]
    labels = np.unique(split.labels, return_inverse=True)[1]
    weights = 1 / (classes * np.bincount(labels)[labels])  # each class counts the same, and all together 1
    lessons = _Lessons(features, labels, weights)
    plain, mirrored, with_mirrored, with_shifted = (
        lessons.right(learnt, asked) for learnt, asked in (([0], 0), ([0], 1), ([0, 1], 0), ([0, 2, 3], 0))
    )
    return Recognition(
        pictures=len(labels),
        chance=1 / classes,
        doubt=float(np.sqrt(np.sum(weights**2) * (1 - 1 / classes) / classes)),
        plain=float(weights @ plain),
        mirrored=float(weights @ mirrored),
        with_mirrored=float(weights @ with_mirrored),
        with_shifted=float(weights @ with_shifted),
        shift_doubt=float(np.linalg.norm(weights * (with_shifted ^ plain))),
    )


class _Descriptor:
    """Features of pictures: how strongly each filter answers in each part of the picture.

    Args:
      images: float32 [N, H, W, C] in [0, 1], which the filters are cut out of.
      rng: chooses them.
    """

    def __init__(self, images: np.ndarray, rng: np.random.Generator):
        count, height, width, _ = images.shape
        self._side = 3 if min(height, width) <= 12 else 5
        self._stride = 2 if min(height, width) >= 24 else 1
        corners = (rng.integers(end, size=FILTERS) for end in (count, height - self._side + 1, width - self._side + 1))
        patches = np.stack([self._patches(images[n : n + 1])[0, y, x] for n, y, x in zip(*corners, strict=True)])
        self._filters = (patches / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-6)).T

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, H, W, C] -> float32 [N, D]."""
        return np.concatenate([self._pooled(images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)])

    def _patches(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, h, w, C P P], without their mean, at a standard deviation of about 1."""
        windows = np.lib.stride_tricks.sliding_window_view(images, (self._side, self._side), axis=(1, 2))
        patches = windows.reshape(*windows.shape[:3], -1)
        patches = patches - patches.mean(axis=-1, keepdims=True)
        return patches / np.sqrt(patches.var(axis=-1, keepdims=True) + _LEVEL)

    def _pooled(self, images: np.ndarray) -> np.ndarray:
        patches = self._patches(images)[:, :: self._stride, :: self._stride]
        answers = np.maximum(patches @ self._filters - _THRESHOLD, 0)
        rows = np.array_split(answers, GRID, axis=1)
        parts = [part.mean(axis=(1, 2)) for row in rows for part in np.array_split(row, GRID, axis=2)]
        return np.concatenate(parts, axis=1)


def _shifted(images: np.ndarray, pad: int, rng: np.random.Generator) -> np.ndarray:
    """Each picture moved by up to `pad` pixels, the mean level moved in."""
    height, width = images.shape[1:3]
    around = ((pad, pad), (pad, pad), (0, 0))
    corners = rng.integers(0, 2 * pad + 1, size=(len(images), 2))
    level = float(images.mean())
    padded = (np.pad(image, around, constant_values=level) for image in images)
    return np.stack([image[y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)])


class _Lessons:
    """Ridge regression of the classes on the features, learnt from all folds but the one that it is asked about.

    Picture n belongs to fold n modulo `FOLDS`. What each fold has to teach, its share of the normal equations, is
    worked out once; lessons add up.

    Args:
      features: the pictures in several ways, each float32 [N, D].
      labels: int [N].
      weights: float [N], how much each picture counts.
    """

    def __init__(self, features: list[np.ndarray], labels: np.ndarray, weights: np.ndarray):
        everything = np.concatenate(features)  # what never varies in the pictures may in their mirror images
        mean, std = everything.mean(axis=0), everything.std(axis=0) + 1e-6
        self._features = [(way - mean) / std for way in features]
        self._labels = labels
        self._fold = np.arange(len(labels)) % FOLDS
        shares = (weights * len(weights)).astype(np.float32)[:, None]
        targets = np.eye(labels.max() + 1, dtype=np.float32)[labels]
        self._centre = targets.T @ weights
        aims = shares * (targets - self._centre).astype(np.float32)
        self._squares = [[(way[f] * shares[f]).T @ way[f] for f in self._folds()] for way in self._features]
        self._products = [[way[f].T @ aims[f] for f in self._folds()] for way in self._features]

    def _folds(self) -> list[np.ndarray]:
        return [self._fold == fold for fold in range(FOLDS)]

    def right(self, learnt: list[int], asked: int) -> np.ndarray:
        """Which pictures are known, bool [N], shown in the way `asked`, having learnt from the ways `learnt`."""
        known = np.zeros(len(self._labels), bool)
        for fold, of_fold in enumerate(self._folds()):
            others = [(way, other) for way in learnt for other in range(FOLDS) if other != fold]
            square = sum(self._squares[way][other].astype(np.float64) for way, other in others)
            product = sum(self._products[way][other].astype(np.float64) for way, other in others)
            square[np.diag_indices_from(square)] += RIDGE * np.trace(square) / len(square) + 1e-6  # flat pictures
            scores = self._features[asked][of_fold] @ np.linalg.solve(square, product) + self._centre
            known[of_fold] = scores.argmax(axis=1) == self._labels[of_fold]
        return known
