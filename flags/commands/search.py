"""Searches: an architecture, and then where sparse add-on neurons help.

    nhn-search --stage=enas --preset=demo --model_dir=runs/demo

Stages: `enas` finds operations and skips of every layer (paper, section 2.1). `lds_location` finds the layers that
add-on neurons join, `lds_direction` what they connect (section 2.3), `lds` runs both in turn.
Watch it with `tensorboard --logdir=runs/demo`. Interrupted, the same command goes on where it was saved.
"""

from .. import entry


def main() -> None:
    entry.main(
        __doc__,
        stages=("enas", "lds_location", "lds_direction"),
        groups={"lds": ("lds_location", "lds_direction")},
    )
