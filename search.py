"""Searches an architecture.

    python search.py --stage=enas --preset=demo --model_dir=runs/demo

Stages: `enas` finds a layer-wise network (paper, section 2.1): operations and skips of every layer.
Watch it with `tensorboard --logdir=runs/demo`. Interrupted, the same command goes on at the last whole epoch.
"""

from flags import entry

if __name__ == "__main__":
    entry.main(__doc__, stages=("enas", "lds_location", "lds_direction"))
