"""Learning rate, weight decay and freezing by the names of parameters."""

import pytest
import torch
from test_training_loop import run
from test_training_plan import assert_equal_state, last_state

from kineray.config import (
    Experiment,
    FreezeConfig,
    LayerDecayConfig,
    ParameterGroupsConfig,
    Pieces,
    SgdConfig,
    SlowFastConfig,
    apply_overrides,
    from_yaml,
    to_yaml,
)
from kineray.errors import ConfigError
from kineray.models import build_model
from kineray.training import ExperimentPlan, build_optimizer, load_checkpoint
from kineray.training.optim import set_learning_rate
from kineray.training.probe import probe
from kineray.training.recipe import Recipe


@pytest.fixture(scope="module")
def model():
    return build_model(SlowFastConfig(stage_blocks=(1, 1, 1, 1), width=8, beta_inv=4), {"action": 3})


def optimizer_of(model, *pieces):
    recipe = Recipe(Experiment(recipe=Pieces(*pieces)))
    return build_optimizer(model, SgdConfig(weight_decay=0.5), recipe.factors(model))


def by_name(model, *pieces):
    """{parameter: (learning rate, weight decay)} at a learning rate of 1."""
    optimizer = optimizer_of(model, *pieces)
    set_learning_rate(optimizer, 1.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_the_last_pattern_that_matches_decides(model):
    lr = ("*:0.1", "*.res5.*:0.5", "head.*:10")
    found = by_name(model, ParameterGroupsConfig(lr=lr, weight_decay=("head.*:3", "*.bias:0")))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert found["head.linear.action.weight"] == (10, 1.5)
    assert found["head.linear.action.bias"] == (10, 0)
    assert found["slow.res5.block0.conv_a.weight"] == found["fast.res5.block0.conv_a.weight"] == (0.5, 0.5)
    assert found["slow.res4.block0.conv_a.weight"] == (0.1, 0.5)
    assert found["slow.res4.block0.norm_a.weight"] == (0.1, 0), "batch norms are not decayed"


def test_factors_of_several_pieces_are_multiplied(model):
    found = by_name(model, LayerDecayConfig(decay=0.5), ParameterGroupsConfig(lr=("*.res4.*:3",)))
    assert found["fast.res4.block0.conv_b.weight"] == (0.75, 0.5)
    assert found["head.linear.action.bias"] == (1, 0)


def test_each_layer_learns_slower_than_the_next(model):
    found = by_name(model, LayerDecayConfig(decay=0.75))
    layers = ["stem", "res2", "res3", "res4", "res5"]
    for name, (rate, _) in found.items():
        layer = next((number for number, layer in enumerate(layers) if f".{layer}." in name), 0)
        wanted = 1 if name.startswith("head") else 0.75 ** (5 - layer)
        assert rate == pytest.approx(wanted), name


def test_updates_are_those_of_torchs_parameter_groups():
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    piece = ParameterGroupsConfig(lr=("0.*:0.1",), weight_decay=("1.weight:0.2",))
    optimizer = optimizer_of(ours, piece)
    reference = torch.optim.SGD(
        [
            {"params": list(theirs[0].parameters()), "lr": 0.01},
            {"params": [theirs[1].weight], "weight_decay": 0.1},
            {"params": [theirs[1].bias]},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.5,
    )
    for _ in range(4):
        for network, steps in ((ours, optimizer), (theirs, reference)):
            network.zero_grad()
            network(torch.ones(2, 3)).square().sum().backward()
            set_learning_rate(optimizer, 0.1)
            steps.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("piece", "key", "value"),
    [
        (ParameterGroupsConfig(lr=("heads.*:2",)), "parameter_groups.lr", "heads.*"),
        (ParameterGroupsConfig(weight_decay=("haed.*:2",)), "parameter_groups.weight_decay", "haed.*"),
        (LayerDecayConfig(layers=("*", "*.head.*")), "layer_decay.layers", "*.head.*"),
        (FreezeConfig(parameters=("*", "head")), "freeze.parameters", "head"),
        (FreezeConfig(but=("*heads*",)), "freeze.but", "*heads*"),
    ],
)
def test_a_pattern_that_matches_no_parameter_is_an_error_that_suggests_names(model, piece, key, value):
    recipe = Recipe(Experiment(recipe=Pieces(piece)))
    with pytest.raises(ConfigError) as error:
        recipe.factors(model)
    assert (error.value.code, error.value.key) == ("matches_no_parameter", f"recipe.{key}")
    assert error.value.value == value and error.value.remedy == "did you mean head?"


def test_names_are_checked_before_a_run_starts():
    experiment = Experiment(recipe=Pieces(FreezeConfig(parameters=("slow.*", "fats.*"))))
    with pytest.raises(ConfigError) as error:
        probe(experiment, {"action": ["up", "down"]})
    assert (error.value.code, error.value.key) == ("matches_no_parameter", "recipe.freeze.parameters")
    assert all(piece.names_parameters for piece in experiment.recipe.values())


def test_every_parameter_is_in_a_layer(model):
    with pytest.raises(ConfigError) as error:
        by_name(model, LayerDecayConfig(layers=("*.res2.*", "head.*")))
    assert (error.value.code, error.value.key) == ("in_no_layer", "recipe.layer_decay.layers")


@pytest.mark.parametrize("given", ["head.*", "head.*:", ":2", "head.*:-1", "head.*:nan", "head.*:inf", "a:b"])
def test_factors_are_numbers_after_patterns(given):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), [f"recipe.parameter_groups.lr={given}"])
    assert (error.value.code, error.value.key) == ("bad_value", "recipe.parameter_groups.lr")


def test_patterns_are_written_on_a_command_line_and_in_yaml():
    pairs = ["recipe.parameter_groups.lr=head.*:10,*.bias:2", "recipe.parameter_groups.weight_decay=none"]
    experiment = apply_overrides(Experiment(), [*pairs, "recipe.freeze.but=none"])
    assert experiment.recipe["parameter_groups"].lr == ("head.*:10", "*.bias:2")
    assert experiment.recipe["parameter_groups"].weight_decay == experiment.recipe["freeze"].but == ()
    assert from_yaml(to_yaml(experiment)) == experiment


def trained_names(model, epoch, *pieces):
    """What a step of an epoch trains."""
    experiment = Experiment(recipe=Pieces(*pieces))
    step = ExperimentPlan(experiment, 1024).at(epoch)
    assert step.epoch == epoch
    return {name for name, _ in model.named_parameters() if step.trains(name)}


def test_frozen_layers_thaw_from_the_last_to_the_first(model):
    names = {name for name, _ in model.named_parameters()}
    assert trained_names(model, 0) == names
    heads = {"head.linear.action.weight", "head.linear.action.bias"}
    assert trained_names(model, 150, FreezeConfig()) == heads
    probe = FreezeConfig(until=(2,))
    assert [trained_names(model, epoch, probe) for epoch in (1, 2)] == [heads, names]
    gradual = FreezeConfig(parameters=("*.stem.*", "*.res2.*"), but=("*.norm.*",), until=(3, 1))
    stem, res2 = ({name for name in names if part in name} for part in (".stem.", ".res2."))
    kept = {name for name in names if ".norm." in name}
    for epoch, frozen in enumerate([stem | res2, stem, stem, set()]):
        assert trained_names(model, epoch, gradual) == names - (frozen - kept), epoch


def test_every_pattern_has_an_epoch():
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), ["recipe.freeze.until=1,2"])
    assert (error.value.code, error.value.key) == ("bad_value", "recipe.freeze")


@pytest.mark.slow
def test_a_run_that_thaws_is_the_same_when_it_is_interrupted(tiny_experiment, tmp_path):
    """Three steps in which the head alone is trained, then three of the whole network."""
    torch.set_num_threads(1)
    changes = ["recipe.freeze.until=1", "recipe.layer_decay=on", "optim.type=adamw", "train.epochs=2"]
    experiment = apply_overrides(tiny_experiment, changes)
    run(experiment, tmp_path / "whole", checkpoint_every=1)
    states = []
    for stop_after in (2, 4, 5, None):  # with checkpoints of one step before
        run(
            experiment,
            tmp_path / "parts",
            stop_after=stop_after,
            resume=bool(states),
            checkpoint_every=1,
        )
        uri = sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))[-1]
        states.append(load_checkpoint(str(uri)).model.state_dict())
    assert_equal_state(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))
    name = "slow.res5.block0.conv_a.weight"
    assert torch.equal(states[0][name], states[1][name]) and not torch.equal(states[1][name], states[2][name])
