"""Properties that every model has, whatever its architecture."""

import copy
import functools

import pytest
import torch
from small_models import SMALL, every_architecture

from kineray.config import FrameConfig, GruConfig, ModelSection, SlowFastConfig, TwoStreamConfig, variants
from kineray.errors import ConfigError
from kineray.models import (
    AUXILIARY,
    build_model,
    commit_batch_norm,
    create_model,
    set_batch_norm_group,
    set_clip_seeds,
)

HEADS = {"verb": 5, "noun": 7}

pytestmark = pytest.mark.usefixtures("one_thread")


def built(small, in_channels=None, seed=0, heads=HEADS):
    torch.manual_seed(seed)
    return build_model(small.config, heads, in_channels or small.channels)


# Cached, because initialising takes longer than running; a test that changes the network copies it.
network = functools.cache(built)
another = functools.cache(functools.partial(built, seed=1))


def clips(small, count, channels=None, shape=None, seed=0):
    size = (count, channels or small.channels, *(shape or (small.frames, small.side, small.side)))
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def run(model, inputs):
    with torch.no_grad():
        return model(inputs)


# -- published models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "key"),
    [
        ({"heads": {}}, "empty", "heads"),
        ({"heads": ["action"]}, "empty", "heads"),
        ({"heads": {1: 4}}, "bad_name", "heads"),
        ({"heads": {"action": "400"}}, "out_of_range", "heads"),
        ({"in_channels": 0}, "out_of_range", "in_channels"),
        ({"in_channels": "3"}, "out_of_range", "in_channels"),
        ({"type": ["s3d"]}, "unknown_variant", "model.type"),
        ({"alfa": 4}, "unknown_key", "model.alfa"),
        ({"width": 0}, "bad_value", "model.width"),
        ({"rgb": SlowFastConfig()}, "wrong_variant", "model.rgb.type"),
    ],
)
def test_unusable_arguments_name_the_key(arguments, code, key):
    with pytest.raises(ConfigError) as error, torch.device("meta"):
        create_model("slowfast_r50_8x8", **{"heads": HEADS, **arguments})
    assert (error.value.code, error.value.key) == (code, key)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("temporal", [GruConfig(units=9), {"type": "gru", "units": 9}])
def test_a_part_of_the_configuration_is_an_argument(temporal):
    with torch.device("meta"):
        model = create_model("resnet50_average", HEADS, temporal=temporal)
    assert model.config.temporal == GruConfig(units=9)


def test_fields_are_not_tied_to_the_clips_of_the_preset():
    """Its 32 frames are not a multiple of 6."""
    with torch.device("meta"):
        assert create_model("slowfast_r50_4x16", HEADS, alpha=6).config.alpha == 6


def test_a_backbone_that_is_frozen_with_random_weights_is_reported(caplog):
    with torch.device("meta"):
        create_model("mobilenet_v2_lstm", HEADS)
    assert "backbone has random weights and is frozen; model.init=torchvision:NAME" in caplog.text


def test_a_frozen_backbone_inside_a_two_stream_network_is_reported(caplog):
    frozen = FrameConfig(backbone="resnet18", frozen=True)
    with torch.device("meta"):
        create_model("two_stream_i3d_inception", HEADS, rgb=frozen)
    assert "rgb.backbone has random weights and is frozen; model.rgb.init=torchvision:NAME" in caplog.text
    assert "flow" not in caplog.text


def test_parts_that_are_frozen_at_random_are_found_at_any_depth():
    frozen = FrameConfig(frozen=True)
    assert TwoStreamConfig(rgb=frozen, flow=FrameConfig()).frozen_at_random() == {"rgb.backbone": "rgb.init"}
    with_weights = frozen.model_copy(update={"init": "torchvision:resnet50"})
    streams = TwoStreamConfig(rgb=with_weights, flow=frozen)
    assert streams.frozen_at_random() == {"flow.backbone": "flow.init"}
    assert streams.inits() == {"rgb": "torchvision:resnet50"}
    assert TwoStreamConfig(rgb=frozen, init="checkpoint").frozen_at_random() == {}
    assert SlowFastConfig().frozen_at_random() == FrameConfig().frozen_at_random() == {}


# -- architectures ------------------------------------------------------------------------------------


def test_every_architecture_has_a_small_network():
    assert {type(small.config) for small in SMALL.values()} == set(variants(ModelSection).values())


@every_architecture
def test_trains_and_evaluates(small):
    model = copy.deepcopy(network(small)).train()
    set_batch_norm_group(model, 2)
    logits = model(clips(small, 4))
    assert {name for name in logits if not name.startswith(AUXILIARY)} == set(HEADS)
    for name, values in logits.items():
        assert values.shape == (4, HEADS[name.removeprefix(AUXILIARY)])
        assert torch.isfinite(values).all()
    torch.stack([values.square().sum() for values in logits.values()]).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        else:
            assert parameter.grad is None, name
    commit_batch_norm(model)
    one = run(model.eval(), clips(small, 1))
    assert {name: tuple(values.shape) for name, values in one.items()} == {
        name: (1, classes) for name, classes in HEADS.items()
    }


@every_architecture
def test_a_clip_is_classified_whatever_is_beside_it(small):
    model = network(small).eval()
    inputs = clips(small, 3)
    together = run(model, inputs)
    for number in range(3):
        alone = run(model, inputs[number : number + 1])
        for head in HEADS:
            torch.testing.assert_close(alone[head][0], together[head][number], rtol=1e-4, atol=1e-5)


@every_architecture
def test_training_does_not_depend_on_the_micro_batch(small):
    """Batch norms over groups, dropout by clip: see ``GhostBatchNorm`` and ``ClipDropout``.

    In double precision: batch norms over two values turn the rounding of a convolution into anything.
    """
    results = []
    for size in (2, 4):
        model = copy.deepcopy(network(small)).train().double()
        set_batch_norm_group(model, 2)
        inputs, outputs = clips(small, 4).double(), []
        for first in range(0, 4, size):
            set_clip_seeds(model, list(range(first, first + size)))
            outputs.append(run(model, inputs[first : first + size]))
        commit_batch_norm(model)
        logits = {name: torch.cat([part[name] for part in outputs]) for name in outputs[0]}
        results.append((logits, model.state_dict()))
    for one, other in zip(*results, strict=True):
        for name, values in one.items():
            torch.testing.assert_close(values, other[name], rtol=1e-6, atol=1e-8, msg=name)


@every_architecture
def test_a_seed_decides_the_weights(small):
    one, again, other = (build(small).state_dict() for build in (network, built, another))
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


@every_architecture
def test_weights_go_from_one_network_to_another(small):
    one, other = network(small).eval(), copy.deepcopy(another(small)).eval()
    other.load_state_dict(one.state_dict())
    inputs = clips(small, 2)
    for name, values in run(one, inputs).items():
        assert torch.equal(values, run(other, inputs)[name])


@every_architecture
@pytest.mark.parametrize("channels", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_clips_can_be_flow_instead_of_rgb(small, channels):
    if isinstance(small.config, TwoStreamConfig):
        channels += 3  # flow beside RGB
    logits = run(built(small, channels).eval(), clips(small, 2, channels))
    assert {name: tuple(values.shape) for name, values in logits.items()} == {
        name: (2, classes) for name, classes in HEADS.items()
    }


@every_architecture
def test_clips_of_other_sizes_are_accepted_or_refused_with_the_key(small):
    model = network(small).eval()
    for shape in small.accepted:
        logits = run(model, clips(small, 2, shape=shape))
        assert all(torch.isfinite(values).all() and len(values) == 2 for values in logits.values()), shape
    for shape in small.refused:
        with pytest.raises(ConfigError) as error:
            run(model, clips(small, 2, shape=shape))
        assert error.value.code == "wrong_shape" and error.value.key.startswith("data.")
        assert "\n" not in str(error.value)


@every_architecture
def test_classifiers_are_in_the_head(small):
    """Nothing else depends on the classes. Two-stream networks have classifiers in their streams, too."""
    with torch.device("meta"):
        before = built(small).state_dict()
        after = built(small, heads={**HEADS, "verb": 6}).state_dict()
    names = {name for name in before if ".linear.verb." in name or ".fuse.verb." in name}
    assert any(name.endswith("head.linear.verb.weight") for name in names)
    assert {name for name in before if before[name].shape != after[name].shape} == names
