"""Costs of networks, against published numbers and against costs of layers computed by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from slow_cases import slow_after
from small_models import PARAMETERS, every_architecture
from torch import nn

from kineray.cli.scripts import load_script
from kineray.config import apply_overrides, overrides_of
from kineray.errors import ConfigError
from kineray.models import (
    Cost,
    build_model,
    list_models,
    model_presets,
    summarise,
)

# Billions of multiply-adds of the convolutions for one view of 256 x 256, counted with fvcore in PySlowFast.
PUBLISHED = {
    "slowfast_r50_4x16": 36.10,
    "slowfast_r50_8x8": 65.71,
    "slowfast_r101_8x8": 106.51,
    "slowfast_nl_r101_8x8": 114.56,
    "slowfast_nl_r101_16x8": 229.13,
}
# Numbers in the papers, which count a little more or less.
PAPERS = {"slowfast_r50_4x16": 36.1, "slowfast_r50_8x8": 65.7, "slowfast_r101_8x8": 106}


@pytest.mark.parametrize("name", slow_after(1, list(PUBLISHED)))
def test_gflops_are_the_published_ones(name):
    summary = summarise(name)
    assert summary.cost.weighted / 1e9 == pytest.approx(PUBLISHED[name], rel=0.01)
    if name in PAPERS:
        assert summary.cost.weighted / 1e9 == pytest.approx(PAPERS[name], rel=0.01)
    assert summary.parameters == PARAMETERS[name]
    preset = model_presets()[name]
    assert summary.clip == (preset.channels, preset.frames, preset.side, preset.side)


@pytest.mark.slow
def test_non_local_blocks_are_attention_besides():
    assert summarise("slowfast_r101_8x8").cost.attention == 0
    # Three blocks: 512 x 512 channels for every position, and for the quarter that is left after pooling.
    positions = 8 * 16 * 16
    expected = 3 * 512 * 512 * (positions + positions // 4)
    assert summarise("slowfast_nl_r101_8x8").cost.attention == expected


class Toy(nn.Module):
    """A convolution that is called twice, an unused one, a list, and a product of two activations."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 4, (1, 3, 3), padding=(0, 1, 1))
        self.unused = nn.Conv3d(4, 4, 1)
        self.heads = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 6)])

    def forward(self, clips_bcthw):
        features = self.conv(self.conv(clips_bcthw))
        tokens = features.flatten(2)
        pooled = (tokens @ tokens.transpose(1, 2)).mean(2)
        return {"a": self.heads[0](pooled), "b": self.heads[1](pooled)}


def test_the_costs_of_parts():
    toy = Toy()
    summary = summarise(toy, (4, 2, 8, 8))
    parts = {part.name: part for part in summary.parts}
    assert list(parts) == ["conv", "unused", "heads", "heads.0", "heads.1"]
    assert parts["conv"].cost == Cost(weighted=2 * 4 * 4 * 9 * 2 * 64)
    assert parts["conv"].kind == "Conv3d 1x3x3"
    assert parts["conv"].outputs == ((1, 4, 2, 8, 8),)
    assert parts["unused"].cost == Cost()
    assert (parts["unused"].parameters, parts["unused"].outputs) == (20, ())
    assert parts["heads"].cost == Cost(weighted=4 * 5 + 4 * 6)
    assert parts["heads.1"].outputs == ((1, 6),)
    assert summary.cost == Cost(parts["conv"].cost.weighted + 44, attention=4 * 128 * 4)
    assert summary.parameters == sum(p.numel() for p in toy.parameters())


@pytest.mark.slow
def test_the_parts_of_a_published_model_make_the_whole():
    summary = summarise("slowfast_nl_r101_8x8")
    top = [part for part in summary.parts if "." not in part.name]
    assert sum((part.cost for part in top), Cost()) == summary.cost
    assert sum(part.parameters for part in top) == summary.parameters
    slow = [part for part in summary.parts if part.name.startswith("slow.")]
    assert sum((part.cost for part in slow), Cost()) == top[0].cost
    assert {part.name: part.outputs for part in slow}["slow.res3"] == ((1, 512, 8, 32, 32),)
    assert top[-1].outputs == ((1, 400),)


@every_architecture
def test_a_given_network_is_not_changed(small):
    def hooks():
        return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    model = build_model(small.config, {"action": 3}, small.channels).train()
    own = hooks()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    summary = summarise(model, (small.channels, small.frames, small.side, small.side))
    assert summary.cost.weighted > 0
    assert summary.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks() == own


def test_twice_the_frames_cost_twice():
    one, two = (summarise("slowfast_r50_4x16", (3, frames, 64, 64)).cost.weighted for frames in (32, 64))
    head = 2304 * 400
    positions = 1  # of 2 x 2, all under one pooling window
    assert two - head * positions == 2 * (one - head * positions)


def test_errors_name_the_preset_or_the_key():
    for name in ("slowfast_r50_8x", "zzz"):
        with pytest.raises(ConfigError) as error:
            summarise(name)
        assert (error.value.code, error.value.key) == ("unknown_model", name)
    with pytest.raises(ConfigError) as error:
        summarise("slowfast_r50_8x8", (3, 30, 64, 64))
    assert (error.value.code, error.value.key) == ("wrong_shape", "data.frames")
    with pytest.raises(TypeError, match="clip"):
        summarise(Toy())


@pytest.mark.parametrize("name", list_models())
def test_the_overrides_of_a_preset_restore_it(name):
    """The arguments that ``kineray models show`` prints can be given to the script of the study."""
    preset = model_presets()[name]
    words = [*preset.clip_overrides(), *overrides_of(preset.config, "model")]
    assert not any(set(word) & set(" '\"()[]") for word in words)
    script = load_script(str(Path(__file__).parents[2] / "experiments" / f"{preset.study}.py"))
    experiment = apply_overrides(script.experiment, words)
    of_recipe = {
        key: getattr(experiment.model, key) for key in ("init", "dropout") if hasattr(preset.config, key)
    }
    assert experiment.model == preset.config.model_copy(update=of_recipe)
    data = experiment.data
    assert (data.channels, data.frames, data.sampling) == (preset.channels, preset.frames, preset.sampling)
    assert data.eval_crop == preset.side
    assert not preset.stride or data.stride / data.fps == preset.stride / 30
    assert not preset.config.init or preset.config.init == experiment.model.init


@pytest.mark.parametrize(("channels", "modality"), [(2, "flow"), (20, "flow_stack"), (5, "rgb_flow")])
def test_clips_of_flow(channels, modality):
    preset = replace(model_presets()["slowfast_r50_4x16"], channels=channels, sampling="uniform", side=112)
    data = preset.data
    assert (data.channels, data.modality, data.sampling) == (channels, modality, "uniform")
    assert (data.crop, data.eval_crop, data.eval_short_side, data.short_side) == (112, 112, 128, (128, 160))


def test_parts_cost_what_the_network_costs_where_containers_are_not_called():
    """The ResNet inside a spatio-temporal one is read layer by layer, not called as a whole."""
    summary = summarise("st_resnet50")
    parts = {part.name: part.cost.weighted for part in summary.parts}
    assert sum(cost for name, cost in parts.items() if "." not in name) == summary.cost.weighted
    assert parts["backbone"] > parts["backbone.layer3"] > 0
