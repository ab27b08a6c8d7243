"""Prunes the 3x3 and 5x5 kernels of a trained network that learned nothing.

    nhn-prune --preset=demo --model_dir=runs/demo --threshold=0.02
    nhn-prune --preset=demo --model_dir=runs/demo --sparsity=0.85
    nhn-prune --preset=demo --model_dir=runs/demo --sparsity=0.85 --pointwise_sparsity=0.5

A kernel's sensitivity is the standard deviation of its entries (paper, section 2.2). Of 1x1 convolutions the smallest
weights go, that share of them which `--pointwise_sparsity` says. Train the result again:

    nhn-train --stage=pruned --preset=demo --model_dir=runs/demo
"""

from .. import entry


def main() -> None:
    entry.main(__doc__, stages=("prune",), choose_stage=False)
