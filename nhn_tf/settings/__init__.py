"""Every hyperparameter, once: its name, default, unit, range, choices and source.

`field` is what a hyperparameter is, `hyperparameters` has a frozen dataclass for each stage, `presets` replaces some of
the values, and a `plan` fits them to a time. `stages` is the list of the stages. The command-line flags are generated
from these fields, and the run directory records them.
"""

from nhn_tf.settings.field import Config, describe_range, setting
from nhn_tf.settings.hyperparameters import (
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
from nhn_tf.settings.presets import PRESETS, Preset

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
