"""Search spaces with conditions: what they hold, what is refused, how they are written."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kineray.config import (
    AdamConfig,
    Choice,
    Experiment,
    FrameConfig,
    Integers,
    LogUniform,
    LstmConfig,
    SgdConfig,
    Uniform,
    all_keys,
    all_points,
    apply_overrides,
    check_space,
    families,
    parse_domain,
    read_space,
    space_from_plain,
    space_to_plain,
    variants,
    with_default_spaces,
)
from kineray.config.space import sampled_point
from kineray.errors import ConfigError

FRAME = Experiment(model=FrameConfig(backbone="mobilenet_v2"))
TYPE = "model.temporal.type"
UNITS = "model.temporal.units"

CONDITIONAL = {
    TYPE: Choice({"lstm": {UNITS: Choice(16, 32)}, "gru": {UNITS: Choice(64)}, "average": {}}),
    "model.dropout": Choice(0.0, 0.5),
}


def refused(space, experiment=FRAME, **options):
    """Code and key of the error for a search space."""
    with pytest.raises(ConfigError) as error:
        check_space(experiment, space, **options)
    return error.value.code, error.value.key


def test_a_space_of_a_value_is_searched_where_the_value_is_chosen():
    check_space(FRAME, CONDITIONAL)
    points = list(all_points(CONDITIONAL))
    assert len(points) == (2 + 1 + 1) * 2
    assert {(point[TYPE], point.get(UNITS)) for point in points} == {
        ("lstm", 16), ("lstm", 32), ("gru", 64), ("average", None)
    }  # fmt: skip
    for point in points:
        apply_overrides(FRAME, point)
    assert all_keys(CONDITIONAL) == [TYPE, UNITS, "model.dropout"]


@pytest.mark.parametrize(
    ("space", "code", "key"),
    [
        # In a branch as outside of one, before any trial starts.
        (
            {TYPE: Choice({"lstm": {"model.temporal.unitz": Choice(4)}})},
            "unknown_key",
            "model.temporal.unitz",
        ),
        ({TYPE: Choice({"average": {UNITS: Choice(4)}})}, "wrong_variant", UNITS),
        ({TYPE: Choice({"lstm": {UNITS: Choice(4, 0)}})}, "bad_value", UNITS),
        ({TYPE: Choice({"lstm": {UNITS: [4]}})}, "not_a_domain", UNITS),
        ({TYPE: Choice({"lstm": [UNITS]})}, "not_a_space", "space"),
        ({TYPE: Choice({"lstm": {"data.manifest": Choice("a")}})}, "not_searchable", "data.manifest"),
        # Searched twice: in a branch and beside it, in two branches at once, in a branch of itself.
        ({TYPE: Choice({"lstm": {"seed": Choice(1)}}), "seed": Choice(2)}, "given_twice", "seed"),
        (
            {
                TYPE: Choice({"lstm": {"seed": Choice(1)}}),
                "optim.type": Choice({"sgd": {"seed": Choice(2)}}),
            },
            "given_twice",
            "seed",
        ),
        ({"seed": Choice({1: {"seed": Choice(2)}})}, "given_twice", "seed"),
        ({"data.frames": Integers(8, 8)}, "not_a_domain", "data.frames"),
        ({"data.frames": Integers(8, 32, step=0)}, "not_a_domain", "data.frames"),
        ({"data.frames": Integers(8, 32, step=2, log=True)}, "not_a_domain", "data.frames"),
        ({"data.frames": Integers(0, 32, log=True)}, "not_a_domain", "data.frames"),
        ({"data.frames": Integers(8.5, 32)}, "not_a_domain", "data.frames"),
        ({"train.epochs": Integers(0, 4)}, "bad_value", "train.epochs"),
    ],
)
def test_a_bad_space_is_refused_in_every_branch(space, code, key):
    assert refused(space) == (code, key)


def test_values_that_do_not_go_together_are_found_inside_a_branch():
    slowfast = {"model.alpha": Choice(8, 16), "data.frames": Choice(16, 24)}
    space = {"model.type": Choice({"slowfast": slowfast, "c3d": {}})}
    assert refused(space, Experiment())[1] == "data.frames"


def test_a_key_of_a_branch_cannot_be_set_too():
    assert refused(CONDITIONAL, fixed=[UNITS]) == ("given_twice", UNITS)


def test_types_have_the_default_spaces_of_their_variants():
    space = with_default_spaces({TYPE: Choice("lstm", "average"), "optim.type": Choice("sgd", "adam")})
    assert space[TYPE].spaces["lstm"] == {UNITS: LstmConfig.default_space["units"]}
    assert set(space[TYPE].spaces["average"]) == {"model.temporal.z_norm"}
    assert space["optim.type"].spaces["sgd"] == {"optim.lr": SgdConfig.default_space["lr"]}
    assert space["optim.type"].spaces["adam"] == {"optim.lr": AdamConfig.default_space["lr"]}
    check_space(FRAME, space)


def test_what_the_user_says_goes_before_a_default_space():
    own = {UNITS: Choice(7)}
    space = with_default_spaces({TYPE: Choice({"lstm": own, "average": {}}, "gru")})
    assert space[TYPE].spaces == {
        "lstm": own,
        "average": {},
        "gru": {UNITS: Choice(32, 64, 128, 256, 512, ordered=True)},
    }
    named = with_default_spaces(
        {"optim.type": Choice("sgd", "adam"), "optim.lr": LogUniform(0.1, 1)}, fixed=[UNITS]
    )
    assert not any(named["optim.type"].spaces.values())
    fixed = with_default_spaces({TYPE: Choice("lstm")}, fixed=[UNITS])
    assert fixed[TYPE].spaces == {"lstm": {}}


def test_default_spaces_are_completed_inside_branches():
    space = {"model.type": Choice({"frame": {TYPE: Choice("lstm")}, "c3d": {}})}
    found = with_default_spaces(space)
    assert set(found["model.type"].spaces["frame"][TYPE].spaces["lstm"]) == {UNITS}


def test_every_default_space_fits_its_variant():
    for family in families():
        for cls in variants(family).values():
            assert set(all_keys(cls.default_space)) <= set(cls.model_fields), cls


def test_a_grid_needs_points_that_end():
    assert len(list(all_points({"data.frames": Integers(8, 32, step=8), "seed": Choice(1, 2)}))) == 8
    with pytest.raises(ConfigError) as error:
        list(all_points({"optim.lr": LogUniform(0.1, 1)}))
    assert (error.value.code, error.value.key) == ("not_a_domain", "optim.lr")


DOMAINS = st.one_of(
    st.builds(lambda a, b: Uniform(a, a + b), st.floats(0, 1), st.floats(0.1, 1)),
    st.builds(lambda a, b: LogUniform(a, a * b), st.floats(0.01, 1), st.floats(2, 9)),
    st.builds(lambda a, b, s: Integers(a, a + b, s), st.integers(0, 9), st.integers(1, 9), st.integers(1, 3)),
    st.builds(lambda a, b: Integers(a, a + b, log=True), st.integers(1, 9), st.integers(1, 9)),
    st.builds(
        lambda values, ordered: Choice(*values, ordered=ordered),
        st.lists(st.one_of(st.integers(), st.booleans(), st.text()), min_size=1, max_size=4),
        st.booleans(),
    ),
)
SPACES = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), DOMAINS, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from("efgh"),
        st.builds(Choice, st.dictionaries(st.sampled_from(("x", "y", "z")), inner, min_size=1)),
        max_size=2,
    ),
    max_leaves=4,
)


@given(SPACES)
def test_a_space_survives_json_and_yaml(space):
    plain = space_to_plain(space)
    assert space_from_plain(json.loads(json.dumps(plain))) == _with_spaces(space)
    assert space_from_plain(yaml.safe_load(yaml.safe_dump(plain, sort_keys=False))) == _with_spaces(space)


def _with_spaces(space):
    return {key: _completed(domain) for key, domain in space.items()}


def _completed(domain):
    if isinstance(domain, Choice) and domain.spaces:
        inner = {value: _with_spaces(domain.spaces.get(value, {})) for value in domain.values}
        return Choice(inner, ordered=domain.ordered)
    return domain


def test_names_of_values_differ_in_every_branch():
    asked = []

    def first(name, domain):
        asked.append(name)
        return domain.values[0]

    assert sampled_point(CONDITIONAL, first) == {TYPE: "lstm", UNITS: 16, "model.dropout": 0.0}
    assert asked == [TYPE, f"{UNITS}, {TYPE}=lstm", "model.dropout"]


def test_a_space_in_a_file(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(
        "optim.lr: {log: [0.001, 0.1]}\n"
        "data.frames: {integers: [8, 32, 8]}\n"
        "model.temporal.type:\n"
        "  choice:\n"
        "    lstm: {model.temporal.units: {ordered: [64, 128]}}\n"
        "    average:\n"
    )
    assert read_space(str(file)) == {
        "optim.lr": LogUniform(0.001, 0.1),
        "data.frames": Integers(8, 32, 8),
        TYPE: Choice({"lstm": {UNITS: Choice(64, 128, ordered=True)}, "average": {}}),
    }
    for text, code, key in [
        ("optim.lr: {log: [1]}", "not_a_domain", "optim.lr"),
        ("optim.lr: 3", "not_a_domain", "optim.lr"),
        ("[a, b]", "not_a_space", "space"),
        ("a: [", "not_a_space", str(file)),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            read_space(str(file))
        assert (error.value.code, error.value.key) == (code, key)
    with pytest.raises(ConfigError) as error:
        read_space(str(tmp_path / "none.yaml"))
    assert error.value.code == "unreadable"


def test_integers_and_ordered_choices_on_the_command_line():
    assert parse_domain("data.frames=integers:8:32:8") == ("data.frames", Integers(8, 32, 8))
    assert parse_domain("data.frames=integers:8:32") == ("data.frames", Integers(8, 32))
    assert parse_domain("model.alpha=ordered:2,4") == ("model.alpha", Choice("2", "4", ordered=True))
    for text in ("data.frames=integers:8", "data.frames=integers:1.5:3", "a=log:1:2:3"):
        with pytest.raises(ConfigError) as error:
            parse_domain(text)
        assert error.value.code == "not_a_domain"
