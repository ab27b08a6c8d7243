"""Prunes the 3x3 and 5x5 kernels of a trained network that learned nothing.

    python prune.py --preset=demo --model_dir=runs/demo --threshold=0.02
    python prune.py --preset=demo --model_dir=runs/demo --threshold=auto --sparsity=0.85

A kernel's sensitivity is the standard deviation of its entries (paper, section 2.2). Train the result again with
`train.py --stage=pruned`.
"""

from flags import entry

if __name__ == "__main__":
    entry.main(__doc__, stages=("prune",), choose_stage=False)
