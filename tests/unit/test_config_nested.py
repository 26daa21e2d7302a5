"""Variants inside variants: a model's temporal subsystem on the command line and in YAML."""

import itertools

import pytest

from kineray.config import (
    AverageConfig,
    Conv1dConfig,
    Experiment,
    FrameConfig,
    LstmConfig,
    TimeceptionConfig,
    apply_overrides,
    differing_keys,
    fingerprint,
    from_yaml,
    leaf_keys,
    to_yaml,
)
from kineray.errors import ConfigError

LSTM64 = FrameConfig(temporal=LstmConfig(units=64))


def test_overrides_apply_in_any_order():
    pairs = ["model.type=frame", "model.temporal.type=lstm", "model.temporal.units=64"]
    for order in itertools.permutations(pairs):
        assert apply_overrides(Experiment(), order).model == LSTM64


def test_choosing_a_variant_starts_from_its_own_defaults():
    lstm = apply_overrides(Experiment(), ["model.type=frame", "model.temporal.type=lstm"])
    assert lstm.model == FrameConfig(temporal=LstmConfig())
    changed = apply_overrides(lstm, ["model.temporal.units=9", "model.cut=layer3"])
    assert apply_overrides(changed, ["model.temporal.type=lstm"]) == changed
    other = apply_overrides(changed, ["model.temporal.type=timeception", "model.temporal.layers=2"])
    assert other.model == FrameConfig(cut="layer3", temporal=TimeceptionConfig(layers=2))
    assert apply_overrides(changed, ["model.type=slowfast"]).model == Experiment().model


@pytest.mark.parametrize(
    "text",
    [
        "model: {type: frame, temporal: {type: lstm, units: 64}}",
        "model:\n  temporal:\n    units: 64\n    type: lstm\n  type: frame",
    ],
)
def test_yaml_chooses_nested_variants_in_any_order(text):
    experiment = from_yaml(text)
    assert experiment.model == LSTM64
    assert from_yaml(to_yaml(experiment)) == experiment


def test_yaml_that_leaves_the_variant_out_has_the_default_one():
    assert from_yaml("model: {type: frame, temporal: {z_norm: per_frame}}").model == FrameConfig(
        temporal=AverageConfig(z_norm="per_frame")
    )


@pytest.mark.parametrize(
    ("overrides", "code", "key"),
    [
        (
            ["model.type=frame", "model.temporal.type=lstm", "model.temporal.groups=4"],
            "wrong_variant",
            "model.temporal.groups",
        ),
        (["model.type=frame", "model.temporal.units=4"], "wrong_variant", "model.temporal.units"),
        (["model.temporal.type=lstm", "model.temporal.units=64"], "wrong_variant", "model.temporal.type"),
        (["model.type=frame", "model.temporal.type=ltsm"], "unknown_variant", "model.temporal.type"),
        (
            ["model.type=frame", "model.temporal.type=lstm", "model.temporal.unit=4"],
            "unknown_key",
            "model.temporal.unit",
        ),
        (
            ["model.type=frame", "model.temporal.type=lstm", "model.temporal.units=0"],
            "bad_value",
            "model.temporal.units",
        ),
        (["model.type=frame", "model.temporal=lstm"], "not_a_field", "model.temporal"),
        (["model.type=frame", "model.alpha=4"], "wrong_variant", "model.alpha"),
        (["model.type=frame", "model.temporal.type=conv1d"], "wrong_shape", "data.frames"),
        (
            ["model.type=frame", "model.temporal.type=timeception", "data.frames=15"],
            "wrong_shape",
            "data.frames",
        ),
        (["model.type=frame", "data.crop=16", "data.eval_crop=48"], "wrong_shape", "data.crop"),
        (
            ["model.type=frame", "model.backbone=inception_v3", "data.eval_crop=74"],
            "wrong_shape",
            "data.eval_crop",
        ),
        (["model.type=frame", "model.backbone=resnet5"], "bad_value", "model.backbone"),
    ],
)
def test_a_bad_override_is_one_clear_line(overrides, code, key):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), overrides)
    assert (error.value.code, error.value.key) == (code, key)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("model: {type: frame, temporal: {type: lstm, groups: 4}}", "wrong_variant", "experiment"),
        ("model: {type: frame, temporal: {type: lstm, units: 0}}", "bad_value", "experiment"),
        ("model: {type: frame, temporal: {type: ltsm}}", "unknown_variant", "experiment"),
        ("model: {type: frame, temporal: 3}", "not_a_field", "experiment"),
        ("model: {temporal: {type: lstm}}", "wrong_variant", "experiment"),
    ],
)
def test_bad_yaml_is_one_clear_line(text, code, key):
    with pytest.raises(ConfigError) as error:
        from_yaml(text)
    assert (error.value.code, error.value.key) == (code, key)
    assert "\n" not in str(error.value)


def test_nested_fields_are_keys_and_part_of_the_science():
    one = Experiment(model=LSTM64)
    other = Experiment(model=FrameConfig(temporal=LstmConfig(units=65)))
    assert leaf_keys(one)["model.temporal.units"] == 64
    assert leaf_keys(one)["model.temporal.type"] == "lstm"
    assert differing_keys(one, other) == ["model.temporal.units"]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(from_yaml(to_yaml(one)))


def test_conv1d_takes_twenty_frames():
    pairs = ["model.type=frame", "model.temporal.type=conv1d", "data.frames=20"]
    assert apply_overrides(Experiment(), pairs).model == FrameConfig(temporal=Conv1dConfig())
