"""Stochastic depth: which clips skip which blocks, in every network that has residual blocks of ours."""

import pytest
import torch
from torch import nn
from torchvision.ops import stochastic_depth

from kineray.config import C3DConfig, SlowFastConfig, TwoStreamConfig
from kineray.config.models.p3d import P3DConfig
from kineray.config.models.r2plus1d import R2Plus1DConfig
from kineray.config.models.resnet3d import ResNet3dConfig
from kineray.config.recipe.stochastic_depth import StochasticDepthConfig
from kineray.errors import ConfigError
from kineray.models import build_model, checkpoint_activations, set_clip_seeds, set_stochastic_depth
from kineray.models.blocks import Bottleneck
from kineray.models.blocks.stochastic_depth import StochasticDepth

SMALL = {"stage_blocks": (1, 2, 1, 1), "width": 8}
SLOWFAST = SlowFastConfig(**SMALL, alpha=2, beta_inv=4, head_pool=1, fusion_kernel=1, nonlocal_res3=(1,))
NETWORKS = {
    "slowfast": (SLOWFAST, ["slow", "fast"]),
    "basic": (SLOWFAST.model_copy(update={"block": "basic"}), ["slow", "fast"]),
    "resnet3d": (ResNet3dConfig(**SMALL, head_pool=1), ["backbone"]),
    "p3d": (P3DConfig(**SMALL), [""]),
    "r2plus1d": (R2Plus1DConfig(stage_blocks=(1, 2, 1, 1)), [""]),
    "two_stream": (
        TwoStreamConfig(rgb=SLOWFAST, flow=SLOWFAST),
        ["rgb.slow", "rgb.fast", "flow.slow", "flow.fast"],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rate_rises_linearly_over_the_blocks_of_each_pathway(name):
    config, pathways = NETWORKS[name]
    with torch.device("meta"):
        model = build_model(config, {"action": 3}, 5 if name == "two_stream" else 3)
    names = list(model.state_dict())
    assert set_stochastic_depth(model, 0.5) == 5 * len(pathways)
    assert list(model.state_dict()) == names
    for pathway in pathways:
        layers = [
            layer for layer in model.get_submodule(pathway).modules() if isinstance(layer, StochasticDepth)
        ]
        found = [round(layer.p, 6) for layer in layers]
        assert found == [0.1, 0.2, 0.3, 0.4, 0.5] * (len(found) // 5)


def test_clips_are_dropped_whole_and_by_their_seed_alone():
    layer, clips = StochasticDepth(0.3).train(), torch.rand(400, 2, 3, 1, 2) + 1
    set_clip_seeds(layer, range(400))
    whole = layer(clips)
    kept = whole.flatten(1).any(1)
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.08)  # 3.5 standard deviations
    torch.testing.assert_close(whole[kept], clips[kept] / 0.7)
    assert not whole[~kept].any()
    set_clip_seeds(layer, range(50, 60))
    assert torch.equal(layer(clips[50:60]), whole[50:60])
    frames = layer(torch.ones(10 * 4, 3, 2, 2))  # of a clip one after the other
    assert torch.equal(frames.view(10, -1) > 0, kept[50:60, None].expand(10, 4 * 12))
    assert layer(clips[:3].bfloat16()).dtype == torch.bfloat16  # rows that are no clips


def test_without_seeds_it_is_that_of_torchvision():
    layer, clips = StochasticDepth(0.4).train(), torch.rand(50, 3, 2) + 1
    set_clip_seeds(layer, None)
    torch.manual_seed(0)
    ours = layer(clips)
    theirs = stochastic_depth(clips, 0.4, "row")
    for dropped in (ours, theirs):
        kept = dropped.flatten(1).any(1)
        torch.testing.assert_close(dropped[kept], clips[kept] / 0.6)
        assert 0.3 < kept.float().mean() < 0.9
    assert torch.equal(layer.eval()(clips), clips)


def test_a_clip_that_skips_a_block_keeps_its_shortcut():
    torch.manual_seed(0)
    block = Bottleneck(8, 2, 1, 1)
    nn.init.ones_(block.norm_c.weight)
    model = nn.ModuleDict({"res2": nn.Sequential(block)})
    assert set_stochastic_depth(model, 0.5) == 1
    clips = torch.randn(8, 8, 1, 4, 4).relu()
    set_clip_seeds(model, range(8))
    skipped = (block.train()(clips) == clips).flatten(1).all(1)
    assert 0 < skipped.sum() < 8


def test_a_second_forward_pass_skips_the_same_blocks():
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        model = build_model(ResNet3dConfig(**SMALL, head_pool=1, dropout=0), {"action": 3}, 3).train()
        for block in model.modules():
            if isinstance(block, Bottleneck):
                nn.init.ones_(block.norm_c.weight)
        if again:
            checkpoint_activations(model)
        set_stochastic_depth(model, 0.5)
        set_clip_seeds(model, range(4))
        clips = torch.randn(4, 3, 2, 32, 32, generator=torch.Generator().manual_seed(1))
        model(clips)["action"].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


def test_a_model_without_residual_blocks_is_refused():
    with torch.device("meta"):
        model = build_model(C3DConfig(width=4), {"action": 3}, 3)
    with pytest.raises(ConfigError) as error:
        StochasticDepthConfig().build().begin(model)
    assert (error.value.code, error.value.key) == ("no_residual_blocks", "recipe.stochastic_depth")
