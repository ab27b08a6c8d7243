"""Trains a network that a search has found.

    nhn-train --stage=base --preset=demo --model_dir=runs/demo

Stages: `base` trains the network that `nhn-search` found from scratch (paper, section 2.1); `pruned` trains on what
`nhn-prune` left of it; `final` trains base and add-on neurons together (section 3). `baseline` trains a plain network
to compare with.
Watch it with `tensorboard --logdir=runs/demo`. Interrupted, the same command goes on where it was saved.
"""

from .. import entry


def main() -> None:
    entry.main(__doc__, stages=("base", "pruned", "final", "baseline"))
