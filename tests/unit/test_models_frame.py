"""Image networks on every frame: the same features as torchvision's, published sizes, frozen backbones."""

from typing import get_args

import numpy as np
import pytest
import torch
from slow_cases import slow_after
from torchvision.models import get_model

from kineray.config import AverageConfig, FrameConfig, LstmConfig, TimeceptionConfig
from kineray.config.models.frame import Backbone
from kineray.errors import ConfigError
from kineray.models import GhostBatchNorm, build_model, create_model, set_batch_norm_group, set_clip_seeds
from kineray.models.backbones import backbone_channels, build_backbone
from kineray.models.highway import HighwayLayer

NAMES = [name for name in get_args(Backbone) if name != "highway"]
# Initialising from truncated normals takes long, and any weights are enough here.
_UNTOUCHED = {name: {"init_weights": False} for name in ("vgg11_bn", "googlenet", "inception_v3")}
MOBILENET = {"backbone": "mobilenet_v2", "cut": "features.3"}


def randomise(network, seed=1):
    """Random values for every parameter and buffer, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.75)


# -- parameters, as published -------------------------------------------------------------------------


def trainable(name, heads):
    with torch.device("meta"):
        model = create_model(name, heads)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("name", "heads", "parameters"),
    slow_after(
        2,
        [
            ("mobilenet_v2_lstm", {"verb": 13}, 266_963),
            ("mobilenet_v2_conv_lstm", {"verb": 13}, 659_621),
            ("mobilenet_v2_mid_conv_lstm", {"verb": 13}, 446_909),
            ("mobilenet_v2_conv1d", {"verb": 13}, 46_353),
            ("mobilenet_v2_conv1d", {"verb": 97, "noun": 300}, 85_137),
        ],
    ),
)
def test_trainable_parameters_of_the_egocentric_study(name, heads, parameters):
    assert trainable(name, heads) == parameters


@pytest.mark.parametrize(
    ("cut", "parameters", "maps"),
    [("", 2_223_872, (1280, 8, 8)), ("features.13", 542_528, (96, 16, 16))],
)
def test_maps_and_parameters_of_the_mobilenet_of_the_egocentric_study(cut, parameters, maps):
    with torch.device("meta"):
        backbone = build_backbone("mobilenet_v2", cut).eval()
        assert backbone(torch.empty(1, 3, 256, 256)).shape[1:] == maps
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_is_torchvisions_without_its_classifier(name):
    with torch.device("meta"):
        ours = {key: value.shape for key, value in build_backbone(name).state_dict().items()}
        whole = get_model(name, weights=None, **_UNTOUCHED.get(name, {}))
        theirs = {key: value.shape for key, value in whole.state_dict().items()}
    left = {key.partition(".")[0] for key in theirs.keys() - ours.keys()}
    assert left <= {"classifier", "fc", "aux1", "aux2", "AuxLogits"}
    assert all(theirs[key] == shape for key, shape in ours.items())


@pytest.mark.parametrize(
    ("name", "cut", "channels"),
    [
        ("resnet50", "", 2048),
        ("resnet50", "layer2", 512),
        ("resnet50", "layer3", 1024),
        ("resnet18", "layer4.0", 512),
        ("googlenet", "inception4a", 512),
        ("highway", "", 512),
        ("highway", "stage2.0", 128),
    ],
)
def test_channels_of_the_feature_maps(name, cut, channels):
    assert backbone_channels(name, cut) == channels


# -- features, as torchvision computes them ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "side"),
    slow_after(
        2,
        [
            ("resnet18", 64),
            ("mobilenet_v2", 64),
            ("vgg11_bn", 32),
            ("googlenet", 64),
            ("inception_v3", 75),
            ("resnext50_32x4d", 64),
            ("densenet121", 64),
        ],
    ),
)
def test_same_features_as_torchvision(name, side):
    theirs = get_model(name, weights=None, **_UNTOUCHED.get(name, {}))
    randomise(theirs)
    theirs.eval()
    seen = []
    pooling = theirs.avgpool if hasattr(theirs, "avgpool") else theirs.classifier
    pooling.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.device("meta"):
        model = build_model(FrameConfig(backbone=name), {"action": 2}).eval()
    names = set(model.backbone.state_dict())
    state = {key: value for key, value in theirs.state_dict().items() if key in names}
    model.backbone.load_state_dict(state, assign=True)
    clips = torch.randn(2, 3, 2, side, side)
    with torch.no_grad():
        maps = model.frame_maps(clips)
        theirs(clips.transpose(1, 2).flatten(0, 1))
    expected = seen[0].unflatten(0, (2, 2))
    ours = maps if expected.ndim == 5 else maps.mean((3, 4))
    assert expected.std() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_cut_network_computes_what_the_whole_one_has_there():
    whole, cut = (build_backbone("resnet18", layer).eval() for layer in ("", "layer2.0"))
    randomise(whole)
    cut.load_state_dict({key: whole.state_dict()[key] for key in cut.state_dict()})
    seen = []
    whole.layer2[0].register_forward_hook(lambda *call: seen.append(call[2]))
    frames = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        whole(frames)
        assert torch.equal(cut(frames), seen[0])


def test_highway_layer():
    """y = H(x) T(x) + x (1 - T(x)); at first most of x is carried."""
    torch.manual_seed(0)
    layer = HighwayLayer(4).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)

    def convolution(conv):
        patches = torch.nn.functional.unfold(x, 3, padding=1)
        flat = conv.weight.flatten(1) @ patches + conv.bias[:, None]
        return flat.view_as(x)

    with torch.no_grad():
        gate = 1 / (1 + torch.exp(-convolution(layer.gate)))
        expected = convolution(layer.transform).clamp(min=0) * gate + x * (1 - gate)
        torch.testing.assert_close(layer(x), expected)
    new = build_backbone("highway").stage3[2]
    assert torch.equal(new.gate.bias, torch.full((256,), -1.0))
    assert torch.count_nonzero(new.transform.bias) == 0


# -- frozen or trained --------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_does_not_change(frozen):
    torch.manual_seed(0)
    config = FrameConfig(**MOBILENET, frozen=frozen, temporal=LstmConfig(units=4), dropout=0.0)
    model = build_model(config, {"action": 2})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    for mode in (True, False, True):
        model.train(mode)
    clips = torch.randn(4, 3, 3, 32, 32)
    model(clips)["action"].square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    inside = {key for key in changed if key.startswith("backbone.")}
    assert {key for key in changed if key.startswith("temporal.")}
    assert bool(inside) is not frozen
    if not frozen:
        assert any(key.endswith("running_mean") for key in inside)
    assert "temporal.lstm.bias_hh_l0" not in changed


def test_a_frozen_backbone_costs_no_gradients():
    model = build_model(FrameConfig(**MOBILENET, frozen=True), {"action": 2}).train()
    clips = torch.randn(1, 3, 2, 32, 32, requires_grad=True)
    maps = model.frame_maps(clips)
    assert not maps.requires_grad and maps.grad_fn is None
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert model.training and not any(module.training for module in model.backbone.modules())
    assert model.classify(maps)["action"].requires_grad


def test_a_trained_backbone_takes_its_statistics_over_all_frames_of_a_group_of_clips():
    model = build_model(FrameConfig(**MOBILENET, temporal=AverageConfig()), {"action": 2}).train()
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(norm, GhostBatchNorm) for norm in norms)
    set_batch_norm_group(model, 2)
    set_clip_seeds(model, range(4))
    seen = []
    norms[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.randn(4, 3, 3, 32, 32))
    frames = seen[0].unflatten(0, (2, 6))  # two groups of two clips of three frames
    means = torch.stack([statistics[0] for statistics in norms[0].pending])
    torch.testing.assert_close(means, frames.mean((1, 3, 4)), rtol=1e-4, atol=1e-5)


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "remedy"),
    [
        ("layer9", "choose from conv1, bn1, relu, maxpool, layer1, layer2, layer3, layer4"),
        ("layer1.7", "choose from 0, 1, 2"),
        ("layer1.0.conv1", "set model.cut=layer1.0"),
        ("fc", "choose from conv1, bn1, relu, maxpool, layer1, layer2, layer3, layer4"),
    ],
)
def test_an_unknown_layer_names_those_that_exist(cut, remedy):
    with torch.device("meta"), pytest.raises(ConfigError) as error:
        build_model(FrameConfig(cut=cut), {"action": 2})
    found = error.value
    assert (found.code, found.key, found.remedy) == ("unknown_value", "model.cut", remedy)


def test_groups_of_timeception_must_divide_the_channels():
    config = FrameConfig(**MOBILENET, temporal=TimeceptionConfig(layers=1, groups=7))
    with torch.device("meta"), pytest.raises(ConfigError) as error:
        build_model(config, {"action": 2})
    assert (error.value.code, error.value.key) == ("out_of_range", "model.temporal.groups")
    assert "the 24 channels of the backbone" in error.value.problem


# -- what of its features is kept ---------------------------------------------------------------------


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_a_grid_is_the_mean_over_its_parts_of_the_map(grid):
    torch.manual_seed(0)
    whole = build_model(FrameConfig(**MOBILENET, frozen=True), {"action": 2})
    pooled = build_model(FrameConfig(**MOBILENET, frozen=True, grid=grid), {"action": 2})
    pooled.load_state_dict(whole.state_dict())
    clips = torch.randn(2, 3, 4, 56, 48)
    maps = whole.frame_maps(clips).numpy()
    height, width = maps.shape[3:]
    wanted = np.empty((*maps.shape[:3], grid, grid), np.float32)
    for y in range(grid):
        for x in range(grid):
            rows = slice(y * height // grid, -(-(y + 1) * height // grid))
            columns = slice(x * width // grid, -(-(x + 1) * width // grid))
            wanted[..., y, x] = maps[..., rows, columns].mean((3, 4))
    np.testing.assert_allclose(pooled.frame_maps(clips).numpy(), wanted, rtol=1e-4, atol=1e-6)


def test_a_grid_of_1_changes_nothing_for_an_average():
    torch.manual_seed(0)
    whole = build_model(FrameConfig(**MOBILENET), {"action": 2}).eval()
    pooled = build_model(FrameConfig(**MOBILENET, grid=1), {"action": 2}).eval()
    pooled.load_state_dict(whole.state_dict())
    clips = torch.randn(2, 3, 3, 32, 32)
    torch.testing.assert_close(pooled(clips), whole(clips), rtol=1e-4, atol=1e-6)


def test_features_are_rounded_to_their_type():
    torch.manual_seed(0)
    exact = build_model(FrameConfig(**MOBILENET, frozen=True), {"action": 2})
    rounded = build_model(FrameConfig(**MOBILENET, frozen=True, feature_dtype="float16"), {"action": 2})
    rounded.load_state_dict(exact.state_dict())
    clips = torch.randn(1, 3, 2, 32, 32)
    maps, wanted = rounded.frame_maps(clips), exact.frame_maps(clips).numpy().astype(np.float16)
    assert maps.dtype == torch.float32 and maps.is_contiguous()
    np.testing.assert_array_equal(maps.numpy(), wanted.astype(np.float32))


def test_a_grid_larger_than_the_map_and_rounded_features_that_are_trained_are_refused():
    model = build_model(FrameConfig(**MOBILENET, grid=50), {"action": 2})
    with pytest.raises(ConfigError) as error:
        model(torch.randn(1, 3, 2, 32, 32))
    assert (error.value.code, error.value.key) == ("out_of_range", "model.grid")
    with pytest.raises(ConfigError) as error:
        FrameConfig(**MOBILENET, feature_dtype="float16")
    assert error.value.code == "bad_value"
