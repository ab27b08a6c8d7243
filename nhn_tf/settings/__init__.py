"""Every hyperparameter, once: its name, default, unit, range, choices and source.

`field` is what a hyperparameter is, `stages` has a frozen dataclass for each stage, and `presets` replaces some of the
values. The command-line flags are generated from these fields, and the run directory records them.
"""

from nhn_tf.settings.field import Config, describe_range, setting
from nhn_tf.settings.presets import PRESETS, Preset
from nhn_tf.settings.stages import (
    MAX_IMAGE_SIZE,
    BaseConfig,
    BaselineConfig,
    ComputeConfig,
    DataConfig,
    DirectionConfig,
    EnasConfig,
    FinalConfig,
    GradientConfig,
    LdsConfig,
    LocationConfig,
    PruneConfig,
    RetrainConfig,
    SgdConfig,
    TrainConfig,
)

__all__ = [
    "MAX_IMAGE_SIZE",
    "PRESETS",
    "BaseConfig",
    "BaselineConfig",
    "ComputeConfig",
    "Config",
    "DataConfig",
    "DirectionConfig",
    "EnasConfig",
    "FinalConfig",
    "GradientConfig",
    "LdsConfig",
    "LocationConfig",
    "Preset",
    "PruneConfig",
    "RetrainConfig",
    "SgdConfig",
    "TrainConfig",
    "describe_range",
    "setting",
]
