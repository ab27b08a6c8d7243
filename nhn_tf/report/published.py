"""What the NHN paper states: Table 1, the hours of each stage, the accuracies along the way. Nothing here is measured.

Source: "Neuron Hierarchical Networks", table 1 and section 3. Its experiments ran on one NVIDIA GTX 1080 Ti.
"""

from __future__ import annotations

import dataclasses
from typing import Final

DATASET: Final = "cifar10"
DEVICE: Final = "NVIDIA GTX 1080 Ti"

HANDCRAFTED: Final = "Handcrafted"
RANDOM_SEARCH: Final = "Found by random search"
EVOLUTIONARY: Final = "Evolutionary"
BLOCKS: Final = (HANDCRAFTED, RANDOM_SEARCH, EVOLUTIONARY)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table 1.

    Attributes:
      block: which of the table's three blocks it stands in.
      method: as the table calls it.
      reference: whom the table cites; "" for the paper itself.
      params_m: parameters in millions; None where the table has none.
      error: CIFAR-10 test error in percent.
      score: as printed, two decimals; None where the table has none.
    """

    block: str
    method: str
    reference: str
    params_m: float | None
    error: float
    score: float | None


TABLE_1: Final[tuple[Row, ...]] = (
    Row(HANDCRAFTED, "ResNet-110", "He et al., 2016a", 1.7, 6.43, 3.22),
    Row(HANDCRAFTED, "pre-act-ResNet-1001", "He et al., 2016b", 10.2, 4.62, 2.35),
    Row(HANDCRAFTED, "WRN-40-10 + d/o", "Zagoruyko and Komodakis, 2016", 56.0, 3.80, 2.94),
    Row(HANDCRAFTED, "WRN-28-20 + SGDR", "Loshchilov and Hutter, 2017", 145.8, 3.74, 6.12),
    Row(HANDCRAFTED, "DenseNet", "Huang et al., 2017", 27.2, 3.74, 2.16),
    Row(HANDCRAFTED, "ResNeXt", "Xie et al., 2017", 68.1, 3.58, 3.26),
    Row(HANDCRAFTED, "DenseNet + s/s", "Gastaldi, 2017", 26.2, 2.86, 1.77),
    Row(RANDOM_SEARCH, "CNF", "Saxena and Verbeek, 2016", 21.2, 7.43, 3.81),
    Row(RANDOM_SEARCH, "MetaQNN", "Baker et al., 2017", 11.2, 6.92, 3.49),
    Row(RANDOM_SEARCH, "Budgeted CNF", "Veniat and Denoyer, 2017", 7.6, 5.12, 2.58),
    Row(RANDOM_SEARCH, "FractalNet + d/p + d/o", "Larsson et al., 2017", 38.6, 4.60, 2.77),
    Row(RANDOM_SEARCH, "PPP-Net", "Dong et al., 2018", 11.3, 4.36, 2.23),
    Row(RANDOM_SEARCH, "ENAS macro", "Pham et al., 2018", 21.3, 4.23, 2.28),
    Row(RANDOM_SEARCH, "SMASH", "Brock et al., 2018", 16.0, 4.03, 2.11),
    Row(RANDOM_SEARCH, "NAS + more filters", "Zoph and Le, 2017", 37.4, 3.65, 2.36),
    Row(RANDOM_SEARCH, "Block-QNN-S + more filters", "Zhong et al., 2018", 39.8, 3.54, 2.38),
    Row(RANDOM_SEARCH, "ENAS micro", "Pham et al., 2018", 4.6, 3.54, 1.78),
    Row(RANDOM_SEARCH, "EAS by NT (DenseNet)", "Cai et al., 2017", 10.7, 3.44, 1.77),
    Row(RANDOM_SEARCH, "Progressive NAS", "Liu et al., 2017", 3.2, 3.41, 1.71),
    Row(RANDOM_SEARCH, "CL on ResNeXt", "Ahmed and Torresani, 2017", 34.4, 3.17, 2.10),
    Row(EVOLUTIONARY, "Genetic CNN", "Xie and Yuille, 2017", None, 7.10, None),
    Row(EVOLUTIONARY, "Evolving DNN", "Miikkulainen et al., 2017, as reported by Liu et al., 2018", None, 7.30, None),
    Row(EVOLUTIONARY, "Large-scale evolution", "Real et al., 2017", None, 5.40, None),
    Row(EVOLUTIONARY, "Evo. search on hier. repr.", "Liu et al., 2018", 61.3, 3.63, 3.05),
    Row(EVOLUTIONARY, "AmoebaNet + c/o", "Real et al., 2018", 34.9, 2.13, 1.76),
    Row(EVOLUTIONARY, "NHN", "", 7.0, 3.72, 1.88),
    Row(EVOLUTIONARY, "NHN + c/o", "", 7.0, 3.48, 1.76),
)

# Section 3, in its own words where it gives a bound. Pruning itself has no time of its own there.
HOURS: Final[dict[str, str]] = {
    "enas": "no more than 16 h",
    "base": "almost 9 h",
    "prune": "—",
    "pruned": "about 5 h",
    "lds_location": "around 10 h",
    "lds_direction": "about 9 h",
    "final": "6 h",
}
HOURS_TOTAL: Final = "about 46 h"
HOURS_NOTE: Final = (
    "The paper's stages add up to 55 h; its total is 46 h, with 10 h for the two add-on searches that it elsewhere "
    "gives as 10 h and 9 h."
)

# Test accuracies along the way, sections 3 and 4; all with cutout.
ACCURACY: Final[dict[str, str]] = {
    "base": "96.55%",
    "after_pruning": "15.7%",
    "pruned": "96.20%",
    "final": "96.52%",
    "without_addons": "1.08 points less",
}
