"""Precise batch-norm statistics: those of all values of many clips, for the weights that evaluate."""

from collections import defaultdict

import pytest
import torch
from test_training_loop import run
from test_training_recipe import with_recipe
from torch import nn

from kineray.config import C3DConfig, apply_overrides
from kineray.config.recipe.precise_bn import PreciseBnConfig
from kineray.data import BatchSpec, ClipShape, load_batches, load_manifest
from kineray.errors import ConfigError
from kineray.models import (
    GhostBatchNorm,
    PopulationStatistics,
    build_model,
    commit_batch_norm,
    set_batch_norm_group,
)
from kineray.training.checkpoint import load_training_state
from kineray.training.inputs import preprocessing_of
from kineray.training.plan import plan_of, seen_before_validation

GROUP = 4


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """2 steps, validated once; dropout comes after all batch norms."""
    torch.set_num_threads(1)
    changes = {"train.epochs": 1, "train.global_batch": 24, "schedule.warmup_epochs": 0}
    return apply_overrides(tiny_experiment, changes)


def clips(count, channels=5):
    scale = torch.arange(1, count + 1).view(-1, 1, 1, 1, 1)
    return torch.randn(count, channels, 2, 3, 4, generator=torch.Generator().manual_seed(0)) * scale + scale


@pytest.mark.parametrize("parts", [[8, 16, 4], [28]])
def test_statistics_are_those_of_all_values_together(parts):
    layer = GhostBatchNorm(5)
    set_batch_norm_group(layer, GROUP)
    features = clips(28)
    statistics = PopulationStatistics(layer)
    for part in features.split(parts):
        layer(part)
        statistics.add()
    statistics.commit(lambda total: None)
    values = features.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, values.mean(1).float())
    torch.testing.assert_close(layer.running_var, values.var(1, correction=0).float())
    assert layer.num_batches_tracked == 0 and not layer.pending


def test_workers_with_different_numbers_of_groups_are_counted_by_groups():
    features, sums = clips(28), []
    for part in (features[:20], features[20:]):
        layer = GhostBatchNorm(5)
        set_batch_norm_group(layer, GROUP)
        statistics = PopulationStatistics(layer)
        layer(part)
        statistics.add()
        statistics.commit(lambda total: sums.append(total.clone()))
    statistics.commit(lambda total: total.copy_(sum(sums)))
    values = features.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, values.mean(1).float())
    torch.testing.assert_close(layer.running_var, values.var(1, correction=0).float())


def test_layers_in_evaluation_mode_and_layers_that_see_nothing_keep_their_statistics():
    used, frozen, unused = model = nn.ModuleList(GhostBatchNorm(5) for _ in range(3))
    frozen.eval()
    set_batch_norm_group(model, GROUP)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    statistics = PopulationStatistics(model)
    frozen(used(clips(4)))
    statistics.add()
    statistics.commit(lambda total: None)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.running_mean", "0.running_var"}
    unused(clips(4))
    commit_batch_norm(model)
    assert unused.num_batches_tracked == 1


def inputs_of_batch_norms(experiment, weights):
    """All that each batch norm sees, [C, values], when the clips of the second epoch pass in groups."""
    train_set, val_set = map(load_manifest(experiment.data.manifest).split, ("train", "val"))
    preprocessing = preprocessing_of(experiment, train_set, val_set)
    model = build_model(experiment.model, {"action": 4})
    model.load_state_dict(weights)
    seen = defaultdict(list)
    for name, layer in model.named_modules():
        if isinstance(layer, GhostBatchNorm):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: seen[name].append(inputs[0]))
    spec = BatchSpec(0, 1, range(48), GROUP, ClipShape.of(experiment.data))
    for batch in load_batches(train_set, preprocessing, [spec], seed=experiment.seed, decoders=1):
        with torch.no_grad():
            model.train()(preprocessing.normalise(batch.clips_bthwc))
    return {
        name: torch.cat([of.transpose(0, 1).flatten(1) for of in parts], 1) for name, parts in seen.items()
    }


@pytest.mark.parametrize("recipe", [["precise_bn", "mixup"], ["precise_bn", "ema"]])
def test_the_weights_that_validate_have_the_statistics_of_the_next_epoch(recipe, experiment, tmp_path):
    changed = apply_overrides(experiment, [f"recipe.{name}=on" for name in recipe])
    result, _ = run(changed, tmp_path, micro_batch=8)
    saved = load_training_state(result.last_uri)
    evaluated = saved.pieces["ema"] if "ema" in recipe else saved.weights
    for name, values in inputs_of_batch_norms(experiment, evaluated).items():
        torch.testing.assert_close(
            evaluated[f"{name}.running_mean"].double(), values.double().mean(1), rtol=1e-3, atol=1e-4
        )
        wanted = values.double().var(1, correction=0)
        torch.testing.assert_close(evaluated[f"{name}.running_var"].double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_training_is_the_same_with_it(experiment, tmp_path):
    """Two validations; only running statistics differ, and with an average of weights only its own."""
    twice = apply_overrides(experiment, {"train.epochs": 2})
    states = {}
    for names in ((), ("precise_bn",), ("precise_bn", "ema")):
        changed = apply_overrides(twice, [f"recipe.{name}=on" for name in names])
        result, _ = run(changed, tmp_path / "_".join(("run", *names)))
        states[names] = load_training_state(result.last_uri).weights
    plain, precise, averaged = states.values()
    for name, value in plain.items():
        assert torch.equal(averaged[name], value), name
        assert torch.equal(precise[name], value) != ("running" in name), name


def test_the_first_batches_of_the_next_epoch_are_seen(experiment):
    chosen = apply_overrides(experiment, ["recipe.precise_bn.batches=2", "recipe.ema=on", "train.epochs=2"])
    plan = plan_of(chosen, 100)  # 4 steps an epoch
    first, last = plan.at(0), plan.at(3)
    assert last.is_validated and seen_before_validation(first, chosen, 100) == {}
    seen = seen_before_validation(last, chosen, 100)["precise_bn"]
    assert [(step.index, step.epoch, step.first, step.global_batch) for step in seen] == [
        (3, 1, 0, 24),
        (3, 1, 24, 24),
    ]
    all_of_them = seen_before_validation(last, with_recipe(experiment, "precise_bn"), 100)["precise_bn"]
    assert [step.first for step in all_of_them] == [0, 24, 48, 72]
    assert seen_before_validation(last, with_recipe(experiment, "ema"), 0) == {}


def test_a_model_without_batch_norm_is_refused():
    with torch.device("meta"):
        model = build_model(C3DConfig(width=4), {"action": 3}, 3)
    with pytest.raises(ConfigError) as error:
        PreciseBnConfig().build().begin(model)
    assert (error.value.code, error.value.key) == ("no_batch_norm", "recipe.precise_bn")
