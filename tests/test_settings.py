"""Configurations: the paper's figures are the defaults, ranges hold, records round trip."""

import dataclasses
import json
import math

import pytest

from nhn_tf import settings
from nhn_tf.settings import PRESETS, BaseConfig, DataConfig, EnasConfig, TrainConfig
from nhn_tf.values.form import Form


def test_paper_preset_carries_the_papers_numbers():
    enas, base = PRESETS["paper"].enas, PRESETS["paper"].base
    assert (enas.num_layers, enas.supernet_filters, enas.epochs, enas.batch_size) == (12, 36, 310, 128)
    assert (enas.lr_max, enas.lr_min, enas.lr_period_epochs, enas.lr_period_mult) == (0.05, 0.001, 10, 2)
    assert (enas.controller_steps, enas.samples_per_step, enas.final_samples) == (50, 20, 1000)
    assert (enas.skip_target, enas.skip_weight, enas.entropy_weight) == (0.4, 0.8, 1e-4)
    assert (base.filters, base.epochs, base.l2, base.clip_norm, base.dropout) == (96, 310, 2e-4, 5.0, 0.0)
    # 10 + 20 + 40 + 80 + 160: four warm restarts fill the 310 epochs exactly.
    assert sum(base.lr_period_epochs * base.lr_period_mult**i for i in range(5)) == base.epochs


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_records_round_trip_through_json(preset):
    for part in dataclasses.fields(preset):
        if part.name != "help":
            config = preset.stage(part.name)
            assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(epochs=0), "`epochs` must be between 1 and 100000. Received: 0"),
        (lambda: TrainConfig(lr_max=-0.1), "`lr_max`"),
        (lambda: TrainConfig(lr_max=math.nan), "`lr_max`"),
        (lambda: TrainConfig(lr_max=math.inf), "`lr_max`"),
        (lambda: TrainConfig(lr_max=0.01, lr_min=0.02), "`lr_min` must not exceed"),
        (lambda: TrainConfig(clip_norm=-1.0), r"between 0 and 1e\+06"),
        (lambda: TrainConfig(epochs=2.5), "type int"),
        (lambda: TrainConfig(epochs=True), "type int"),
        (lambda: TrainConfig(momentum="high"), "type float"),
        (lambda: TrainConfig(cutmix=0.7, mixup=0.5), "together 1 at most. Received: 0.7 and 0.5"),
        (lambda: EnasConfig(ops=("conv3x3", "conv3x3")), "`ops`"),
        (lambda: EnasConfig(ops=()), "`ops`"),
        (lambda: EnasConfig(ops=("conv2x2",)), "conv2x2"),
        (lambda: EnasConfig(num_layers=10), "multiple of num_segments"),
        (lambda: EnasConfig(reward_bn="mean"), "among moving, batch"),
        (lambda: DataConfig(val_fraction=1.5), "between 0.01 and 0.9"),
        (lambda: DataConfig.from_json({"dataset": "digits", "flop": 1}), "no field flop"),
    ],
)
def test_absurd_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_integers_serve_as_floats_and_lists_as_tuples():
    assert TrainConfig(lr_max=1).lr_max == 1.0
    assert EnasConfig(ops=["conv3x3"]).ops == ("conv3x3",)


def test_every_field_explains_itself():
    for preset in PRESETS.values():
        for part in dataclasses.fields(preset):
            if part.name != "help":
                for field in dataclasses.fields(preset.stage(part.name)):
                    assert field.metadata["help"], f"{part.name}.{field.name}"


def test_the_base_gives_the_networks_form():
    assert BaseConfig().form == Form()
    given = {"filters": 8, "width_growth": 3, "separable_as_dense": False, "smooth_init": False}
    assert BaseConfig(epochs=1, **given).form == Form(**given)


def test_ranges_read_as_sentences():
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    assert settings.describe_range(fields["dropout"]) == "between 0 and 0.95"
    assert settings.describe_range(fields["clip_norm"]) == "between 0 and 1e+06"
