"""Runs that many tests look at: made once, by the real stages on the real digits."""

import dataclasses

import pytest

from nhn_tf.configs import PRESETS

STAGES = ("enas", "base", "prune", "pruned", "lds_location", "lds_direction", "final")


def smoke_settings(stage, **changes):
    """The smoke preset's settings of a stage, with some fields of its configuration changed."""
    from nhn_tf.runs import Settings

    preset = PRESETS["smoke"]
    config = dataclasses.replace(preset.stage(stage), **changes)
    return Settings(config=config, data=preset.data, compute=preset.compute, preset="smoke")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """A run directory whose seven stages have finished with the smoke preset. Not to be changed."""
    from nhn_tf import stages
    from nhn_tf.runs import RunDirectory

    run = RunDirectory(tmp_path_factory.mktemp("smoke") / "run")
    for stage in STAGES:
        stages.run(stage, run, smoke_settings(stage))
    return run
