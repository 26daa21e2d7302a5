"""Stochastic depth: which clips skip which blocks, in every network that has residual blocks."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import resnet, video
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import stochastic_depth

from kineray.config import C3DConfig, SlowFastConfig, TwoStreamConfig
from kineray.config.models.frame import FrameConfig
from kineray.config.models.p3d import P3DConfig
from kineray.config.models.r2plus1d import R2Plus1DConfig
from kineray.config.models.resnet3d import ResNet3dConfig
from kineray.config.models.st_resnet import STResNetConfig
from kineray.config.models.video_resnet18 import VideoResNet18Config
from kineray.config.models.x3d import X3DConfig
from kineray.config.recipe.stochastic_depth import StochasticDepthConfig
from kineray.errors import ConfigError
from kineray.models import (
    build_model,
    checkpoint_activations,
    set_batch_norm_group,
    set_clip_seeds,
    set_stochastic_depth,
)
from kineray.models.blocks import Bottleneck, DroppableBlock, adopt
from kineray.models.blocks.stochastic_depth import StochasticDepth

SMALL = {"stage_blocks": (1, 2, 1, 1), "width": 8}
SLOWFAST = SlowFastConfig(**SMALL, alpha=2, beta_inv=4, head_pool=1, fusion_kernel=1, nonlocal_res3=(1,))
NETWORKS = {  # configuration, pathways, blocks in each
    "slowfast": (SLOWFAST, ["slow", "fast"], 5),
    "basic": (SLOWFAST.model_copy(update={"block": "basic"}), ["slow", "fast"], 5),
    "resnet3d": (ResNet3dConfig(**SMALL, head_pool=1), ["backbone"], 5),
    "p3d": (P3DConfig(**SMALL), [""], 5),
    "r2plus1d": (R2Plus1DConfig(stage_blocks=(1, 2, 1, 1)), [""], 5),
    "x3d": (X3DConfig(stage_blocks=(1, 2, 1, 1), width=8), ["backbone"], 5),
    "two_stream": (
        TwoStreamConfig(rgb=SLOWFAST, flow=SLOWFAST),
        ["rgb.slow", "rgb.fast", "flow.slow", "flow.fast"],
        5,
    ),
    "video_resnet18": (VideoResNet18Config(), ["backbone"], 8),
    "frame": (FrameConfig(backbone="resnet18"), ["backbone"], 8),
    "resnext": (FrameConfig(backbone="resnext50_32x4d", cut="layer2.1"), ["backbone"], 5),
    "mobilenet": (FrameConfig(backbone="mobilenet_v2"), ["backbone"], 10),
    "st_resnet": (STResNetConfig(), ["backbone"], 16),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_rate_rises_linearly_over_the_blocks_of_each_pathway(name):
    config, pathways, blocks = NETWORKS[name]
    with torch.device("meta"):
        model = build_model(config, {"action": 3}, 5 if name == "two_stream" else 3)
    names = list(model.state_dict())
    assert set_stochastic_depth(model, 0.5) == blocks * len(pathways)
    assert list(model.state_dict()) == names
    for pathway in pathways:
        layers = [
            layer for layer in model.get_submodule(pathway).modules() if isinstance(layer, StochasticDepth)
        ]
        rates = [0.5 * (number + 1) / blocks for number in range(blocks)]
        assert [layer.p for layer in layers] == pytest.approx(rates * (len(layers) // blocks))


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


ADOPTED = {
    "basic": resnet.BasicBlock(8, 8),
    "bottleneck": resnet.Bottleneck(8, 2),
    "bottleneck with projection": resnet.Bottleneck(8, 4, stride=2, downsample=nn.Conv2d(8, 16, 1, 2)),
    "video": video.resnet.BasicBlock(8, 8, video.resnet.Conv2Plus1D),
    "inverted": InvertedResidual(8, 8, 1, 2),
}


@pytest.mark.parametrize("name", ADOPTED)
def test_blocks_of_torchvision_are_the_same_but_can_be_skipped(name):
    theirs = ADOPTED[name].train()
    ours = adopt(copy.deepcopy(theirs))
    assert isinstance(ours, DroppableBlock) and list(ours.state_dict()) == list(theirs.state_dict())
    shape = (8, 8, 2, 6, 6) if name == "video" else (8, 8, 6, 6)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()
    inputs = [features.clone().requires_grad_() for _ in range(2)]
    expected, got = theirs(inputs[0]), ours(inputs[1])
    assert torch.equal(got, expected)
    for output in (expected, got):
        output.square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    ours.drop = StochasticDepth(0.5)
    set_clip_seeds(ours, range(8))
    shortcut = features if getattr(ours, "downsample", None) is None else ours.downsample(features).relu()
    skipped = (ours(features) == shortcut).flatten(1).all(1)
    assert 0 < skipped.sum() < 8


@pytest.mark.parametrize("name", ["frame", "st_resnet"])
def test_frames_of_a_clip_skip_the_same_blocks_whatever_clips_are_beside_it(name):
    torch.manual_seed(0)
    model = build_model(NETWORKS[name][0], {"action": 3}, 3).train()
    set_batch_norm_group(model, 2)
    set_stochastic_depth(model, 0.5)
    clips = torch.randn(4, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        set_clip_seeds(model, range(4))
        together = model(clips)["action"]
        set_clip_seeds(model, range(2, 4))
        apart = model(clips[2:])["action"]
        set_clip_seeds(model, range(4, 8))
        other = model(clips)["action"]
    torch.testing.assert_close(apart, together[2:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(other, together, rtol=1e-2)


def test_a_connection_into_a_skipped_branch_is_dropped_with_it():
    """The second frame of a clip is then what it would be alone."""
    torch.manual_seed(0)
    model = build_model(STResNetConfig(position="49_55"), {"action": 3}, 3).train()
    for block in model.modules():
        if isinstance(block, DroppableBlock):
            block.drop = Skip()
    clips = torch.randn(2, 3, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.eval()
        first, other_past = (model(each)["action"] for each in (clips, clips.flip(0)))
        past_swapped = clips.clone()
        past_swapped[:, :, 0] = clips[[1, 0], :, 0]
        torch.testing.assert_close(model(past_swapped)["action"], first)
    assert not torch.allclose(first, other_past)


class Skip(nn.Module):
    def forward(self, features):
        return torch.zeros_like(features)


def test_blocks_of_a_frozen_backbone_are_not_counted():
    with torch.device("meta"):
        model = build_model(FrameConfig(backbone="resnet18", frozen=True), {"action": 3}, 3)
    assert set_stochastic_depth(model, 0.5) == 0


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
