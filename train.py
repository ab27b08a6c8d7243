"""Trains a network that a search has found.

    python train.py --stage=base --preset=demo --model_dir=runs/demo

Stages: `base` trains the network of `search.py --stage=enas` from scratch (paper, section 2.1); `pruned` trains on what
`prune.py` left of it; `final` trains base and add-on neurons together (section 3). `baseline` trains a plain network
to compare with.
Watch it with `tensorboard --logdir=runs/demo`. Interrupted, the same command goes on where it was saved.
"""

from flags import entry

if __name__ == "__main__":
    entry.main(__doc__, stages=("base", "pruned", "final", "baseline"))
