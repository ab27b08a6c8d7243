"""What a network looks like beyond its genotype, and what its layers are called."""

import json

import pytest

from nhn_tf.values import names
from nhn_tf.values.form import Form


def test_a_form_round_trips_through_json():
    form = Form(
        5, width_growth=1, separable_as_dense=False, smooth_init=False, layer_form="direct", reduction="avg_pool"
    )
    assert form.to_json() == {
        "filters": 5,
        "width_growth": 1,
        "separable_as_dense": False,
        "smooth_init": False,
        "layer_form": "direct",
        "reduction": "avg_pool",
    }
    assert Form(**json.loads(json.dumps(form.to_json()))) == form


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"filters": 1}, "`filters` must be a whole number of at least 2. Received: 1."),
        ({"filters": 4.0}, "Received: 4.0"),
        ({"width_growth": 0}, "`width_growth` must be a whole number of at least 1"),
        ({"width_growth": True}, "`width_growth`"),
        ({"smooth_init": 1}, "`smooth_init` must be True or False. Received: 1."),
        ({"separable_as_dense": None}, "`separable_as_dense`"),
        ({"layer_form": "plain"}, "`layer_form` must be among mixed, release, direct. Received: 'plain'"),
        ({"reduction": "max_pool"}, "`reduction` must be among factorized, avg_pool. Received: 'max_pool'"),
    ],
)
def test_what_is_no_form_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Form(**values)


def test_names_are_those_that_saved_weights_go_by():
    assert names.layer(3, "op") == "layer3_op"
    assert names.transition(1, "reduce", 0) == "transition1_reduce0"
    assert names.addon(0, "conv") == "addon0_conv"
    assert names.addon_choice(3, 5) == "layer3_add_on5x5"
