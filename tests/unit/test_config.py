"""The typed experiment: overrides in any order, exact errors, YAML both ways, the fingerprint."""

import itertools
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kineray.config import (
    AdamConfig,
    Choice,
    DataConfig,
    Experiment,
    LogUniform,
    ModelSection,
    OptimSection,
    RecipePiece,
    ScheduleSection,
    Uniform,
    apply_overrides,
    arguments_of,
    check_space,
    differing_keys,
    fingerprint,
    from_yaml,
    leaf_keys,
    parse_domain,
    reset_by,
    to_yaml,
    trial_name,
    variants,
)
from kineray.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_an_experiment_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        Experiment().seed = 1


@pytest.mark.parametrize("text", ["1e-2", "0.01", "1E-2", ".01"])
def test_floats_are_written_as_people_write_them(text):
    assert apply_overrides(Experiment(), [f"optim.lr={text}"]).optim.lr == 0.01


def test_overrides_apply_in_any_order():
    pairs = ["optim.beta1=0.8", "optim.type=adam", "optim.lr=3e-4", "train.epochs=40"]
    results = {to_yaml(apply_overrides(Experiment(), order)) for order in itertools.permutations(pairs)}
    assert len(results) == 1
    chosen = apply_overrides(Experiment(), pairs)
    assert chosen.optim == AdamConfig(beta1=0.8, lr=3e-4)
    assert chosen.train.epochs == 40


def test_choosing_a_variant_starts_from_its_own_defaults():
    base = apply_overrides(Experiment(), ["optim.lr=0.5", "optim.weight_decay=0.1"])
    assert apply_overrides(base, ["optim.type=adam"]).optim == AdamConfig()
    assert apply_overrides(base, ["optim.type=sgd"]).optim == base.optim


def test_sequences_are_written_with_commas():
    chosen = apply_overrides(
        Experiment(),
        ["model.stage_blocks=3,4,23,3", "model.nonlocal_res4=6,13,20", "data.short_side=256,340"],
    )
    assert chosen.model.stage_blocks == (3, 4, 23, 3)
    assert chosen.model.nonlocal_res4 == (6, 13, 20)
    assert chosen.data.short_side == (256, 340)
    assert apply_overrides(chosen, ["model.nonlocal_res4="]).model.nonlocal_res4 == ()


def test_none_clears_an_optional_field():
    chosen = apply_overrides(Experiment(), ["model.temporal_blocks_fast=3,4,6,3"])
    assert apply_overrides(chosen, ["model.temporal_blocks_fast=none"]).model.temporal_blocks_fast is None


def test_none_is_a_choice_of_balance():
    chosen = apply_overrides(Experiment(), ["data.balance=sqrt"])
    assert apply_overrides(chosen, ["data.balance=none"]).data.balance == "none"
    assert from_yaml("data: {balance: none}").data.balance == "none"


def test_flow_has_two_channels_for_every_stacked_frame():
    tsn = ["data.sampling=segments", "data.mean=0.5,0.5", "data.std=0.226,0.226"]
    channels = [
        apply_overrides(Experiment(), [*tsn, f"data.modality={modality}"]).data.channels
        for modality in ("flow", "flow_stack")
    ]
    assert [Experiment().data.channels, *channels] == [3, 2, 10]


def test_the_values_that_a_message_suggests_are_valid():
    """Both for flow alone and for RGB and flow."""
    for modality, channels in (("flow", 2), ("rgb_flow", 5), ("rgb_flow_stack", 13)):
        with pytest.raises(ConfigError) as caught:
            apply_overrides(Experiment(), [f"data.modality={modality}"])
        suggested = [
            word for word in str(caught.value).split() if word.startswith(("data.mean=", "data.std="))
        ]
        chosen = apply_overrides(Experiment(), [f"data.modality={modality}", *suggested])
        assert chosen.data.channels == channels


def test_a_file_without_newer_keys_loads():
    """Keys that were added later default to the behaviour from before."""
    old = "data: {frames: 16, stride: 4, mean: [0.4, 0.4, 0.4], std: [0.2, 0.2, 0.2]}"
    data = from_yaml(old).data
    assert (data.sampling, data.modality, data.heads, data.balance) == ("dense", "rgb", (), "none")


@pytest.mark.parametrize(
    ("override", "code", "key"),
    [
        ("optim.lrr=0.1", "unknown_key", "optim.lrr"),
        ("lr=0.1", "unknown_key", "lr"),
        ("trian.epochs=3", "unknown_key", "trian.epochs"),
        ("optim.beta1=0.9", "wrong_variant", "optim.beta1"),
        ("optim.type=adm", "unknown_variant", "optim.type"),
        ("model.type=i3d", "unknown_variant", "model.type"),
        ("optim.lr=fast", "bad_value", "optim.lr"),
        ("optim.lr=-1", "bad_value", "optim.lr"),
        ("optim.lr=nan", "bad_value", "optim.lr"),
        ("optim.lr=inf", "bad_value", "optim.lr"),
        ("train.epochs=2.5", "bad_value", "train.epochs"),
        ("model.stage_blocks=1,2", "bad_value", "model.stage_blocks"),
        ("optim", "not_an_override", "'optim'"),
        ("=3", "not_an_override", "'=3'"),
        ("optim=3", "not_a_field", "optim"),
        ("optim.lr.x=3", "unknown_key", "optim.lr.x"),
        ("train.global_batch=100", "bad_value", "train"),
        ("schedule.decay_epochs=30,60", "wrong_variant", "schedule.decay_epochs"),
        ("data.clips_per_sample=3", "bad_value", "train.global_batch"),
        ("data.frames=12", "wrong_shape", "data.frames"),
        ("data.crop=300", "bad_value", "data"),
        ("data.short_side=320,256", "bad_value", "data"),
        ("schedule.warmup_epochs=400", "out_of_range", "schedule.warmup_epochs"),
        ("model.nonlocal_res4=9", "bad_value", "model"),
        ("model.nonlocal_res3=1,4", "bad_value", "model"),
        ("name=a/b", "bad_value", "name"),
        ("model.fusion_kernel=4", "bad_value", "model.fusion_kernel"),
        ("model.fusion_kernel=-1", "bad_value", "model.fusion_kernel"),
        ("model.temporal_kernels_slow=1,1,2,3", "bad_value", "model.temporal_kernels_slow"),
        ("model.temporal_kernels_fast=3,3,3,-3", "bad_value", "model.temporal_kernels_fast"),
        ("model.temporal_blocks_fast=3,4,6,-1", "bad_value", "model.temporal_blocks_fast"),
        ("model.stage_blocks=3,4,0,3", "bad_value", "model.stage_blocks"),
        ("seed=-1", "bad_value", "seed"),
        (f"seed={2**63}", "bad_value", "seed"),
        ("data.mean=0.4,nan,0.4", "bad_value", "data.mean"),
        ("data.std=0.2,inf,0.2", "bad_value", "data.std"),
        ("data.std=0.2,0,0.2", "bad_value", "data"),
        ("data.fps=1e-300", "bad_value", "data.fps"),
        ("data.short_side=0,256", "bad_value", "data.short_side"),
        ("data.mean=0.5,0.5", "bad_value", "data"),
        ("data.modality=flow", "bad_value", "data"),
        ("data.modality=rgb_flow_stack", "bad_value", "data"),
        ("data.modality=depth", "bad_value", "data.modality"),
        ("data.sampling=tsn", "bad_value", "data.sampling"),
        ("data.stack=0", "bad_value", "data.stack"),
        ("data.flow_bound=0", "bad_value", "data.flow_bound"),
        ("data.heads=verb,noun,verb", "bad_value", "data"),
        ("data.balance=classes", "bad_value", "data.balance"),
    ],
)
def test_a_bad_override_is_one_clear_line(override, code, key):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), [override])
    assert (error.value.code, error.value.key) == (code, key)
    assert "\n" not in str(error.value)


def test_a_field_of_a_variant_that_is_not_selected_is_an_error_that_names_it():
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), ["optim.nesterov=false", "optim.type=adam"])
    assert (error.value.code, error.value.key) == ("wrong_variant", "optim.nesterov")
    assert str(error.value) == (
        "optim.nesterov: a field of optim.type=sgd, but optim.type=adam is selected; "
        "select optim.type=sgd, or leave the field out"
    )


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("optim.lrr=0.1", "optim.lr"),
        ("lr=0.1", "optim.lr"),
        ("trian.epochs=3", "train.epochs"),
        ("optim.type=adm", "adam"),
        ("model.alhpa=3", "model.alpha"),
    ],
)
def test_a_misspelt_key_or_type_gets_a_suggestion(override, suggestion):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), [override])
    assert str(error.value).endswith(f"; did you mean {suggestion}?")


def test_a_key_given_twice_with_two_values_is_an_error():
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), ["optim.lr=0.1", "optim.lr=0.2"])
    assert (error.value.code, error.value.key) == ("given_twice", "optim.lr")
    assert apply_overrides(Experiment(), ["seed=3", "seed=3"]).seed == 3


experiments = st.builds(
    lambda adam, lr, blocks, seed: apply_overrides(
        Experiment(),
        {
            "optim.type": "adam" if adam else "sgd",
            "optim.lr": lr,
            "model.stage_blocks": ",".join(map(str, blocks)),
            "seed": seed,
        },
    ),
    st.booleans(),
    st.floats(1e-8, 1e3),
    st.lists(st.integers(1, 30), min_size=4, max_size=4),
    st.integers(0, 2**40),
)


@settings(max_examples=40, deadline=None)  # a busy machine is no failure
@given(experiments)
def test_yaml_reads_back_unchanged(experiment):
    assert from_yaml(to_yaml(experiment)) == experiment


@settings(max_examples=40, deadline=None)  # a busy machine is no failure
@given(experiments)
def test_leaf_keys_written_as_overrides_give_the_same_experiment(experiment):
    def text(value):
        if value is None:
            return "none"
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    overrides = [f"{key}={text(value)}" for key, value in leaf_keys(experiment).items()]
    assert apply_overrides(Experiment(), overrides) == experiment


@st.composite
def any_experiments(draw):
    """With any variant of each section, any pieces, and texts that look like other values."""
    chosen = {
        "model.type": draw(st.sampled_from(sorted(variants(ModelSection)))),
        "optim.type": draw(st.sampled_from(sorted(variants(OptimSection)))),
        "schedule.type": draw(st.sampled_from(sorted(variants(ScheduleSection)))),
        "task.type": draw(st.sampled_from(["classification", "multi_label"])),
        "name": draw(st.sampled_from(["none", "null", "on", "1e3", "true"])),
        "data.manifest": draw(
            st.sampled_from(["", "none.parquet", "a, b=c [d].parquet", "s3://b/x.parquet"])
        ),
        "data.heads": draw(st.sampled_from(["", "verb", "verb,noun"])),
        "data.flow_bound": draw(st.sampled_from([None, 20.5])),
        "optim.lr": draw(st.floats(1e-12, 1e3)),
        **{f"recipe.{piece}": draw(st.sampled_from(["on", "off"])) for piece in variants(RecipePiece)},
        "data.augment.color_jitter": draw(st.sampled_from(["on", "off"])),
    }
    if chosen["task.type"] == "classification":
        chosen["task.metrics.top_k"] = draw(st.sampled_from(["on", "off"]))
    try:
        return apply_overrides(Experiment(), chosen)
    except ConfigError:  # such as a network that needs other clips
        return apply_overrides(Experiment(), {**chosen, "model.type": "slowfast"})


@settings(max_examples=25)
@given(any_experiments(), any_experiments())
def test_what_is_printed_is_overrides_that_make_the_same_of_any_experiment(experiment, other):
    lines = arguments_of(experiment)
    assert len({line.partition("=")[0] for line in lines}) == len(lines)
    for base in (Experiment(), other):
        assert apply_overrides(base, "\n".join(lines).split("\n")) == experiment


def test_a_variant_that_is_replaced_says_what_was_lost():
    base = apply_overrides(Experiment(), ["model.width=8", "model.dropout=0.1", "model.alpha=4"])
    (line,) = reset_by(base, ["model.type=resnet3d", "model.dropout=0.3", "optim.type=adam"])
    assert line == (
        "model.type=resnet3d: width has resnet3d's defaults (the experiment's width=8, alpha=4, dropout=0.1"
        " belonged to slowfast)"
    )
    assert reset_by(base, ["model.type=slowfast", "model.width=16"]) == []
    nested = apply_overrides(Experiment(), ["model.type=frame", "model.temporal.type=lstm"])
    changed = apply_overrides(nested, ["model.temporal.units=9"])
    assert len(reset_by(changed, ["model.temporal.type=gru"])) == 1
    assert reset_by(nested, ["model.temporal.type=gru"]) == []


def test_yaml_with_only_some_keys_takes_the_defaults_of_its_variant():
    experiment = from_yaml("optim: {type: adam, lr: 1e-2}\n")
    assert experiment.optim == AdamConfig(lr=0.01)
    assert from_yaml("") == Experiment()


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("optim: {lr: [}", "not_yaml", "x.yaml"),
        ("- 1", "not_an_experiment", "x.yaml"),
        ("optim: {lrr: 1}", "unknown_key", "x.yaml"),
        ("optim: {type: sgd, beta1: 1}", "wrong_variant", "x.yaml"),
        ("optim: 3", "not_a_field", "x.yaml"),
        ("optim: {type: [1]}", "unknown_variant", "x.yaml"),
        ("optim: {type: {a: 1}}", "unknown_key", "x.yaml"),
        ("a: &a {b: *a}", "not_yaml", "x.yaml"),
        ("seed: &a [*a]", "bad_value", "x.yaml"),
        ("a: " + "[" * 5000, "not_yaml", "x.yaml"),
        ("1: 2", "unknown_key", "x.yaml"),
    ],
)
def test_bad_yaml_is_one_line_that_names_the_file(text, code, key):
    with pytest.raises(ConfigError) as error:
        from_yaml(text, "x.yaml")
    assert (error.value.code, error.value.key) == (code, key)
    assert "\n" not in str(error.value)


def test_the_fingerprint_changes_with_every_scientific_field_and_with_nothing_else():
    base = Experiment()
    assert fingerprint(
        apply_overrides(base, ["name=other", "data.manifest=elsewhere.parquet"])
    ) == fingerprint(base)
    changed = {
        "seed": 1,
        "data.frames": 64,
        "data.flip": False,
        "data.sampling": "uniform",
        "data.heads": "verb",
        "data.balance": "class",
        "model.alpha": 4,
        "model.dropout": 0.1,
        "optim.lr": 0.2,
        "optim.type": "adam",
        "train.precision": "bfloat16",
        "train.global_batch": 512,
    }
    prints = {fingerprint(apply_overrides(base, {key: value})) for key, value in changed.items()}
    assert len(prints | {fingerprint(base), fingerprint(base, "content")}) == len(changed) + 2


def test_differing_keys_names_the_fields_of_both_variants():
    other = apply_overrides(Experiment(), ["optim.type=adam", "seed=4"])
    keys = differing_keys(Experiment(), other)
    assert {"seed", "optim.type", "optim.momentum", "optim.beta1"} <= set(keys)
    assert "model.alpha" not in keys


def test_a_space_is_checked_between_its_ends_and_at_values_that_do_not_go_together():
    base = Experiment()
    for key in ("train.epochs", "seed"):
        for domain in (Uniform(40, 80), LogUniform(40, 80)):
            assert refused_space({key: domain}) == ("bad_value", key)
    clash = {"model.alpha": Choice(8, 16), "data.frames": Choice(16, 24)}
    with pytest.raises(ConfigError) as error:
        check_space(base, clash)
    assert str(error.value) == (
        "data.frames=24: not a multiple of model.alpha 16 (at a point of the search space)"
    )
    both = {"optim.type": Choice("sgd", "adam"), "optim.momentum": Uniform(0.8, 0.9)}
    assert refused_space(both) == ("wrong_variant", "optim.momentum")
    # No point of this space keeps the experiment's own alpha of 8, which 12 frames do not fit.
    check_space(base, {"model.alpha": Choice(4, 2), "data.frames": Choice(12, 16)})
    # 2 x 2 x 600 combinations: only single keys are tried, so this clash is left to its trial.
    many = {"seed": Choice(*range(600))}
    check_space(base, clash | many)
    assert refused_space(many | {"model.alpha": Choice(8, 4, 5)}) == ("wrong_shape", "data.frames")


def refused_space(space, **options):
    """Code and key of the error for a search space around the default experiment."""
    with pytest.raises(ConfigError) as error:
        check_space(Experiment(), space, **options)
    assert "\n" not in str(error.value)
    return error.value.code, error.value.key


@pytest.mark.parametrize(
    ("space", "code", "key"),
    [
        ({}, "not_a_space", "space"),
        ([("optim.lr", LogUniform(1e-3, 1))], "not_a_space", "space"),
        ({3: Choice(1)}, "not_a_space", "space"),
        ({"optim.lr": [0.1, 0.2]}, "not_a_domain", "optim.lr"),
        ({"optim.lr": LogUniform(0, 1)}, "not_a_domain", "optim.lr"),
        ({"optim.lr": Uniform(1, 1)}, "not_a_domain", "optim.lr"),
        ({"optim.lr": Uniform("a", "b")}, "not_a_domain", "optim.lr"),
        ({"model.alpha": Choice()}, "not_a_domain", "model.alpha"),
        ({"model.alpha": Choice([4], [8])}, "bad_value", "model.alpha"),
        ({"model.alpha": Choice(4, 5)}, "wrong_shape", "data.frames"),
        ({"optim.lrr": LogUniform(1e-3, 1)}, "unknown_key", "optim.lrr"),
        ({"optim.momentum": Uniform(0.5, 1.5)}, "bad_value", "optim.momentum"),
        ({"data.manifest": Choice("a.parquet", "b.parquet")}, "not_searchable", "data.manifest"),
    ],
)
def test_a_space_is_checked_at_every_choice_and_both_ends(space, code, key):
    assert refused_space(space) == (code, key)


def test_a_key_cannot_be_both_set_and_searched():
    space = {
        "optim.lr": LogUniform(1e-3, 1),
        "model.alpha": Choice(4, 8),
        "optim.momentum": Uniform(0, 0.9),
    }
    check_space(Experiment(), space)
    assert refused_space(space, fixed=["optim.lr"]) == ("given_twice", "optim.lr")


def test_domains_on_the_command_line():
    assert parse_domain("optim.lr=log:0.01:1") == ("optim.lr", LogUniform(0.01, 1.0))
    assert parse_domain("optim.momentum=uniform:0.8:0.99") == ("optim.momentum", Uniform(0.8, 0.99))
    assert parse_domain("model.alpha=4,8") == ("model.alpha", Choice("4", "8"))
    for text, key in [
        ("optim.lr", "'optim.lr'"),
        ("optim.lr=", "'optim.lr='"),
        ("optim.lr=log:1", "optim.lr"),
        ("optim.lr=cubic:1:2", "optim.lr"),
        ("optim.lr=log:a:b", "optim.lr"),
    ]:
        with pytest.raises(ConfigError) as error:
            parse_domain(text)
        assert (error.value.code, error.value.key) == ("not_a_domain", key)


def test_a_trial_is_named_by_its_dotted_keys():
    name = trial_name(Experiment(), {"optim.lr": 0.031622, "model.alpha": 4})
    assert name == "model.alpha=4,optim.lr=0.03162"
    assert shlex.quote(name) == name


LONG = dict.fromkeys([f"model.some_rather_long_key_{number}" for number in range(12)], 0.123456)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LONG, LONG | {"model.some_rather_long_key_11": 0.2}),
        ({"model.init": "a:b"}, {"model.init": "a-b"}),
        ({"model.init": "s3://bucket/ck ü\n?"}, {"model.init": "s3://bucket/ck u\n?"}),
        ({"model.init": "../../x"}, {"model.init": "../../y"}),
        ({"model.init": "x" * 500}, {"model.init": "x" * 501}),
    ],
)
def test_any_trial_has_a_name_of_its_own_that_a_folder_can_have(one, other):
    names = [trial_name(Experiment(), chosen) for chosen in (one, other)]
    assert names[0] != names[1] and names[0] == trial_name(Experiment(), dict(reversed(one.items())))
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_.,=+-]*", name) and len(name) <= 120 for name in names)


def test_every_override_in_the_documentation_survives_an_unquoted_shell():
    """``ray submit`` hands the arguments to a shell as they are."""
    documents = [
        ROOT / "README.md",
        *ROOT.glob("experiments/*.py"),
        *ROOT.glob("infra/*.y*ml"),
        ROOT / "ray_cluster.yaml",
    ]
    commands = [
        line.strip().removeprefix("$ ").removeprefix("# ").strip()
        for document in documents
        for line in document.read_text().splitlines()
        if any(
            word in line for word in ("kineray train", "kineray sweep", "ray submit", "python experiments/")
        )
        and "=" in line
    ]
    assert commands
    overrides = [
        word for line in commands for word in line.split() if "=" in word and not word.startswith("--")
    ]
    assert overrides
    for word in overrides:
        seen = subprocess.run(
            ["sh", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True
        ).stdout
        assert seen == word


@pytest.mark.parametrize(
    ("make", "code", "key"),
    [
        (lambda: DataConfig(crop=0), "bad_value", "DataConfig.crop"),
        (lambda: DataConfig(croop=112), "unknown_key", "DataConfig.croop"),
        (lambda: Experiment(data={"crop": "x"}), "bad_value", "Experiment.data.crop"),
        (lambda: Experiment(model={"type": "slowfst"}), "unknown_variant", "Experiment.model"),
        (lambda: Experiment(data=DataConfig(frames=2)), "wrong_shape", "data.frames"),
    ],
)
def test_a_section_made_in_python_with_a_bad_value_is_an_error_of_kineray(make, code, key):
    with pytest.raises(ConfigError) as error:
        make()
    assert (error.value.code, error.value.key) == (code, key)
