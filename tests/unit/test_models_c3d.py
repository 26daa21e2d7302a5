"""C3D against its published numbers and against its table of layers, written a second time."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kineray.config import C3DConfig, DataConfig, Experiment
from kineray.errors import ConfigError
from kineray.models import build_model, create_model, set_clip_seeds

HEADS = {"action": 6}


def test_published_counts():
    """78.4 million parameters with the classes of UCF-101, and 38.5 billion multiply-adds."""
    with torch.device("meta"):
        model = create_model("c3d", {"action": 101}).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 16, 112, 112))
    assert sum(p.numel() for p in model.parameters()) == 78_409_573
    assert counter.get_total_flops() / 2e9 == pytest.approx(38.5, rel=3e-3)


def test_same_function_as_the_table_of_layers():
    torch.manual_seed(0)
    model = build_model(C3DConfig(width=4), HEADS).eval()
    weights = model.state_dict()
    for bias in (value for value in weights.values() if value.ndim == 1):
        bias.uniform_()
    clips = torch.randn(2, 3, 16, 112, 112)
    x = clips
    for layers, depth in ((["1a"], 1), (["2a"], 2), (["3a", "3b"], 2), (["4a", "4b"], 2), (["5a", "5b"], 2)):
        for layer in layers:
            key = f"features.conv{layer}"
            x = F.relu(F.conv3d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], padding=1))
        if layers == ["5a", "5b"]:
            x = F.pad(x, (0, 1, 0, 1))  # 7 x 7 positions to 8 x 8: after a ReLU zeros change no maximum
        x = F.max_pool3d(x, (depth, 2, 2))
    x = x.reshape(2, 4 * 8 * 16)
    for key in ("fc6", "fc7"):
        x = F.relu(x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"])
    expected = x @ weights["head.linear.action.weight"].T + weights["head.linear.action.bias"]
    with torch.no_grad():
        logits = model(clips)["action"]
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the clips are distinguished
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_new_network_distinguishes_clips():
    """There is no normalisation between layers, so the initial weights must keep the scale of features."""
    torch.manual_seed(0)
    model = build_model(C3DConfig(width=8), HEADS).eval()
    units = []
    model.fc7.register_forward_hook(lambda module, inputs, output: units.append(output))
    with torch.no_grad():
        model(torch.randn(2, 3, 16, 112, 112))
    assert 0.1 < units[0].std() < 10
    assert (units[0][0] - units[0][1]).std() > 0.01


def test_dropout_after_both_fully_connected_layers():
    model = build_model(C3DConfig(width=2, dropout=0.5), HEADS).train()
    inputs = []
    model.fc7.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    model.head.linear["action"].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    for layer in (model.fc6, model.fc7):  # so that every unit is on
        torch.nn.init.ones_(layer.bias)
        torch.nn.init.zeros_(layer.weight)
    set_clip_seeds(model, [1, 2])
    model(torch.randn(2, 3, 16, 112, 112))
    for dropped in inputs:
        assert set(dropped.unique().tolist()) == {0.0, 2.0}
        assert 0.35 < (dropped == 0).float().mean() < 0.65


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"frames": 32}, "data.frames"),
        ({"frames": 16, "crop": 224}, "data.crop"),
        ({"frames": 16, "crop": 112, "eval_crop": 128}, "data.eval_crop"),
    ],
)
def test_clips_that_c3d_cannot_take_are_found_before_training(sizes, key):
    with pytest.raises(ConfigError) as error:
        Experiment(data=DataConfig(**sizes), model=C3DConfig())
    assert (error.value.code, error.value.key) == ("wrong_shape", key)
