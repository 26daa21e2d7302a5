"""S3D, I3D and S3D-v3 against torchvision, with the same weights, and against published numbers."""

import pytest
import torch
from slow_cases import slow_after
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import googlenet, inception_v3
from torchvision.models.video import s3d as torchvision_s3d
from torchvision.models.video.s3d import TemporalSeparableConv
from torchvision.ops.misc import Conv3dNormActivation

from kineray.config import (
    ClassificationConfig,
    DataConfig,
    Experiment,
    S3DConfig,
    S3DV3Config,
    apply_overrides,
)
from kineray.errors import ConfigError
from kineray.models import AUXILIARY, build_model, create_model, s3d, s3d_v3


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(config, classes=400):
    with torch.device("meta"):
        return build_model(config, {"action": classes})


def randomised(state, seed=0):
    """Random values that keep activations in a usable range; no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    numbers = {}
    for name, value in state.items():
        if not value.is_floating_point():
            numbers[name] = value
        elif value.ndim == 1:  # scales, biases, means, variances
            numbers[name] = torch.rand(value.shape, generator=generator) * 0.5 + 0.5
        else:
            spread = (2 / value[0].numel()) ** 0.5
            numbers[name] = torch.randn(value.shape, generator=generator) * spread
    return numbers


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def multiply_adds(model, frames, side):
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, frames, side, side))
    return counter.get_total_flops() / 2


# -- S3D and I3D: torchvision's network in its own order ------------------------------------------------


def inflated(network):
    """torchvision's S3D with every separable convolution made a full one: I3D."""
    for name, child in network.named_children():
        if isinstance(child, TemporalSeparableConv):
            spatial = child[0][0]
            full = Conv3dNormActivation(
                spatial.in_channels,
                spatial.out_channels,
                kernel_size=spatial.kernel_size[2],
                stride=spatial.stride[2],
                norm_layer=lambda channels: nn.BatchNorm3d(channels, eps=0.001),
            )
            setattr(network, name, full)
        else:
            inflated(child)
    return network


def reference(convolutions):
    with torch.device("meta"):
        network = torchvision_s3d(weights=None)
    return (inflated(network) if convolutions == "full" else network).eval()


def pair(convolutions):
    """Ours and torchvision's, with the same random weights.

    Both list their parts in the order of computation, so the names need no table here.
    """
    ours, theirs = on_meta(S3DConfig(convolutions=convolutions)).eval(), reference(convolutions)
    names = list(ours.state_dict())
    numbers = randomised({name: value.to("meta") for name, value in theirs.state_dict().items()})
    theirs.load_state_dict(numbers, assign=True)
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    renamed = {name: value.reshape(shapes[name]) for name, value in zip(names, numbers.values(), strict=True)}
    ours.load_state_dict(renamed, assign=True)
    return ours, theirs


@pytest.mark.parametrize("convolutions", slow_after(1, ["separable", "full"]))
def test_same_features_as_torchvision(convolutions):
    ours, theirs = pair(convolutions)
    clips = noise(2, 3, 11, 49, 66)
    with torch.no_grad():
        expected, features = theirs.features(clips), ours.features(clips)
    assert features.shape == (2, 1024, 1, 2, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_same_logits_as_torchvision():
    """The smallest clip that torchvision takes, and one with several positions in time and space."""
    ours, theirs = pair("separable")
    for shape in ((1, 3, 14, 209, 209), (1, 3, 24, 224, 256)):
        with torch.no_grad():
            expected, logits = theirs(noise(*shape)), ours(noise(*shape))["action"]
        assert expected.std() > 0.01
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 7, 7), (8, 7, 7), (3, 8, 10)])
def test_head_averages_the_logits_of_all_windows_as_torchvision_does(shape):
    torch.manual_seed(0)
    head = s3d.PositionHead(1024, {"action": 5}, dropout=0.2).eval()
    theirs = torchvision_s3d(weights=None, num_classes=5).eval()
    theirs.classifier[1].weight = nn.Parameter(head.linear["action"].weight[:, :, None, None, None])
    theirs.classifier[1].bias = head.linear["action"].bias
    theirs.features = nn.Identity()
    features = noise(2, 1024, *shape)
    with torch.no_grad():
        torch.testing.assert_close(head(features)["action"], theirs(features))


def test_batch_norm_is_that_of_torchvision():
    ours, theirs = on_meta(S3DConfig()), reference("separable")
    settings = [
        {
            (module.eps, module.momentum)
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        }
        for model in (ours, theirs)
    ]
    assert settings == [{(0.001, 0.001)}, {(0.001, 0.001)}]


def test_published_sizes():
    with torch.device("meta"):
        separable, full = create_model("s3d", {"a": 400}), create_model("i3d_inception", {"a": 400})
    assert parameters(separable) == 8_320_048  # torchvision
    # torchvision quotes 17.979 billion multiply-adds, for 16 frames of 224.
    assert multiply_adds(separable, 16, 224) == pytest.approx(17.979e9, rel=1e-3)
    # Other PyTorch codes of I3D have 12,287,264 parameters before the classifier.
    assert parameters(full) - parameters(full.head) == 12_287_264
    # k x k x k of n to m channels and a norm becomes 1 x k x k of n to m, k x 1 x 1 of m to m and two norms.
    difference = 0
    for conv in (module for module in full.modules() if isinstance(module, nn.Conv3d)):
        k, n, m = conv.kernel_size[0], conv.in_channels, conv.out_channels
        if k > 1:
            difference += k**3 * n * m - (k**2 * n * m + k * m**2 + 2 * m)
    assert parameters(full) - parameters(separable) == difference


def test_shape_of_the_last_map():
    """As in the papers: 64 frames of 224 pixels become 8 maps of 7 x 7."""
    model = on_meta(S3DConfig())
    assert model.features(torch.empty(1, 3, 64, 224, 224, device="meta")).shape == (1, 1024, 8, 7, 7)


# -- S3D-v3 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_network():
    """S3D-v3 without temporal layers, and torchvision's Inception-v3 with its weights.

    torchvision's stem and pools are given the padding that the source's sizes need.
    """
    with torch.device("meta"):
        theirs = inception_v3(weights=None, init_weights=False, aux_logits=False, num_classes=7).eval()
    for layer in (theirs.Conv2d_1a_3x3, theirs.Conv2d_2a_3x3, theirs.Conv2d_4a_3x3):
        layer.conv.padding = (1, 1)
    theirs.maxpool1.padding = theirs.maxpool2.padding = 1
    ours = on_meta(S3DV3Config(temporal_from=18), classes=7).eval()
    numbers = randomised(theirs.state_dict())
    theirs.load_state_dict(numbers, assign=True)
    state = randomised(ours.state_dict(), seed=1)
    for name, value in state.items():
        source = s3d_v3.torchvision_name(name)
        if source is not None:
            state[name] = numbers[source].reshape(value.shape)
    state["head.linear.action.weight"] = numbers["fc.weight"]
    state["head.linear.action.bias"] = numbers["fc.bias"]
    ours.load_state_dict(state, assign=True)
    return ours, theirs


def test_without_temporal_layers_it_classifies_single_frames_as_torchvision_does(image_network):
    """Halved three times, of 56 frames 7 are left, of which the two unpadded halvings leave the fourth."""
    ours, theirs = image_network
    clip = noise(1, 3, 56, 49, 49)
    with torch.no_grad():
        expected = theirs(clip[:, :, 24])
        assert expected.std() > 0.01
        torch.testing.assert_close(ours(clip)["action"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_larger_clips_average_over_frames_and_positions(image_network):
    ours, theirs = image_network
    clip = noise(1, 3, 88, 81, 49)  # 11 frames after three halvings, then 5, then 2
    with torch.no_grad():
        expected = (theirs(clip[:, :, 24]) + theirs(clip[:, :, 56])) / 2
        torch.testing.assert_close(ours(clip)["action"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("first", slow_after(1, [9, 0, 12]))
def test_temporal_layers_are_those_after_temporal_from(first):
    """Where a convolution or pool looks at several frames; layer 5, which is 1 x 1, never does."""
    model = on_meta(S3DV3Config(temporal_from=first))
    temporal = {
        number
        for number, layer in model.layers.items()
        for module in layer.modules()
        if isinstance(module, nn.Conv3d | nn.MaxPool3d | nn.AvgPool3d)
        and nn.modules.utils._triple(module.kernel_size)[0] > 1
    }
    assert temporal == {str(number) for number in range(first + 1, 19)} - {"5"}


def test_identity_in_time_is_the_image_network(image_network):
    """A clip of one repeated frame, and temporal kernels that copy their middle frame."""
    image, _ = image_network
    model = on_meta(S3DV3Config(), classes=7).eval()
    numbers = image.state_dict()
    state = {}
    for name, value in model.state_dict().items():
        if ".temporal.conv" in name:
            channels, _, length = value.shape[:3]
            kernel = torch.zeros(value.shape)
            kernel[range(channels), range(channels), length // 2] = 1
            state[name] = kernel
        elif ".temporal." in name:
            neutral = {"weight": (1 + 1e-3) ** 0.5, "running_var": 1.0}.get(name.rpartition(".")[2], 0.0)
            state[name] = torch.full(value.shape, neutral, dtype=value.dtype)
        else:
            state[name] = numbers[name.replace(".spatial.", ".")]
    model.load_state_dict(state, assign=True)
    # Layers 1 to 8, at a frame that no pool averages with the zeros beyond the ends of the clip.
    clip = noise(1, 3, 1, 49, 49).expand(-1, -1, 40, -1, -1)
    with torch.no_grad():
        x = y = clip
        for number in range(1, 9):
            x, y = model.layers[str(number)](x), image.layers[str(number)](y)
    assert x.shape == y.shape == (1, 256, 5, 7, 7)
    torch.testing.assert_close(x[:, :, 2], y[:, :, 2], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_parameters_and_multiply_adds_of_the_docstring():
    """The source's "twice GoogLeNet" and "half" are not true of these networks."""
    everywhere, top, image = (on_meta(S3DV3Config(temporal_from=first)) for first in (0, 9, 18))
    counts = [parameters(model) - parameters(model.auxiliary) for model in (everywhere, top, image)]
    assert counts == [31_370_992, 31_088_752, 22_605_168]
    costs = [multiply_adds(model, 64, 224) / 1e9 for model in (everywhere, top, image)]
    assert costs == pytest.approx([46.9, 32.6, 28.7], abs=0.05)
    with torch.device("meta"):
        theirs = inception_v3(weights=None, init_weights=False, aux_logits=False, num_classes=400)
    assert counts[2] == parameters(theirs)


# Table 1 of the source: kind, and size (frames, side, side, channels) of the input of each row.
TABLE_1 = [
    ("sep conv 3x3x3/2", (64, 224, 224, 3)),
    ("sep conv 3x3x3", (32, 112, 112, 32)),
    ("sep conv 3x3x3", (32, 112, 112, 32)),
    ("max pool 3x3x3/2", (32, 112, 112, 64)),
    ("conv 1x1x1", (16, 56, 56, 64)),
    ("sep conv 3x3x3", (16, 56, 56, 80)),
    ("max pool 3x3x3/2", (16, 56, 56, 192)),
    ("type 1", (8, 28, 28, 192)),
    ("type 2", (3, 13, 13, 768)),
    ("type 3", (1, 6, 6, 2048)),
]
_FIRST_LAYER = (1, 2, 3, 4, 5, 6, 7, 8, 12, 17)  # of each row
_TYPE_3_INPUT = 1280  # channels in Inception-v3, where the table has those of the output


@pytest.mark.parametrize("first", slow_after(1, [0, 9, 18]))
def test_every_size_of_table_1(first):
    model = on_meta(S3DV3Config(temporal_from=first))
    x = torch.empty(1, 3, 64, 224, 224, device="meta")
    sizes = {}
    for number, layer in model.layers.items():
        sizes[int(number)] = (*x.shape[2:], x.shape[1])
        x = layer(x)
    found = [sizes[number] for number in _FIRST_LAYER]
    assert found[:-1] == [size for _, size in TABLE_1[:-1]]
    assert found[-1] == (*TABLE_1[-1][1][:3], _TYPE_3_INPUT)
    assert (*x.shape[2:], x.shape[1]) == TABLE_1[-1][1]


def test_every_kind_of_table_1():
    model = on_meta(S3DV3Config())
    for (kind, _), number in zip(TABLE_1, _FIRST_LAYER, strict=True):
        layer = model.layers[str(number)]
        stride = 2 if kind.endswith("/2") else 1
        if kind.startswith("sep conv"):
            spatial, temporal = layer.spatial.conv, layer.temporal.conv
            assert (spatial.kernel_size, temporal.kernel_size) == ((1, 3, 3), (3, 1, 1))
            assert (spatial.stride, temporal.stride) == ((1, stride, stride), (stride, 1, 1))
        elif kind.startswith("max pool"):
            assert (layer.kernel_size, layer.stride) == ((3, 3, 3), stride)
        elif kind.startswith("conv"):
            assert layer.conv.kernel_size == (1, 1, 1)
        else:
            of_type = {"type 1": s3d_v3.ModuleA, "type 2": s3d_v3.ModuleC, "type 3": s3d_v3.ModuleE}
            assert isinstance(layer, of_type[kind])


@pytest.mark.parametrize("kind", slow_after(1, ["batch_norm", "dropout"]))
def test_auxiliary_logits_are_given_in_training_and_have_gradients(kind):
    torch.manual_seed(0)
    model = build_model(S3DV3Config(width=2, auxiliary=kind), {"verb": 3, "noun": 4})
    clips, labels = noise(2, 3, 49, 49, 49), {"verb": torch.tensor([0, 2]), "noun": torch.tensor([1, -1])}
    logits = model(clips)
    assert set(logits) == {"verb", "noun", AUXILIARY + "verb", AUXILIARY + "noun"}
    task = ClassificationConfig().build({"verb": "abc", "noun": "abcd"})
    task.loss(logits, labels).sum().backward()
    assert model.auxiliary.head.linear["verb"].weight.grad.abs().sum() > 0
    assert set(model.eval()(clips)) == {"verb", "noun"}
    norms = [m for m in model.auxiliary.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert (len(norms), model.auxiliary.head.dropout.p) == ((2, 0.0) if kind == "batch_norm" else (0, 0.7))


def test_new_classes_change_only_classifiers():
    one, other = (on_meta(S3DV3Config(width=2), classes=classes).state_dict() for classes in (3, 5))
    changed = {name for name, value in one.items() if value.shape != other[name].shape}
    assert changed == {
        f"{part}head.linear.action.{kind}" for part in ("", "auxiliary.") for kind in ("weight", "bias")
    }


# -- both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "names", "theirs"),
    slow_after(
        1,
        [
            (S3DConfig(), s3d.torchvision_name, googlenet),
            (S3DConfig(convolutions="full"), s3d.torchvision_name, googlenet),
            (S3DV3Config(), s3d_v3.torchvision_name, inception_v3),
            (S3DV3Config(temporal_from=9), s3d_v3.torchvision_name, inception_v3),
        ],
    ),
)
def test_names_of_the_image_network(config, names, theirs):
    """Every tensor of the image network but its classifiers has a counterpart with the same spatial shape."""
    with torch.device("meta"):
        images = theirs(weights=None, init_weights=False, aux_logits=False).state_dict()
    ours = on_meta(config).state_dict()
    table = {names(name): name for name in ours if names(name) is not None}
    assert set(table) == {name for name in images if not name.startswith("fc.")}
    for source, name in table.items():
        shape = list(ours[name].shape)
        assert shape[:2] + shape[3:] == list(images[source].shape), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model.type=s3d data.frames=4", "data.frames=4: too few for s3d; give at least 5"),
        (
            "model.type=s3d data.crop=16 data.eval_crop=32",
            "data.crop=16: too small for s3d; give at least 17 pixels",
        ),
        ("model.type=s3d_v3 data.frames=48", "data.frames=48: too few for s3d_v3; give at least 49"),
        (
            "model.type=s3d_v3 data.frames=64 data.eval_crop=48",
            "data.eval_crop=48: too small for s3d_v3; give at least 49 pixels",
        ),
    ],
)
def test_clips_that_are_too_short_or_too_small(overrides, message):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(data=DataConfig()), overrides.split())
    assert error.value.code == "wrong_shape" and str(error.value) == message


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ("model.type=s3d_v3 model.temporal_from=19", "model.temporal_from"),
        ("model.type=s3d model.width=12", "model.width"),
        ("model.type=s3d_v3 model.width=7", "model.width"),
        ("model.type=s3d model.convolutions=2d", "model.convolutions"),
    ],
)
def test_unusable_settings_name_the_key(overrides, key):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(data=DataConfig()), overrides.split())
    assert (error.value.code, error.value.key) == ("bad_value", key)
