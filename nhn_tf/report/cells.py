"""Figures as a reader wants them: percent, counts, hours, sizes."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any


def figure(name: str, value: Any) -> str:
    """A figure by its name: accuracies and shares in percent, counts in full."""
    if value is None:
        return "—"
    if isinstance(value, (str, bool)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return percent(value) if _is_share(name) else f"{value:.4g}"
    return str(value)


def difference(name: str, value: float) -> str:
    """How far two figures of that name are apart: shares in points."""
    return points(value) if _is_share(name) else f"{value:+.4g}"


def _is_share(name: str) -> bool:
    shares = ("accuracy", "fitness", "sparsity", "density", "removed", "kept_as", "kept_by")
    return any(share in name for share in shares)


def percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def points(share: float) -> str:
    """A difference of two shares, with its sign: +1.04 points."""
    return f"{100 * share:+.2f} points"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval of shares: 98.44–99.95%, "—" where there is none."""
    return "—" if bounds is None else f"{100 * bounds[0]:.2f}–{100 * bounds[1]:.2f}%"


def with_interval(value: str, bounds: Sequence[float] | None) -> str:
    """A share and its interval: 99.72% (98.44–99.95%)."""
    return value if bounds is None else f"{value} ({interval(bounds)})"


def millions(count: float) -> str:
    """A count in millions, to three digits or more: 1,234M, 7.03M, 0.125M, 0.00207M."""
    value = count / 1e6
    return f"{value:,.0f}M" if value >= 100 else f"{value:.2f}M" if value >= 1 else f"{value:.3g}M"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, rounded."""
    return str(datetime.timedelta(seconds=round(seconds)))


def size(count: int) -> str:
    """Bytes as KiB or MiB."""
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def setting(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.5g}" if value % 1 else str(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else "(empty)" if value == "" else str(value)


def counted(count: int, noun: str, plural: str = "") -> str:
    """1 layer, 12 layers."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
