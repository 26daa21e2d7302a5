"""Two-stream networks: what each stream sees, and how they are fused."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from slow_cases import slow_after
from small_models import SMALL
from torch.nn import functional as F

from kineray.config import (
    Experiment,
    ResNet3dConfig,
    SlowFastConfig,
    STResNetConfig,
    TwoStreamConfig,
    apply_overrides,
    from_yaml,
    to_yaml,
)
from kineray.errors import ConfigError
from kineray.models import (
    build_model,
    checkpoint_activations,
    create_model,
    load_weights,
    model_presets,
    set_clip_seeds,
)
from kineray.models.two_stream import LinearFusion
from kineray.models.weights.inflation import across_modalities

pytestmark = pytest.mark.usefixtures("one_thread")

STREAM = SMALL["slowfast"].config
HEADS = {"verb": 5, "noun": 7}


def network(*, heads=HEADS, channels=5, rgb=STREAM, flow=STREAM, **fields):
    torch.manual_seed(0)
    return build_model(TwoStreamConfig(rgb=rgb, flow=flow, **fields), heads, channels).eval()


def clips(channels=5, count=2):
    return torch.randn(count, channels, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def run(model, inputs):
    with torch.no_grad():
        return model(inputs)


# -- late fusion --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [5, 13])
def test_the_average_is_of_probabilities(channels):
    """arXiv 1406.2199: softmax scores, not logits, are averaged."""
    model, inputs = network(channels=channels), clips(channels)
    fused, rgb, flow = run(model, inputs), run(model.rgb, inputs[:, :3]), run(model.flow, inputs[:, 3:])
    for head in HEADS:
        expected = (rgb[head].double().softmax(1) + flow[head].double().softmax(1)) / 2
        torch.testing.assert_close(fused[head].exp().double(), expected, rtol=1e-5, atol=1e-7)


def test_every_other_architecture_can_be_a_stream():
    model = network(rgb=STResNetConfig(), flow=STREAM)
    logits = run(model, clips())
    assert {name: tuple(values.shape) for name, values in logits.items()} == {
        "verb": (2, 5),
        "noun": (2, 7),
    }


def test_a_linear_fusion_starts_as_the_sum_of_normalised_scores():
    model, inputs = network(fusion="linear"), clips()
    fused, rgb, flow = run(model, inputs), run(model.rgb, inputs[:, :3]), run(model.flow, inputs[:, 3:])
    for head in HEADS:
        scores = [np.exp(stream[head].double().numpy()) for stream in (rgb, flow)]
        unit = [score / np.linalg.norm(score, axis=1, keepdims=True) for score in scores]
        np.testing.assert_allclose(fused[head].numpy(), unit[0] + unit[1], rtol=1e-5)


def test_a_linear_fusion_weighs_both_streams():
    fusion = LinearFusion({"action": 2})
    with torch.no_grad():
        fusion.fuse["action"].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 2.0]]))
    rgb, flow = {"action": torch.tensor([[9.0, 0.0]])}, {"action": torch.tensor([[0.0, 9.0]])}
    torch.testing.assert_close(fusion(rgb, flow)["action"], torch.tensor([[1.0, 2.0]]), rtol=1e-3, atol=0)


def test_auxiliary_classifiers_are_averaged_where_both_streams_have_them():
    fusion = LinearFusion({"action": 2})
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    fused = fusion({"action": one, "aux.action": one}, {"action": other, "aux.action": other})
    expected = (one.softmax(1) + other.softmax(1)) / 2
    torch.testing.assert_close(fused["aux.action"].exp(), expected)


def test_a_fusion_of_other_classes_is_new(tmp_path):
    four = build_model(TwoStreamConfig(rgb=STREAM, flow=STREAM, fusion="linear"), {"action": 4}, 5)
    save_file(four.state_dict(), tmp_path / "model.safetensors")
    five = build_model(TwoStreamConfig(rgb=STREAM, flow=STREAM, fusion="linear"), {"action": 5}, 5)
    loaded = load_weights(five, str(tmp_path))
    assert loaded.notes == ("the fusion is new", "head action is new: 5 classes, 4 in the file")
    average = build_model(TwoStreamConfig(rgb=STREAM, flow=STREAM), {"action": 4}, 5)
    save_file(average.state_dict(), tmp_path / "model.safetensors")
    assert load_weights(four, str(tmp_path)).notes == ("the fusion is new",)
    for stream in ("rgb", "flow"):
        new, given = (model.get_submodule(stream).head.state_dict() for model in (four, average))
        assert all(torch.equal(value, given[name]) for name, value in new.items())


@pytest.mark.parametrize("mid", ["backbone.res3", "backbone.res3.block0.conv_a", "backbone.stem.conv"])
def test_a_network_with_mid_fusion_can_checkpoint_its_activations(mid):
    """A layer inside a recomputed block would be fused twice."""
    stream = ResNet3dConfig(stage_blocks=(1, 1, 1, 1), width=8, head_pool=1)
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = build_model(TwoStreamConfig(rgb=stream, flow=stream, mid=mid), {"action": 3}, 5).train()
        if checkpointed:
            assert checkpoint_activations(model) > 4
        model(clips())["action"].square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# -- fusion in the middle -----------------------------------------------------------------------------


def by_hand(model, inputs, layer, fuse):
    """The same logits, from running the RGB stream again with a hook of this test."""
    kept = []
    alone = copy.deepcopy(model)
    for stream in (alone.rgb, alone.flow):
        for module in stream.modules():
            module._forward_hooks.clear()
    alone.flow.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    alone.rgb.get_submodule(layer).register_forward_hook(lambda _m, _i, output: fuse(output, kept[0]))
    flow = run(alone.flow, inputs[:, 3:])
    rgb = run(alone.rgb, inputs[:, :3])
    return {head: torch.log((rgb[head].softmax(1) + flow[head].softmax(1)) / 2) for head in HEADS}


def test_features_of_flow_are_added():
    model, inputs = network(mid="slow.res4"), clips()
    expected = by_hand(model, inputs, "slow.res4", torch.add)
    plain = run(network(), inputs)
    fused = run(model, inputs)
    for head in HEADS:
        torch.testing.assert_close(fused[head], expected[head])
        assert not torch.allclose(fused[head], plain[head])


def test_features_of_flow_are_mixed_in_by_a_convolution():
    model, inputs = network(mid="slow.res4", mid_fusion="conv"), clips()
    starts = run(network(mid="slow.res4"), inputs)
    for head, values in run(model, inputs).items():
        torch.testing.assert_close(values, starts[head])  # as a sum
    with torch.no_grad():
        model.mid.conv.weight.normal_()
        model.mid.conv.bias.normal_()
    weight, bias = model.mid.conv.weight.flatten(1), model.mid.conv.bias

    def fuse(rgb, flow):
        mixed = torch.einsum("oc,bcthw->bothw", weight, torch.cat([rgb, flow], 1))
        return mixed + bias[:, None, None, None]

    expected = by_hand(model, inputs, "slow.res4", fuse)
    for head, values in run(model, inputs).items():
        torch.testing.assert_close(values, expected[head], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_convolution_joins_streams_of_different_widths():
    wide = STREAM.model_copy(update={"width": 16})
    model = network(flow=wide, mid="slow.res5", mid_fusion="conv")
    assert tuple(model.mid.conv.weight.shape) == (256, 768, 1, 1, 1)
    assert torch.isfinite(run(model, clips())["verb"]).all()
    with pytest.raises(ConfigError, match=r"features of \[256, 1, 7, 7\] in model\.rgb") as error:
        network(flow=wide, mid="slow.res5")
    assert (error.value.code, error.value.key) == ("wrong_shape", "model.mid")


def test_streams_that_take_only_one_size_are_fused():
    """C3D: 16 frames of 112 x 112."""
    stream = SMALL["c3d"].config
    with torch.device("meta"):
        model = network(rgb=stream, flow=stream, mid="features", mid_fusion="conv")
        logits = model(torch.empty(2, 5, 16, 112, 112))
    assert logits["verb"].shape == (2, 5)


def test_an_unknown_layer_names_those_that_exist():
    with pytest.raises(ConfigError) as error:
        network(mid="res4")
    assert (error.value.code, error.value.key) == ("unknown_value", "model.mid")
    assert error.value.remedy.startswith("choose from slow.stem, ") and "slow.res4" in error.value.remedy
    with pytest.raises(ConfigError) as error:
        network(rgb=STResNetConfig(), mid="slow.res4")
    assert error.value.remedy == "leave it empty: they have none in common"


def test_a_copy_fuses_its_own_features():
    model, inputs = network(mid="slow.res4"), clips()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.flow.parameters():
            parameter.zero_()
    before = run(model, inputs)
    run(twin, inputs)
    assert all(torch.equal(values, before[head]) for head, values in run(model, inputs).items())
    assert model.mid.flow_features is None and twin.mid.flow_features is None


def test_gradients_of_the_rgb_result_reach_flow_only_through_the_middle():
    for mid, reached in (("", False), ("slow.res4", True)):
        model = network(mid=mid).train()
        set_clip_seeds(model, [0, 1])
        inputs = clips().requires_grad_()
        model.flow(inputs[:, 3:])
        model.rgb(inputs[:, :3])["verb"].square().sum().backward()
        assert bool((inputs.grad[:, 3:] != 0).any()) == reached


# -- weights ------------------------------------------------------------------------------------------


def test_first_layer_from_rgb_to_flow():
    """TSN: each channel of flow gets the mean over RGB. Features of grey frames do not change."""
    weight = torch.randn(8, 3, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    flow = across_modalities(weight, 10)
    assert flow.shape == (8, 10, 1, 7, 7)
    for channel in range(10):
        torch.testing.assert_close(flow[:, channel], weight.sum(1) / 3)
    grey = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    as_rgb = F.conv3d(grey.expand(-1, 3, -1, -1, -1), weight)
    as_three = F.conv3d(grey.expand(-1, 3, -1, -1, -1), across_modalities(weight, 3))
    torch.testing.assert_close(as_three, as_rgb, rtol=1e-4, atol=1e-4)


# -- configuration ------------------------------------------------------------------------------------


def test_overrides_reach_into_the_streams():
    experiment = apply_overrides(
        Experiment(),
        [
            "model.flow.alpha=4",
            "model.rgb.delays=2",
            "model.rgb.connections=2",
            "model.rgb.type=st_resnet",
            "model.type=two_stream",
        ],
    )
    assert experiment.model == TwoStreamConfig(
        rgb=STResNetConfig(connections=2, delays=(2,)), flow=SlowFastConfig(alpha=4)
    )
    assert from_yaml(to_yaml(experiment)) == experiment
    partial = from_yaml("model: {type: two_stream, flow: {type: st_resnet, delays: [2]}}")
    assert partial.model == TwoStreamConfig(flow=STResNetConfig(delays=(2,)))


@pytest.mark.parametrize(
    ("overrides", "code", "key"),
    [
        (["model.rgb.type=two_stream"], "bad_value", "model"),
        (["model.rgb.delays=2"], "wrong_variant", "model.rgb.delays"),
        (["model.flow.alpha=0"], "bad_value", "model.flow.alpha"),
        (["model.flow.alpha=5"], "wrong_shape", "data.frames"),
        (["model.rgb.alhpa=4"], "unknown_key", "model.rgb.alhpa"),
        (["model.fusion=max"], "bad_value", "model.fusion"),
    ],
)
def test_unusable_settings_name_the_key(overrides, code, key):
    with pytest.raises(ConfigError) as error:
        apply_overrides(Experiment(), ["model.type=two_stream", *overrides])
    assert (error.value.code, error.value.key) == (code, key)


def test_clips_without_flow_are_refused():
    with pytest.raises(ConfigError) as error:
        network(channels=3)
    assert (error.value.code, error.value.key) == ("wrong_shape", "data.modality")


def test_clips_that_a_stream_cannot_take_name_the_key_of_that_stream():
    with pytest.raises(ConfigError, match=r"data\.frames=6: not a multiple of model\.flow\.alpha 4$"):
        TwoStreamConfig(rgb=STREAM, flow=STREAM.model_copy(update={"alpha": 4})).check_clip(6, 32, 32)


@pytest.mark.parametrize("name", slow_after(1, ["i3d_inception", "slowfast_r50_4x16", "r2plus1d_34"]))
def test_a_preset_is_another_one_twice(name):
    preset, single = model_presets()[f"two_stream_{name}"], model_presets()[name]
    assert preset.config.rgb == preset.config.flow == single.config
    assert (preset.frames, preset.stride, preset.side) == (single.frames, single.stride, single.side)
    with torch.device("meta"):
        both = create_model(f"two_stream_{name}", {"action": 400}, in_channels=5)
        rgb, flow = (create_model(name, {"action": 400}, in_channels=n) for n in (3, 2))
    count = [sum(parameter.numel() for parameter in model.parameters()) for model in (both, rgb, flow)]
    assert count[0] == count[1] + count[2]
