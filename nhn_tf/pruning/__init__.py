"""Pruning of k x k kernels in any functional Keras 3 model, and compaction to a smaller model.

    print(check(model))                      # what can be pruned, compacted and compiled, before it costs anything
    pruned = prune(model, sparsity=0.85)     # a masked copy; compile it and train on
    recalibrate(pruned, images)              # batch norm's statistics, which lag behind
    small = compact(pruned)                  # the same outputs from fewer weights
    small.save("small.keras")

`check` names what of a model stays as it is, and why.
"""

from nhn_tf.storage import backends as backends  # isort: skip
from nhn_tf.pruning.api import propose, prune
from nhn_tf.pruning.compact import compact, live_costs, live_parameters
from nhn_tf.pruning.criteria import CRITERIA, Selection, random_masks, score, select
from nhn_tf.pruning.distill import Distiller
from nhn_tf.pruning.inheritance import Inheritance
from nhn_tf.pruning.initial import units
from nhn_tf.pruning.liveness import LayerLiveness, liveness
from nhn_tf.pruning.masked import apply_masks, kinds_of, masked_layers, masks_of
from nhn_tf.pruning.preflight import LayerOutlook, Outlook, check
from nhn_tf.pruning.recalibrate import recalibrate
from nhn_tf.pruning.report import summary
from nhn_tf.pruning.schedule import PruningSchedule, Ramp
from nhn_tf.pruning.targets import prunable

__all__ = [
    "CRITERIA",
    "Distiller",
    "Inheritance",
    "LayerLiveness",
    "LayerOutlook",
    "Outlook",
    "PruningSchedule",
    "Ramp",
    "Selection",
    "apply_masks",
    "check",
    "compact",
    "kinds_of",
    "live_costs",
    "live_parameters",
    "liveness",
    "masked_layers",
    "masks_of",
    "propose",
    "prunable",
    "prune",
    "random_masks",
    "recalibrate",
    "score",
    "select",
    "summary",
    "units",
]
