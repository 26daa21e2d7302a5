"""Spatio-temporal ResNets against torchvision's ResNet-50, read frame by frame with hooks."""

import pytest
import torch
from slow_cases import slow_after
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50

from kineray.config import Experiment, STResNetConfig, apply_overrides
from kineray.errors import ConfigError
from kineray.models import build_model, set_batch_norm_group, set_clip_seeds
from kineray.models.st_resnet import LAYERS

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 7
ALL = ("5_11", "49_55", "86_92", "98_104")
# Numbers of the layers in the published description, and the layers that we identify them with.
NAMED = {
    "5_11": ("layer1.0.bn1", "layer1.1.bn1"),
    "49_55": ("layer3.0.downsample.1", "layer3.0.bn3"),
    "86_92": ("layer4.0.downsample.0", "layer4.0.conv3"),
    "98_104": ("layer4.1.conv3", "layer4.2.conv3"),
}


@pytest.fixture(scope="module")
def images():
    """A ResNet-50 for images whose running statistics fit its weights."""
    torch.manual_seed(0)
    network = resnet50(weights=None, num_classes=CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 64, 64))
    return network.eval()


def with_weights_of(images, config):
    """A network with the weights of ``images`` and random connections; made without initialising it."""
    with torch.device("meta"):
        model = build_model(config, {"action": CLASSES})
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, value in images.state_dict().items():
        key = name.replace("fc.", "head.linear.action.") if name.startswith("fc.") else f"backbone.{name}"
        weights[key] = value
    for name, value in model.state_dict().items():
        if name.startswith("connections."):
            scale = value[0].numel() ** -0.5
            weights[name] = torch.randn(value.shape, generator=generator) * scale
    model.load_state_dict(weights, assign=True)
    return model.eval()


def read_frame_by_frame(images, model, config, positions, clips_bcthw):
    """The logits at the last frame of torchvision's network, with the connections as hooks."""
    memory = {position: [] for position in positions}
    handles = []

    def remember(position):
        def hook(_module, _inputs, output):
            memory[position].append(output.clone())

        return hook

    def through(position, past):
        if config.connection == "identity":
            return past
        layer = model.get_submodule(f"connections.{position}")
        conv = layer if config.connection == "conv" else layer[0]
        added = F.conv2d(past, conv.weight, conv.bias)
        return added if config.connection == "conv" else added.clamp(min=0)

    def connect(position):
        def hook(_module, _inputs, output):
            # The frame being read is the last one in memory.
            earlier = [
                memory[position][-1 - delay] for delay in config.delays if len(memory[position]) > delay
            ]
            for past in earlier:
                output = output + through(position, past)
            return output

        return hook

    # torchvision computes a projection after the branch it belongs to; a source must be there before.
    def project_first(block):
        def hook(_module, inputs):
            block.downsample(inputs[0])

        return hook

    for position in positions:
        source, target = NAMED[position]
        block = images.get_submodule(source.split(".downsample")[0])
        if "downsample" in source:
            # So the source runs twice for a frame: only the early run is kept.
            conv = images.get_submodule(source)
            handles.append(block.register_forward_pre_hook(project_first(block)))
            keep, calls = remember(position), []

            def every_second(module, inputs, output, keep=keep, calls=calls):
                calls.append(None)
                if len(calls) % 2:
                    keep(module, inputs, output)

            handles.append(conv.register_forward_hook(every_second))
        else:
            handles.append(images.get_submodule(source).register_forward_hook(remember(position)))
        handles.append(images.get_submodule(target).register_forward_hook(connect(position)))
    with torch.no_grad():
        for frame in range(clips_bcthw.shape[2]):
            logits = images(clips_bcthw[:, :, frame])
    for handle in handles:
        handle.remove()
    return logits


def clips(frames, count=2, side=32):
    return torch.randn(count, 3, frames, side, side, generator=torch.Generator().manual_seed(2))


def test_the_numbers_of_the_layers(images):
    counted = {
        name for name, module in images.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    }
    assert len(LAYERS) == 106
    assert set(LAYERS) == counted
    assert (LAYERS[47], LAYERS[85], LAYERS[105]) == ("layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3")
    for position, names in NAMED.items():
        assert tuple(LAYERS[int(number)] for number in position.split("_")) == names


def test_every_connection_joins_maps_of_equal_shape(images):
    shapes = {}
    handles = [
        images.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
        for name in LAYERS
    ]
    images(torch.zeros(1, 3, 224, 224))
    for handle in handles:
        handle.remove()
    assert [shapes[source] for source, _ in NAMED.values()] == [
        (64, 56, 56),
        (1024, 14, 14),
        (2048, 7, 7),
        (2048, 7, 7),
    ]
    assert all(shapes[source] == shapes[target] for source, target in NAMED.values())


@pytest.mark.parametrize(
    ("position", "connections", "delays", "positions"),
    slow_after(
        3,
        [
            ("98_104", 4, (1,), ALL),
            ("86_92", 2, (2,), ("49_55", "86_92")),
            ("98_104", 1, (1, 2), ("98_104",)),
            ("5_11", 1, (1,), ("5_11",)),
            ("49_55", 1, (1,), ("49_55",)),
            ("86_92", 1, (1,), ("86_92",)),
            ("98_104", 1, (1,), ("98_104",)),
            ("98_104", 2, (1,), ("86_92", "98_104")),
            ("98_104", 1, (2,), ("98_104",)),
            ("49_55", 2, (1, 2), ("5_11", "49_55")),
        ],
    ),
)
@pytest.mark.parametrize("connection", slow_after(1, ["conv_relu", "identity", "conv"]))
def test_the_network_equals_a_loop_over_frames(images, connection, position, connections, delays, positions):
    config = STResNetConfig(connection=connection, position=position, connections=connections, delays=delays)
    model = with_weights_of(images, config)
    inputs = clips(config.context + 1)  # the frame before the context changes nothing
    expected = read_frame_by_frame(images, model, config, positions, inputs)
    with torch.no_grad():
        logits = model(inputs)["action"]
        alone = images(inputs[:, :, -1])
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
    assert (logits - alone).abs().max() > 1e-2


@pytest.mark.parametrize("position", slow_after(1, ALL))
def test_without_the_connection_the_last_frame_alone_decides(images, position):
    model = with_weights_of(images, STResNetConfig(connection="conv", position=position))
    inputs = clips(2)
    with torch.no_grad():
        for parameter in model.connections.parameters():
            parameter.zero_()
        torch.testing.assert_close(model(inputs)["action"], images(inputs[:, :, -1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "reached"),
    slow_after(
        2,
        [
            ({}, [False, False, False, False, True, True]),
            ({"connections": 2}, [False, False, False, True, True, True]),
            ({"connections": 4}, [False, True, True, True, True, True]),
            ({"delays": (2,)}, [False, False, False, True, False, True]),
            ({"delays": (1, 2)}, [False, False, False, True, True, True]),
        ],
    ),
)
def test_gradients_reach_the_context(images, fields, reached):
    model = with_weights_of(images, STResNetConfig(**fields)).requires_grad_(False)
    inputs = clips(6, count=1).requires_grad_()
    model(inputs)["action"].sum().backward()
    assert inputs.grad.abs().amax(dim=(0, 1, 3, 4)).gt(0).tolist() == reached


def test_parameters_of_the_connections():
    def count(**fields):
        with torch.device("meta"):
            model = build_model(STResNetConfig(**fields), {"action": 101})
        return sum(parameter.numel() for parameter in model.parameters())

    with torch.device("meta"):
        network = resnet50(weights=None, num_classes=101)
    image = sum(parameter.numel() for parameter in network.parameters())
    assert count() == count(connections=4) == count(position="5_11") == image == 23_714_981
    assert count(connection="conv") - image == 2048 * 2048 + 2048
    assert count(connection="conv_relu", position="49_55") - image == 1024 * 1024 + 1024
    assert count(connection="conv", connections=4) - image == sum(
        channels**2 + channels for channels in (64, 1024, 2048, 2048)
    )


def test_batch_norm_groups_contain_the_frames_of_their_clips(images):
    model = with_weights_of(images, STResNetConfig(position="5_11")).train()
    set_batch_norm_group(model, 2)
    set_clip_seeds(model, range(4))
    inputs = clips(2, count=4)
    with torch.no_grad():
        model(inputs)
        frames = images.conv1(inputs.transpose(1, 2).flatten(0, 1))
    first, second = (statistics[0] for statistics in model.backbone.bn1.pending)
    torch.testing.assert_close(first, frames[:4].mean((0, 2, 3)), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(second, frames[4:].mean((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert all(len(norm.pending) == 2 for norm in model.modules() if hasattr(norm, "pending"))


def test_unusable_settings_name_the_key():
    for overrides, code, key in [
        (["model.connections=4", "data.frames=4"], "wrong_shape", "data.frames"),
        (["model.delays=1,2", "data.frames=2"], "wrong_shape", "data.frames"),
        (["model.connections=3", "model.position=49_55"], "bad_value", "model"),
        (["model.position=48_54"], "bad_value", "model.position"),
        (["model.delays=3"], "bad_value", "model.delays"),
    ]:
        with pytest.raises(ConfigError) as error:
            apply_overrides(Experiment(), ["model.type=st_resnet", *overrides])
        assert (error.value.code, error.value.key) == (code, key)
