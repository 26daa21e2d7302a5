"""The temporal subsystems against their equations, with the same weights."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kineray.config import (
    AttentionConfig,
    AttentiveProbeConfig,
    AverageConfig,
    ConsensusConfig,
    Conv1dConfig,
    ConvLstmConfig,
    GruConfig,
    LayersConfig,
    LstmConfig,
    ResidualConfig,
    TimeceptionConfig,
)
from kineray.errors import ConfigError
from kineray.models import commit_batch_norm, set_batch_norm_group
from kineray.models.frame import ConsensusHead
from kineray.models.heads import FeatureHead

CHANNELS = 8


def subsystem(config, channels=CHANNELS):
    """In double precision and evaluation mode, with random values for every parameter and buffer."""
    torch.manual_seed(0)
    module = config.build(channels).double().eval()
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.ndim == 1 and not name.endswith("bias_hh_l0"):
            value.copy_(torch.rand_like(value) + 0.5)
    return module.requires_grad_(False)


def maps(frames=5, height=4, width=4, channels=CHANNELS, clips=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(clips, frames, channels, height, width, generator=generator, dtype=torch.float64)


def same(ours, expected):
    assert ours.shape == expected.shape
    assert np.std(np.asarray(expected)) > 1e-4
    np.testing.assert_allclose(ours.numpy(), np.asarray(expected), rtol=1e-8, atol=1e-10)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def batch_norm(x, w, name):
    """Evaluation of a batch norm over axis 1."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance, scale, shift = (
        w[f"{name}.{part}"].reshape(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def test_average():
    x = maps()
    same(subsystem(AverageConfig())(x), x.numpy().mean((1, 3, 4)))


def test_average_with_z_scores_per_frame():
    x = maps() * 30
    features = x.numpy().mean((3, 4))
    z = (features - features.mean(2, keepdims=True)) / np.sqrt(features.var(2, keepdims=True) + 1e-5)
    same(subsystem(AverageConfig(z_norm="per_frame"))(x), z.mean(1))
    assert abs(z.mean()) < 1e-10 and abs(z.std() - 1) < 1e-3


def test_average_with_z_scores_per_dimension():
    """In training those of a group's clips and all their frames, in evaluation those seen in training."""
    module = AverageConfig(z_norm="per_dimension").build(CHANNELS)
    assert not list(module.parameters())  # neither scale nor shift
    x = maps(clips=4).float() * torch.arange(1, CHANNELS + 1).view(-1, 1, 1) + 7
    features = x.mean((3, 4))

    def z_scores(of, seen):
        return ((of - seen.mean((0, 1))) / (seen.var((0, 1), correction=0) + 1e-5).sqrt()).mean(1)

    set_batch_norm_group(module, 2)
    expected = torch.cat([z_scores(half, half) for half in features.split(2)])
    torch.testing.assert_close(module.train()(x), expected, rtol=1e-4, atol=1e-5)

    for _ in range(200):  # the running statistics approach those of the data
        commit_batch_norm(module)
        module(x)
    norm = module.z_norm.norm
    torch.testing.assert_close(norm.running_mean, features.mean((0, 1)), rtol=1e-4, atol=1e-5)
    expected = ((features - norm.running_mean) / (norm.running_var + 1e-5).sqrt()).mean(1)
    torch.testing.assert_close(module.eval()(x), expected, rtol=1e-4, atol=1e-5)
    assert (module(x) - z_scores(features, features)).abs().max() < 0.3  # the variance is that inside groups


def test_in_evaluation_z_scores_per_dimension_do_not_depend_on_other_clips():
    module = subsystem(GruConfig(units=3, z_norm="per_dimension"))
    x = maps()
    torch.testing.assert_close(module(x)[:1], module(x[:1]))


def test_lstm():
    module, x = subsystem(LstmConfig(units=3)), maps()
    w = weights(module)
    h = c = np.zeros((2, 3))
    for features in x.numpy().mean((3, 4)).swapaxes(0, 1):
        gates = features @ w["lstm.weight_ih_l0"].T + h @ w["lstm.weight_hh_l0"].T + w["lstm.bias_ih_l0"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    same(module(x), batch_norm(h, w, "norm"))


def test_lstm_trains_one_bias_and_starts_with_open_forget_gates():
    module = LstmConfig(units=3).build(CHANNELS)
    assert sum(p.numel() for p in module.lstm.parameters() if p.requires_grad) == 4 * 3 * (CHANNELS + 3 + 1)
    assert torch.equal(module.lstm.bias_ih_l0, torch.tensor([0.0] * 3 + [1.0] * 3 + [0.0] * 6))
    assert torch.count_nonzero(module.lstm.bias_hh_l0) == 0
    assert not module.lstm.bias_hh_l0.requires_grad


@pytest.mark.parametrize("z_norm", ["none", "per_frame", "per_dimension"])
def test_gru(z_norm):
    module, x = subsystem(GruConfig(units=3, z_norm=z_norm)), maps()
    w = weights(module)
    sequence = x.numpy().mean((3, 4))
    if z_norm == "per_dimension":
        mean, variance = (w[f"z_norm.norm.{part}"] for part in ("running_mean", "running_var"))
        sequence = (sequence - mean) / np.sqrt(variance + 1e-5)
    if z_norm == "per_frame":
        centred = sequence - sequence.mean(2, keepdims=True)
        sequence = centred / np.sqrt(centred.var(2, keepdims=True) + 1e-5)
    h = np.zeros((2, 3))
    for features in sequence.swapaxes(0, 1):
        xr, xz, xn = np.split(features @ w["gru.weight_ih_l0"].T + w["gru.bias_ih_l0"], 3, axis=1)
        hr, hz, hn = np.split(h @ w["gru.weight_hh_l0"].T + w["gru.bias_hh_l0"], 3, axis=1)
        z = sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + sigmoid(xr + hr) * hn) + z * h
    same(module(x), h)


# -- convolutional LSTM: arXiv 1506.04214, equation 3, without W_c ------------------------------------------


def convolve(x, weight, stride=1):
    """[N, C, H, W] * [F, C, k, k], with zeros around as TensorFlow's "same" has them.

    They make ceil(H / stride) windows of the map; the smaller half of them is before it.
    """
    kernel = weight.shape[2]
    pads = []
    for side in x.shape[2:]:
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    rows = range(0, x.shape[2] - kernel + 1, stride)
    columns = range(0, x.shape[3] - kernel + 1, stride)
    out = np.zeros((x.shape[0], weight.shape[0], len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            patch = x[:, :, row : row + kernel, column : column + kernel]
            out[:, :, i, j] = np.einsum("nchw,fchw->nf", patch, weight)
    return out


def conv_lstm_step(x, h, c, w, stride=1):
    wx, b = np.split(w["cell.input.weight"], 4), np.split(w["cell.input.bias"], 4)
    wh = np.split(w["cell.recurrent.weight"], 4)
    gates = [convolve(x, wx[k], stride) + convolve(h, wh[k]) + b[k][:, None, None] for k in range(4)]
    i, f, o = sigmoid(gates[0]), sigmoid(gates[1]), sigmoid(gates[3])
    c = f * c + i * np.tanh(gates[2])
    return o * np.tanh(c), c


@pytest.mark.parametrize(
    ("config", "size", "state"),
    [
        (ConvLstmConfig(filters=3), (8, 8), (2, 2)),
        (ConvLstmConfig(filters=3), (7, 9), (2, 3)),
        (ConvLstmConfig(filters=3, kernel=3, stride=2), (3, 1), (2, 1)),
        (ConvLstmConfig(filters=3, kernel=3, stride=1, norm=False, dense=5), (4, 3), (4, 3)),
    ],
)
def test_conv_lstm(config, size, state):
    module, x = subsystem(config), maps(frames=3, height=size[0], width=size[1])
    w = weights(module)
    h = c = np.zeros((2, 3, *state))
    for frame in x.numpy().swapaxes(0, 1):
        h, c = conv_lstm_step(frame, h, c, w, config.stride)
    if config.norm:
        h = batch_norm(h, w, "norm")
    features = h.max((2, 3))
    if config.dense:
        features = np.maximum(features @ w["dense.0.weight"].T + w["dense.0.bias"], 0)
    same(module(x), features)


def test_attention():
    module, x = subsystem(AttentionConfig(filters=3)), maps(frames=3, height=4, width=5)
    w = weights(module)
    h = c = np.zeros((2, 3, 4, 5))
    for frame in x.numpy().swapaxes(0, 1):
        scores = convolve(frame, w["look.weight"]) + convolve(h, w["recall.weight"])
        share = np.exp(scores) / np.exp(scores).sum((2, 3), keepdims=True)
        h, c = conv_lstm_step(frame * share * 20, h, c, w)
    same(module(x), c.mean((2, 3)))


def test_attention_looks_where_it_was_taught_to():
    """One channel decides the attention; the others are read at that position and nowhere else."""
    module = subsystem(AttentionConfig(filters=3))
    module.look.weight.zero_()
    module.look.weight[0, 0] = 50.0
    module.recall.weight.zero_()
    frame = torch.zeros(1, CHANNELS, 4, 4, dtype=torch.float64)
    frame[0, 0, 2, 1] = 1.0
    shares = module.weights(frame, torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    assert shares[0, 0, 2, 1] == pytest.approx(16) and shares.sum() == pytest.approx(16)


# -- attentive probe ----------------------------------------------------------------------------------------


def sines(position, channels):
    """arXiv 1706.03762, section 3.5, with all sines before all cosines."""
    angles = [position / 10_000 ** (2 * i / channels) for i in range(channels // 2)]
    return [*np.sin(angles), *np.cos(angles)]


@pytest.mark.parametrize(("frames", "height", "width", "queries"), [(3, 4, 5, 2), (1, 1, 1, 1), (9, 2, 1, 1)])
@pytest.mark.parametrize("tokens", ["positions", "frames"])
def test_attentive_probe(tokens, frames, height, width, queries):
    """With torch's multi-head attention, of one list of tokens after the other."""
    config = AttentiveProbeConfig(tokens=tokens, width=16, attention_heads=4, queries=queries)
    module, x = subsystem(config), maps(frames, height, width)
    w = module.state_dict()
    attention = nn.MultiheadAttention(16, 4, batch_first=True).double().eval().requires_grad_(False)
    attention.in_proj_weight.copy_(torch.cat([w["query.weight"], w["key_value.weight"]]))
    attention.in_proj_bias.copy_(torch.cat([w["query.bias"], w["key_value.bias"]]))
    attention.out_proj.load_state_dict({name: w[f"project.{name}"] for name in ("weight", "bias")})

    def norm(values, name):
        return F.layer_norm(values, values.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(values, name):
        return values @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    expected = []
    for clip in x if tokens == "positions" else x.mean((3, 4), keepdim=True):
        listed, codes = [], []
        for t, frame in enumerate(clip):
            for i in range(frame.shape[1]):
                for j in range(frame.shape[2]):
                    listed.append(frame[:, i, j])
                    codes.append([*sines(t, 8), *sines(i, 4), *sines(j, 4)])
        embedded = linear(norm(torch.stack(listed), "embed.0"), "embed.1") + torch.tensor(
            codes, dtype=torch.float64
        )
        keys, q = norm(embedded, "norm_tokens")[None], w["queries"][None]
        q = q + attention(q, keys, keys)[0]
        q = q + linear(F.gelu(linear(norm(q, "mlp.0"), "mlp.1")), "mlp.3")
        expected.append(norm(q, "norm").flatten())
    assert module.features == 16 * queries
    same(module(x), torch.stack(expected))


def test_an_attentive_probe_sees_the_order_of_frames_and_where_things_are():
    module, x = subsystem(AttentiveProbeConfig(width=16, attention_heads=4)), maps(frames=4)
    module.query.weight.normal_()  # a new probe attends to everything alike
    module.key_value.weight.normal_()
    for dimension in (1, 3, 4):
        assert (module(x) - module(x.flip(dimension))).abs().max() > 1e-3


@pytest.mark.parametrize("width", [12, 40])
def test_the_width_of_an_attentive_probe_must_be_a_multiple_of_8_and_of_its_heads(width):
    with pytest.raises(ConfigError) as error:
        AttentiveProbeConfig(width=width, attention_heads=12)
    assert error.value.code == "bad_value"


# -- convolutions in time -----------------------------------------------------------------------------------


def test_conv1d():
    module, x = subsystem(Conv1dConfig()), maps(frames=20)
    w = module.state_dict()
    features, layer = x.mean((3, 4)).transpose(1, 2), 0

    def convolution(values):
        nonlocal layer
        values = F.conv1d(values, w[f"layers.{layer}.weight"], w[f"layers.{layer}.bias"])
        values = torch.from_numpy(batch_norm(values.numpy(), weights(module), f"layers.{layer + 1}"))
        layer += 2
        return values

    for _ in range(4):
        features = F.leaky_relu(convolution(convolution(features)), 0.01)
        layer += 1
    features = F.leaky_relu(convolution(features), 0.01)
    assert features.shape == (2, 100, 1)
    same(module(x), features[:, :, 0])


def test_residual():
    module, x = subsystem(ResidualConfig(width=3, kernel=5)), maps(frames=7)
    w = weights(module)
    features = x.mean((3, 4)).transpose(1, 2)

    def branch(values, letter):
        values = F.conv1d(values, module.state_dict()[f"conv_{letter}.weight"], padding=2)
        return torch.from_numpy(batch_norm(values.numpy(), w, f"norm_{letter}"))

    expected = (features + branch(branch(features, "a").clamp(min=0), "b")).clamp(min=0).mean(2)
    same(module(x), expected)


def test_a_new_residual_block_averages():
    x = maps().abs()
    module = ResidualConfig(width=3).build(CHANNELS).double().eval()
    torch.testing.assert_close(module(x), x.mean((1, 3, 4)))


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("frames", [8, 7])
def test_timeception(dilated, frames):
    """Group by group and branch by branch."""
    groups, channels = 2, 16
    config = TimeceptionConfig(layers=2, groups=groups, dilated=dilated)
    module, x = subsystem(config, channels), maps(frames, 2, 3, channels)
    features = x.transpose(1, 2)
    for number, expected_channels in ((0, 20), (1, 20)):
        w = {k.removeprefix(f"layers.{number}."): v for k, v in module.state_dict().items()}
        width = features.shape[1] // (4 * groups)
        reduce = w["reduce.weight"].chunk(groups)
        outputs = []
        for group, part in enumerate(features.chunk(groups, dim=1)):
            reduced = [F.conv3d(part, kernel) for kernel in reduce[group].split(width)]
            branches = [reduced[0]]
            for scale in range(3):
                kernel = w[f"scales.{scale}.weight"][group * width : (group + 1) * width]
                dilation = scale + 1 if dilated else 1
                padding = dilation * (kernel.shape[2] // 2)
                assert kernel.shape[2:] == ((3, 1, 1) if dilated else (3 + 2 * scale, 1, 1))
                branches.append(
                    F.conv3d(
                        reduced[1 + scale], kernel, padding=(padding, 0, 0), dilation=(dilation, 1, 1),
                        groups=width,
                    )
                )  # fmt: skip
            later = torch.cat([reduced[4][:, :, 1:], reduced[4][:, :, -1:]], dim=2)
            outputs.append(torch.cat([*branches, torch.maximum(reduced[4], later)], dim=1))
        together = torch.cat(outputs, dim=1)
        assert together.shape[1] == expected_channels
        numbers = {name: value.numpy() for name, value in w.items()}
        together = torch.from_numpy(batch_norm(together.numpy(), numbers, "norm")).clamp(min=0)
        order = [
            g * expected_channels // groups + k
            for k in range(expected_channels // groups)
            for g in range(groups)
        ]
        shuffled = together[:, order]
        half = shuffled.shape[2] // 2
        features = torch.maximum(shuffled[:, :, 0 : 2 * half : 2], shuffled[:, :, 1 : 2 * half : 2])
    same(module(x), features.mean((2, 3, 4)))


def test_timeception_widens_by_a_quarter():
    with torch.device("meta"):
        widths = [TimeceptionConfig(layers=n).build(1024).features for n in (1, 2, 3, 4)]
    assert widths == [1280, 1600, 2000, 2480]


# -- consensus ----------------------------------------------------------------------------------------------


def test_consensus_averages_the_logits_of_frames():
    torch.manual_seed(0)
    x = maps()
    head = ConsensusHead(CHANNELS, {"action": 3}, dropout=0.5).double().eval().requires_grad_(False)
    features = subsystem(ConsensusConfig())(x)
    frames = [head.linear["action"](x[:, t].mean((2, 3))) for t in range(5)]
    same(head(features)["action"], torch.stack(frames).mean(0))
    # In evaluation, with linear classifiers, that is the classification of the average features.
    average = FeatureHead(CHANNELS, {"action": 3}, dropout=0.5).double().eval()
    average.load_state_dict(head.state_dict())
    same(head(features)["action"], average(x.mean((1, 3, 4)))["action"].detach())


def test_in_training_every_frame_of_a_consensus_has_a_different_dropout_mask():
    values = {}
    for kind, features in ((FeatureHead, torch.ones(1, 64)), (ConsensusHead, torch.ones(1, 4, 64))):
        head = kind(64, {"action": 64}, dropout=0.5).train().requires_grad_(False)
        head.linear["action"].weight.copy_(torch.eye(64))
        head.linear["action"].bias.zero_()
        head.dropout.clip_seeds = [5]
        values[kind] = set(head(features)["action"].flatten().tolist())
    assert values[FeatureHead] == {0.0, 2.0}
    assert {0.5, 1.0, 1.5} <= values[ConsensusHead]


def test_layers_are_their_equations_one_after_the_other():
    kinds = ("conv", "dilated_conv", "residual", "gru", "attention", "pool")
    fields = {f"layer_{n}": kind for n, kind in enumerate(kinds, 1)} | {"kernel_1": 5, "kernel_3": 5}
    module = subsystem(LayersConfig(width=8, **fields))
    w, x = weights(module), maps(frames=7).numpy().mean((3, 4)).transpose(0, 2, 1)
    x = np.einsum("oc,bct->bot", w["project.weight"][..., 0], x) + w["project.bias"][:, None]

    def conv(x, n, dilation):
        kernel = w[f"layers.{n}.conv.weight"]
        half = dilation * (kernel.shape[2] // 2)
        padded = np.pad(x, ((0, 0), (0, 0), (half, half)))
        taps = [padded[:, :, i * dilation :][:, :, : x.shape[2]] for i in range(kernel.shape[2])]
        convolved = sum(np.einsum("oc,bct->bot", kernel[..., i], tap) for i, tap in enumerate(taps))
        return batch_norm(convolved, w, f"layers.{n}.norm")

    x = np.maximum(conv(x, 0, 1), 0)
    x = np.maximum(conv(x, 1, 2), 0)
    x = np.maximum(x + conv(x, 2, 1), 0)
    with torch.no_grad():
        gru = module.layers[3].gru
        x = gru(torch.from_numpy(x.transpose(0, 2, 1)))[0].numpy()  # tested with the subsystem gru
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = y * w["layers.4.norm.weight"] + w["layers.4.norm.bias"]
    q, k, v = np.split(y @ w["layers.4.qkv.weight"].T + w["layers.4.qkv.bias"], 3, axis=2)
    attended = []
    for head in range(4):
        part = slice(head * 2, head * 2 + 2)
        scores = np.exp(np.einsum("btd,bsd->bts", q[..., part], k[..., part]) / np.sqrt(2))
        attended.append(np.einsum("bts,bsd->btd", scores / scores.sum(2, keepdims=True), v[..., part]))
    x = x + np.concatenate(attended, 2) @ w["layers.4.out.weight"].T + w["layers.4.out.bias"]
    pooled = [x[:, i : i + 2].max(1) for i in range(0, 7, 2)]
    same(module(maps(frames=7)), np.mean(pooled, 0))


def test_layers_that_are_left_out_do_not_exist():
    assert [*LayersConfig(layer_1="none", layer_3="gru").layers] == [("gru", 3)]
    assert len(subsystem(LayersConfig(layer_1="none")).layers) == 0
    with pytest.raises(ConfigError):
        LayersConfig(width=6, layer_2="attention")
