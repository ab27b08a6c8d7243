"""Trains a network that a search has found.

    python train.py --stage=base --preset=demo --model_dir=runs/demo

Stages: `base` trains the network that `search.py --stage=enas` found, from scratch (paper, section 2.1);
`pruned` trains on what `prune.py` left of it (paper, section 3).
Watch it with `tensorboard --logdir=runs/demo`. Interrupted, the same command goes on at the last whole epoch.
"""

from flags import entry

if __name__ == "__main__":
    entry.main(__doc__, stages=("base", "pruned", "final"))
