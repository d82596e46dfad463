import json
from dataclasses import replace

import pytest

from training.config import BadConfig, TrainConfig

CONFIG = TrainConfig(("background", "cell"))


def test_a_config_survives_the_round_trip_through_json():
    config = replace(CONFIG, members=3, encoder_lr=1e-4, network="unet", seed=7)
    assert TrainConfig.from_json(config.to_json()) == config


def test_an_unknown_field_is_refused_by_name():
    found = json.loads(CONFIG.to_json()) | {"momentum": 0.9}
    with pytest.raises(BadConfig, match="momentum"):
        TrainConfig.from_json(json.dumps(found))


def test_a_missing_field_is_refused_by_name():
    found = json.loads(CONFIG.to_json())
    del found["steps"]
    with pytest.raises(BadConfig, match="steps"):
        TrainConfig.from_json(json.dumps(found))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "many"),
        ("members", 2.5),
        ("blur", "x"),
        ("classes", "background"),
        ("batch", True),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(field, value):
    found = json.loads(CONFIG.to_json()) | {field: value}
    with pytest.raises(BadConfig, match=field):
        TrainConfig.from_json(json.dumps(found))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", ("cell", "background")),
        ("classes", ("background",)),
        ("classes", ("background", "cell", "cell")),
        ("network", "resnet"),
        ("members", 0),
        ("crop_px", 100),
        ("max_side_px", 8),
        ("seek", 1.5),
        ("zoom", 0.5),
    ],
)
def test_a_value_out_of_range_is_refused(field, value):
    with pytest.raises(BadConfig, match=field):
        replace(CONFIG, **{field: value})
