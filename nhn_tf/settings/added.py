"""Settings that older versions lacked, and what those did in their place: whatever they began goes on.

At these values a setting is no part of what decides a result.
"""

from __future__ import annotations

from typing import Any, Final

ADDED: Final[dict[str, Any]] = {
    "devices": 1,
    "data.class_weights": "auto",
    "config.layer_form": "mixed",
    "config.reduction": "factorized",
    "config.cutmix": 0.0,
    "config.mixup": 0.0,
    "config.trivial_augment": False,
    "config.distill": 0.0,
    "config.distill_temperature": 4.0,
    "config.recalibrate": False,
    "config.paired_fitness": False,
    "config.random_probes": 0,
    "config.pointwise_sparsity": 0.0,
    "config.objective": "accuracy",
    "config.cost_target": 0.0,
    "config.cost_weight": 0.07,
    "config.cost_filters": 0,
    "config.cost_sparsity": 0.85,
}
"""By section and name."""
