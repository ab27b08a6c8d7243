"""Which kernels of a network go: how each is scored, and how scores become masks.

The unit is a connection, one spatial kernel K[:, :, i, j] (paper, section 2.2). A criterion gives every connection of a
layer a score, low for those that matter least; `select` drops the low ones, by an absolute threshold or by a target
sparsity. Everything here is NumPy: no model is needed.

Shapes: kh kw spatial size of a kernel, Cin Cout input and output channels.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from nhn_tf.values.masks import Masks
from nhn_tf.values.randomness import Stream, generator

SCOPES: Final = ("global", "layer", "normalized")

Criterion = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Kernel [kh, kw, Cin, Cout] and a random generator to scores [Cin, Cout]; low goes first."""


def kernel_std(kernel: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Sensitivity of each connection (paper, section 2.2): how far its kernel is from flat.

    Args:
      kernel: float [kh, kw, Cin, Cout].
      rng: unused; criteria share one signature.

    Returns:
      float32 [Cin, Cout], the standard deviation over the kh * kw entries.
    """
    return np.asarray(np.std(kernel, axis=(0, 1), dtype=np.float64), np.float32)


def kernel_l1(kernel: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """float32 [Cin, Cout], the mean absolute entry of each kernel: its L1 norm / (kh * kw).

    Per entry, like the standard deviation, so that kernels of different sizes can be ranked together.
    """
    return np.asarray(np.mean(np.abs(kernel), axis=(0, 1), dtype=np.float64), np.float32)


def kernel_l2(kernel: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """float32 [Cin, Cout], the root mean square entry of each kernel: its L2 norm / sqrt(kh * kw)."""
    return np.sqrt(np.mean(np.square(kernel, dtype=np.float64), axis=(0, 1))).astype(np.float32)


def kernel_random(kernel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [Cin, Cout], uniform in [0, 1) and blind to the weights: the control."""
    return rng.random(kernel.shape[2:], dtype=np.float32)


CRITERIA: Final[Mapping[str, Criterion]] = MappingProxyType(
    {"std": kernel_std, "l1": kernel_l1, "l2": kernel_l2, "random": kernel_random}
)


@dataclasses.dataclass(frozen=True)
class Selection:
    """What `select` decided.

    Attributes:
      masks: the new masks, one for each layer, True = kept.
      thresholds: per layer, the score below which a kernel went. Under a target sparsity it is the lowest score the
        quantile kept (`inf` when it kept none), so that ties with it may have gone too.
      rescued: layers that would have lost every kernel and kept their strongest.
      disconnected: layers left without a kernel.
    """

    masks: Masks
    thresholds: Mapping[str, float]
    rescued: tuple[str, ...]
    disconnected: tuple[str, ...]


def score(kernels: Mapping[str, np.ndarray], criterion: str = "std", *, seed: int = 0) -> dict[str, np.ndarray]:
    """Scores the connections of every layer.

    Args:
      kernels: layer name to float [kh, kw, Cin, Cout].
      criterion: a name in `CRITERIA`; `std` ranks kernels of one number, which have none, by their magnitude.
      seed: of the `random` criterion. A layer's scores depend on the seed and the layer's name alone.

    Returns:
      layer name to float32 [Cin, Cout].

    Raises:
      ValueError: unknown criterion, or a kernel that is not four-dimensional or not finite.
    """
    check_criterion(criterion)
    scores = {}
    for name, kernel in kernels.items():
        if kernel.ndim != 4:
            raise ValueError(
                f"the kernel of layer {name!r} must be [kh, kw, Cin, Cout]. Received shape: {kernel.shape}."
            )
        if not np.isfinite(kernel).all():
            raise ValueError(
                f"layer {name!r} holds NaN or infinite weights, which cannot be ranked. Prune a model whose training "
                "did not diverge."
            )
        rng = generator(seed, Stream.RANDOM_PRUNING, zlib.crc32(name.encode()))
        # A kernel of one number has no spread: its magnitude counts.
        rank = kernel_l1 if criterion == "std" and kernel.shape[:2] == (1, 1) else CRITERIA[criterion]
        scores[name] = rank(kernel, rng)
    return scores


def check_criterion(criterion: str) -> None:
    """Raises a ValueError unless `criterion` is a name in `CRITERIA`."""
    if criterion not in CRITERIA:
        raise ValueError(f"`criterion` must be one of {', '.join(CRITERIA)}. Received: {criterion!r}.")


def check_target(
    *, threshold: float | None, sparsity: float | Mapping[str, float] | None, scope: str = "global"
) -> None:
    """Raises a ValueError unless exactly one of `threshold` and `sparsity` is given and the values are in range."""
    if (threshold is None) == (sparsity is None):
        raise ValueError(
            f"give exactly one of `threshold` and `sparsity`. Received: threshold={threshold}, sparsity={sparsity}."
        )
    if threshold is not None and not (
        isinstance(threshold, numbers.Real) and math.isfinite(threshold) and threshold >= 0
    ):
        raise ValueError(f"`threshold` must be finite and at least 0. Received: {threshold!r}.")
    shares = list(sparsity.values()) if isinstance(sparsity, Mapping) else [0.0 if sparsity is None else sparsity]
    if not shares or not all(isinstance(share, numbers.Real) and 0 <= share < 1 for share in shares):
        raise ValueError(f"`sparsity` must be in [0, 1). Received: {sparsity!r}.")
    check_scope(scope)


def check_scope(scope: str) -> None:
    """Raises a ValueError unless `scope` is in `SCOPES`."""
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {', '.join(SCOPES)}. Received: {scope!r}.")


def select(
    scores: Mapping[str, np.ndarray],
    *,
    threshold: float | None = None,
    sparsity: float | Mapping[str, float] | None = None,
    scope: str = "global",
    kinds: Mapping[str, str] | None = None,
    current: Mapping[str, np.ndarray] | None = None,
    may_return: bool = False,
    allow_disconnected: bool = False,
) -> Selection:
    """Turns scores into masks.

    With `threshold`, a kernel goes when its score is below it. With `sparsity`, the lowest `round(sparsity * n)` of the
    scope's n kernels go, those already pruned counted in; ties go in order of layer and position, so that the count is
    exact. Unless `allow_disconnected`, no layer loses its last kernel: the strongest stays, and under a global
    sparsity another kernel goes in its stead.

    Args:
      scores: layer name to float [Cin, Cout].
      threshold: absolute, in the unit of the scores.
      sparsity: share of kernels to be gone, in [0, 1); or one for each layer.
      scope: with `sparsity`, whether the share holds in each `layer` or over all of them (`global`; `normalized` too,
        for scores in units of each layer's own: see `initial.scores_of`).
      kinds: layer name to what it is; a global share holds over the layers of each kind, whose scores alone compare.
      current: masks in force, layer name to bool [Cin, Cout]; a layer without one is whole.
      may_return: whether kernels pruned in `current` compete again; otherwise they stay pruned. Of equal scores, those
        pruned in `current` go first either way, so that selecting twice changes nothing.
      allow_disconnected: whether a layer may lose every kernel.

    Raises:
      ValueError: both or neither of `threshold` and `sparsity`, a value out of range, masks that do not fit the scores.
    """
    check_target(threshold=threshold, sparsity=sparsity, scope=scope)
    alive = {name: _current_mask(name, s, current) for name, s in scores.items()}
    candidates = {name: np.ones_like(mask) if may_return else mask for name, mask in alive.items()}
    strongest = {name: _strongest(scores[name], candidates[name]) for name in scores}
    protected = {name: np.zeros_like(mask) if allow_disconnected else strongest[name] for name, mask in alive.items()}

    if threshold is not None:
        wanted = {name: candidates[name] & (scores[name] >= threshold) for name in scores}
        masks = {name: wanted[name] | protected[name] for name in scores}
        thresholds = dict.fromkeys(scores, float(threshold))
    elif sparsity is not None:
        if isinstance(sparsity, Mapping):
            groups, shares = _groups(scores, "layer"), sparsity
        else:
            groups, shares = _groups(scores, scope, kinds), dict.fromkeys(scores, sparsity)
        order = (scores, alive, candidates)
        nothing = {name: np.zeros_like(mask) for name, mask in alive.items()}
        wanted, masks, thresholds = {}, {}, {}
        for group in groups:
            free = _drop_lowest(group, *order, nothing, shares[group[0]])
            lowest = min((float(scores[n][m].min()) for n, m in free.items() if m.any()), default=math.inf)
            wanted.update(free)
            masks.update(_drop_lowest(group, *order, protected, shares[group[0]]))
            thresholds.update(dict.fromkeys(group, lowest))

    return Selection(
        masks=Masks(masks),
        thresholds=MappingProxyType(thresholds),
        rescued=tuple(n for n in scores if masks[n].any() and not wanted[n].any()),
        disconnected=tuple(n for n in scores if not masks[n].any()),
    )


def random_masks(
    masks: Mapping[str, np.ndarray],
    *,
    scope: str = "global",
    kinds: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Masks:
    """Masks that keep as many kernels, but any: the control for masks that a criterion chose, however few they keep.

    Args:
      masks: layer name to bool [Cin, Cout]; all kept to none kept.
      scope: whether each `layer` keeps as many as it did, or all of them together.
      kinds: layer name to what it is; all layers of each kind keep as many as they did, then.
      seed: of the choice, which is uniform.

    Raises:
      ValueError: unknown scope.
    """
    check_scope(scope)
    rng = np.random.default_rng(seed)
    shuffled: dict[str, np.ndarray] = {}
    for group in _groups(sorted(masks), scope, kinds):
        kept = np.concatenate([masks[name].ravel() for name in group])
        shuffled.update(_split(rng.permutation(kept), masks, group))
    return Masks(shuffled)


def _groups(names: Iterable[str], scope: str, kinds: Mapping[str, str] | None = None) -> list[list[str]]:
    """The layers that share one target: all of a kind, or each alone."""
    if scope == "layer":
        return [[name] for name in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("" if kinds is None else kinds[name], []).append(name)
    return list(groups.values())


def _split(flat: np.ndarray, like: Mapping[str, np.ndarray], group: Sequence[str]) -> dict[str, np.ndarray]:
    """The layers' arrays, of the shapes in `like`, from all their entries in a row."""
    ends = np.cumsum([like[name].size for name in group])[:-1]
    parts = zip(group, np.split(flat, ends), strict=True)
    return {name: part.reshape(like[name].shape) for name, part in parts}


def _current_mask(name: str, scores: np.ndarray, current: Mapping[str, np.ndarray] | None) -> np.ndarray:
    if np.isnan(scores).any():
        raise ValueError(f"the scores of layer {name!r} hold NaN and cannot be ranked.")
    if current is None or name not in current:
        return np.ones(scores.shape, bool)
    mask = np.asarray(current[name], bool)
    if mask.shape != scores.shape:
        raise ValueError(
            f"the mask of layer {name!r} must have the shape of its scores, {scores.shape}. Received: {mask.shape}."
        )
    return mask


def _strongest(scores: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """bool [Cin, Cout] with the highest-scoring candidate alone; all False when there is none."""
    strongest = np.zeros(scores.shape, bool)
    if candidates.any():
        best = np.argmax(np.where(candidates, scores, -np.inf))
        strongest[np.unravel_index(best, scores.shape)] = True
    return strongest


def _drop_lowest(
    group: Sequence[str],
    scores: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    candidates: Mapping[str, np.ndarray],
    protected: Mapping[str, np.ndarray],
    sparsity: float,
) -> dict[str, np.ndarray]:
    """Masks of the layers in `group` with the lowest `round(sparsity * n)` of their n kernels gone.

    Kernels that are no candidates go first, then by score; of equal scores those not alive, then by position.
    Protected ones never go.
    """

    def flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([arrays[name].ravel() for name in group])

    keep, never = flat(candidates).copy(), flat(protected)
    order = np.lexsort((flat(alive), flat(scores), keep, never))
    gone = min(round(sparsity * keep.size), keep.size - int(never.sum()))
    keep[order[:gone]] = False
    return _split(keep, scores, group)
