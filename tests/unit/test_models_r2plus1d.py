"""R(2+1)D and the 18-layer video ResNets against torchvision's and their published numbers."""

import re

import pytest
import torch
import torchvision
from slow_cases import slow_after
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import video
from torchvision.models.video import resnet as theirs

from kineray.config import R2Plus1DConfig, VideoResNet18Config
from kineray.errors import ConfigError
from kineray.models import build_model, create_model, model_presets
from kineray.models.blocks import middle_channels

HEADS = {"action": 6}


def randomise(model):
    """Random values for every parameter and buffer, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
        if name.startswith("head.linear") and value.ndim == 2:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05)


def logits_of(network, clips):
    with torch.no_grad():
        return network(clips)


def multiply_adds(model, frames, side):
    """Multiply-adds of the convolutions of a model on the meta device, in billions."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, frames, side, side))
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2e9


# -- 18 layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", slow_after(1, ["mc3", "r3d", "r2plus1d"]))
def test_logits_of_torchvision(variant):
    ours = build_model(VideoResNet18Config(variant=variant), HEADS).eval()
    randomise(ours)
    reference = getattr(video, f"{variant}_18")(weights=None, num_classes=6).eval()
    state = ours.state_dict()
    renamed = {name.removeprefix("backbone."): value for name, value in state.items()}
    renamed = {name.replace("head.linear.action", "fc"): value for name, value in renamed.items()}
    reference.load_state_dict(renamed)
    clips = torch.randn(2, 3, 5, 24, 32, generator=torch.Generator().manual_seed(0))
    expected = logits_of(reference, clips)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits_of(ours, clips)["action"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", slow_after(1, ["r2plus1d", "r3d", "mc3"]))
def test_published_counts_of_18_layers(variant):
    """What torchvision publishes with its weights, for 16 frames of 112 pixels."""
    name = f"{variant}_18"
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    with torch.device("meta"):
        model = create_model(name, {"action": 400})
    assert sum(p.numel() for p in model.parameters()) == meta["num_params"]
    assert multiply_adds(model, 16, 112) == pytest.approx(meta["_ops"], rel=2e-3)


@pytest.mark.parametrize("variant", slow_after(1, ["r3d", "r2plus1d"]))
def test_flow_changes_only_the_first_convolution_of_18_layers(variant):
    config = VideoResNet18Config(variant=variant)
    with torch.device("meta"):
        rgb, flow = (build_model(config, HEADS, channels).state_dict() for channels in (3, 10))
    changed = {name for name in rgb if rgb[name].shape != flow[name].shape}
    assert changed == {"backbone.stem.0.weight"}
    assert flow["backbone.stem.0.weight"].shape[1] == 10


def test_a_stem_for_flow_is_initialised_as_that_for_rgb():
    """He et al. by fan-out: the standard deviation does not depend on the number of input channels."""
    torch.manual_seed(0)
    config = VideoResNet18Config(variant="r3d")
    rgb, flow = (build_model(config, HEADS, channels).backbone.stem[0] for channels in (3, 2))
    assert flow.stride == rgb.stride and flow.padding == rgb.padding and flow.bias is None
    assert flow.weight.std().item() == pytest.approx((2 / (64 * 3 * 49)) ** 0.5, rel=0.05)
    assert rgb.weight.std().item() == pytest.approx(flow.weight.std().item(), rel=0.05)


# -- 34 and 152 layers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stem", "parameters", "billions"),
    slow_after(
        1,
        [
            ("r2plus1d_34", "3x7x7", 63_697_175, {112: 152.4, 128: 199.0}),
            ("r2plus1d_152", "3x7x7", 118_226_785, {112: 252.0, 128: 329.1}),
            ("r2plus1d_34", "7x7x7", 63_747_500, {}),
            ("r2plus1d_152", "7x7x7", 118_277_110, {}),
        ],
    ),
)
def test_published_counts(name, stem, parameters, billions):
    """At 128 pixels: the authors' own table. At 112: 115 views are 17,480, and 32 views 8,064 billion."""
    with torch.device("meta"):
        model = create_model(name, {"action": 400}, stem=stem)
    assert sum(p.numel() for p in model.parameters()) == parameters
    for side, number in billions.items():
        assert multiply_adds(model, model_presets()[name].frames, side) == pytest.approx(number, rel=3e-3)


def test_middle_channels_keep_the_parameters_of_the_3d_convolution():
    for channels in ((64, 64), (64, 128), (128, 128), (256, 512), (512, 512)):
        inside, outside = channels
        middle = middle_channels(inside, outside)
        factorised = middle * (9 * inside + 3 * outside)
        assert 0 <= 27 * inside * outside - factorised < 9 * inside + 3 * outside


class PerConvolution(theirs.Conv2Plus1D):
    """torchvision's factorised convolution with the channels in the middle from its own sizes."""

    def __init__(self, in_planes, out_planes, midplanes=None, stride=1):
        midplanes = in_planes * out_planes * 3 * 3 * 3 // (in_planes * 3 * 3 + out_planes * 3)
        super().__init__(in_planes, out_planes, midplanes, stride)


def stem_of_seven_frames():
    return nn.Sequential(
        nn.Conv3d(3, 110, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(110),
        nn.ReLU(),
        nn.Conv3d(110, 64, (7, 1, 1), padding=(3, 0, 0), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(),
    )


def torchvision_keys(state):
    """Our state dict with the names of torchvision's VideoResNet."""
    inside = {"spatial": "0", "norm": "1", "temporal": "3"}
    stem = {"spatial": "0", "norm_spatial": "1", "temporal": "3", "norm_temporal": "4"}
    renamed = {}
    for key, value in state.items():
        k = key.replace("head.linear.action", "fc")
        k = re.sub(r"^stem\.(\w+)\.", lambda m: f"stem.{stem[m[1]]}.", k)
        k = re.sub(r"^res(\d)\.block", lambda m: f"layer{int(m[1]) - 1}.", k).replace(
            "shortcut", "downsample"
        )
        k = re.sub(
            r"branch\.conv_([abc])\.(spatial|norm|temporal)\.",
            lambda m: f"conv{'abc'.index(m[1]) + 1}.0.{inside[m[2]]}.",
            k,
        )
        k = re.sub(r"branch\.conv_([abc])\.", lambda m: f"conv{'abc'.index(m[1]) + 1}.0.", k)
        k = re.sub(r"branch\.norm_([abc])\.", lambda m: f"conv{'abc'.index(m[1]) + 1}.1.", k)
        renamed[k] = value
    return renamed


@pytest.mark.parametrize(("bottleneck", "stem"), slow_after(1, [(True, "3x7x7"), (False, "7x7x7")]))
def test_logits_of_torchvision_with_the_middle_channels_of_each_convolution(bottleneck, stem):
    blocks = (1, 2, 1, 1)
    ours = build_model(R2Plus1DConfig(stage_blocks=blocks, bottleneck=bottleneck, stem=stem), HEADS).eval()
    randomise(ours)
    reference = theirs.VideoResNet(
        theirs.Bottleneck if bottleneck else theirs.BasicBlock,
        [PerConvolution] * 4,
        list(blocks),
        stem_of_seven_frames if stem == "7x7x7" else theirs.R2Plus1dStem,
        num_classes=6,
    ).eval()
    reference.load_state_dict(torchvision_keys(ours.state_dict()))
    clips = torch.randn(2, 3, 5, 24, 32, generator=torch.Generator().manual_seed(0))
    expected = logits_of(reference, clips)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits_of(ours, clips)["action"], expected, rtol=1e-4, atol=1e-5)


def test_flow_changes_only_the_first_convolution():
    rgb, flow = (
        build_model(R2Plus1DConfig(stage_blocks=(1, 1, 1, 1), width=8), HEADS, channels).state_dict()
        for channels in (3, 2)
    )
    assert {name for name in rgb if rgb[name].shape != flow[name].shape} == {"stem.spatial.weight"}


def test_an_unknown_stem_is_refused():
    with pytest.raises(ConfigError) as error:
        create_model("r2plus1d_34", HEADS, stem="5x7x7")
    assert (error.value.code, error.value.key) == ("bad_value", "model.stem")
