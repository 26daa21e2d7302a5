"""SlowFast against its published numbers and against a second implementation."""

import re

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kineray.config import SlowFastConfig
from kineray.errors import ConfigError
from kineray.models import MODEL_PRESETS, build_model, create_model, list_models, slow_indices

NAMES = [
    "slowfast_r101_8x8",
    "slowfast_r101_nl_16x8",
    "slowfast_r101_nl_8x8",
    "slowfast_r50_4x16",
    "slowfast_r50_8x8",
]


def test_names():
    assert list_models() == NAMES


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("slowfast_r50_4x16", 400, 34_480_216),
        ("slowfast_r50_4x16", 600, 34_941_216),
        ("slowfast_r50_8x8", 400, 34_566_488),
        ("slowfast_r50_8x8", 600, 35_027_488),
        ("slowfast_r101_8x8", 400, 53_774_808),
        ("slowfast_r101_8x8", 600, 54_235_808),
        ("slowfast_r101_nl_8x8", 400, 60_080_088),
        ("slowfast_r101_nl_8x8", 600, 60_541_088),
        ("slowfast_r101_nl_16x8", 400, 60_080_088),
        ("slowfast_r101_nl_16x8", 600, 60_541_088),
        ("slowfast_r101_nl_16x8", 80, 59_342_488),
        ("slowfast_r101_nl_8x8", 80, 59_342_488),
    ],
)
def test_published_parameter_counts(name, classes, parameters):
    with torch.device("meta"):
        model = create_model(name, heads={"action": classes})
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_parameters_by_part():
    with torch.device("meta"):
        model = create_model("slowfast_r50_4x16", heads={"action": 400})
        every_temporal_kernel = create_model("slowfast_r101_8x8", heads={"action": 400}, temporal_blocks=None)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert round(count["fast"] / 1e6, 3) == 0.514
    assert round(count["laterals"] / 1e6, 3) == 0.217
    assert count["head"] == 2305 * 400 - 400 + 400
    assert len(model.state_dict()) == 662
    assert sum(p.numel() for p in every_temporal_kernel.parameters()) == 62_826_968


@pytest.mark.parametrize(
    ("name", "size", "gmacs"),
    [
        ("slowfast_r50_4x16", 256, 36.10),
        ("slowfast_r50_8x8", 256, 65.71),
        ("slowfast_r101_8x8", 256, 106.51),
        ("slowfast_r101_nl_8x8", 256, 114.56),
        ("slowfast_r101_nl_16x8", 256, 229.13),
    ],
)
def test_published_multiply_adds(name, size, gmacs):
    """Convolutions only: what the paper and the model zoo quote. Shapes decide it, so no data is needed."""
    with torch.device("meta"):
        model = create_model(name, heads={"action": 400}).eval()
        clips = torch.empty(1, 3, MODEL_PRESETS[name].frames, size, size)
        with FlopCounterMode(display=False) as counter:
            model(clips)
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions / 2e9 == pytest.approx(gmacs, rel=2e-4)


def test_slow_frames_are_the_published_ones():
    assert slow_indices(32, 4) == (0, 4, 8, 13, 17, 22, 26, 31)
    assert slow_indices(32, 8) == (0, 10, 20, 31)
    assert slow_indices(8, 8) == (0,)
    with pytest.raises(ConfigError, match=r"data\.frames 30 is not a multiple of model\.alpha 8"):
        slow_indices(30, 8)


# --- A second implementation, from the table of the paper and the key names of PySlowFast ---


def pyslowfast_keys(state):
    """Our state dict under the names of PySlowFast's model zoo."""
    parts = {"shortcut.0": "branch1", "shortcut.1": "branch1_bn", "conv_": "branch2.", "theta": "conv_theta"}
    parts |= {"phi": "conv_phi", "g": "conv_g", "out": "conv_out", "norm": "bn"}
    renamed = {}
    for key, value in state.items():
        k = re.sub(r"^laterals\.(\d)", lambda m: f"s{int(m[1]) + 1}_fuse", key)
        k = k.replace("_fuse.conv", "_fuse.conv_f2s").replace("head.linear.action", "head.projection")
        k = re.sub(r"^(slow|fast)\.stem", lambda m: f"s1.pathway{int(m[1] == 'fast')}_stem", k)
        k = re.sub(
            r"^(slow|fast)\.res(\d)\.(block|nonlocal)",
            lambda m: f"s{m[2]}.pathway{int(m[1] == 'fast')}_{'res' if m[3] == 'block' else 'nonlocal'}",
            k,
        )
        k = re.sub(r"\.norm_([abc])\.", r".branch2.\1_bn.", k)
        k = re.sub(r"\.conv_([abc])\.", r".branch2.\1.", k)
        k = re.sub(r"\.(shortcut\.[01]|theta|phi|g|out|norm)\.", lambda m: f".{parts[m[1]]}.", k)
        renamed[k] = value
    assert len(renamed) == len(state)
    return renamed


class Reference:
    """Eval-mode SlowFast, functional: weights by PySlowFast key, structure by Table 1."""

    def __init__(self, weights, alpha):
        self.w = weights
        self.alpha = alpha

    def bn(self, x, key):
        w = self.w
        return F.batch_norm(
            x, w[f"{key}.running_mean"], w[f"{key}.running_var"], w[f"{key}.weight"], w[f"{key}.bias"],
            training=False, eps=1e-5,
        )  # fmt: skip

    def conv(self, x, key, stride=(1, 1, 1)):
        weight = self.w[f"{key}.weight"]
        padding = tuple(k // 2 for k in weight.shape[2:])
        return F.conv3d(x, weight, self.w.get(f"{key}.bias"), stride, padding)

    def stem(self, x, pathway):
        key = f"s1.pathway{pathway}_stem"
        x = F.relu(self.bn(self.conv(x, f"{key}.conv", (1, 2, 2)), f"{key}.bn"))
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def block(self, x, key, stride):
        branch = F.relu(self.bn(self.conv(x, f"{key}.branch2.a"), f"{key}.branch2.a_bn"))
        branch = F.relu(
            self.bn(self.conv(branch, f"{key}.branch2.b", (1, stride, stride)), f"{key}.branch2.b_bn")
        )
        branch = self.bn(self.conv(branch, f"{key}.branch2.c"), f"{key}.branch2.c_bn")
        if f"{key}.branch1.weight" in self.w:
            x = self.bn(self.conv(x, f"{key}.branch1", (1, stride, stride)), f"{key}.branch1_bn")
        return F.relu(x + branch)

    def nonlocal_(self, x, key):
        """As PySlowFast writes it: all pairwise products, divided by their number, times g."""
        pooled = F.max_pool3d(x, (1, 2, 2))
        theta, phi, g = (
            self.conv(source, f"{key}.conv_{name}").flatten(2)
            for name, source in (("theta", x), ("phi", pooled), ("g", pooled))
        )
        pairwise = torch.einsum("nct,ncp->ntp", theta, phi) / phi.shape[2]
        y = torch.einsum("ntg,ncg->nct", pairwise, g).reshape(x.shape[0], -1, *x.shape[2:])
        return x + self.bn(self.conv(y, f"{key}.conv_out"), f"{key}.bn")

    def stage(self, x, stage, pathway):
        block = 0
        while f"s{stage}.pathway{pathway}_res{block}.branch2.a.weight" in self.w:
            stride = 2 if stage > 2 and block == 0 else 1
            x = self.block(x, f"s{stage}.pathway{pathway}_res{block}", stride)
            key = f"s{stage}.pathway{pathway}_nonlocal{block}"
            if f"{key}.conv_theta.weight" in self.w:
                x = self.nonlocal_(x, key)
            block += 1
        return x

    def fuse(self, slow, fast, stage):
        key = f"s{stage}_fuse"
        return torch.cat(
            [slow, F.relu(self.bn(self.conv(fast, f"{key}.conv_f2s", (self.alpha, 1, 1)), f"{key}.bn"))], 1
        )

    def probabilities(self, clips, pool):
        frames = clips.shape[2]
        picked = torch.linspace(0, frames - 1, frames // self.alpha).long()
        slow, fast = self.stem(clips[:, :, picked], 0), self.stem(clips, 1)
        for stage in (2, 3, 4, 5):
            slow = self.fuse(slow, fast, stage - 1)
            slow, fast = self.stage(slow, stage, 0), self.stage(fast, stage, 1)
        pooled = [F.avg_pool3d(x, (x.shape[2], pool, pool), stride=1) for x in (slow, fast)]
        x = torch.cat(pooled, 1).permute(0, 2, 3, 4, 1)
        logits = F.linear(x, self.w["head.projection.weight"], self.w["head.projection.bias"])
        return logits.softmax(4).mean((1, 2, 3))


def randomise(model):
    """No parameter or buffer at a value that would hide it."""
    generator = torch.Generator().manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
        if name.startswith("head.linear") and value.ndim == 2:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05)


@pytest.mark.parametrize("positions", [1, 2])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"width": 16}, id="r50_4x16"),
        pytest.param({"width": 16, "alpha": 4, "fusion_kernel": 7}, id="r50_8x8"),
        pytest.param(
            {
                "width": 8,
                "alpha": 4,
                "stage_blocks": (3, 4, 23, 3),
                "temporal_blocks": (3, 4, 6, 3),
                "nonlocal_blocks": (6, 13, 20),
            },
            id="r101_nl",
        ),
    ],
)
def test_same_function_as_a_second_implementation(config, positions):
    torch.manual_seed(0)
    model = build_model(SlowFastConfig(head_pool=2, **config), {"action": 9}).double().eval()
    randomise(model)
    size = 32 * (2 + positions - 1)
    clips = torch.randn(2, 3, 16, size, size, dtype=torch.float64)
    with torch.no_grad():
        ours = model(clips)["action"]
        theirs = Reference(pyslowfast_keys(model.state_dict()), model.alpha).probabilities(clips, pool=2)
    assert ours.shape == (2, 9)
    assert theirs.std() > 1e-3  # not a constant
    torch.testing.assert_close(ours.softmax(1), theirs, rtol=1e-5, atol=1e-7)


def test_shapes_of_the_model_zoo():
    with torch.device("meta"):
        state = pyslowfast_keys(create_model("slowfast_r101_nl_8x8", {"action": 400}).state_dict())
    shapes = {
        "s1.pathway0_stem.conv.weight": (64, 3, 1, 7, 7),
        "s1.pathway1_stem.conv.weight": (8, 3, 5, 7, 7),
        "s1_fuse.conv_f2s.weight": (16, 8, 5, 1, 1),
        "s2.pathway0_res0.branch2.a.weight": (64, 80, 1, 1, 1),
        "s3.pathway0_res0.branch1.weight": (512, 320, 1, 1, 1),
        "s4.pathway0_res0.branch2.a.weight": (256, 640, 3, 1, 1),
        "s4.pathway0_res5.branch2.a.weight": (256, 1024, 3, 1, 1),
        "s4.pathway0_res6.branch2.a.weight": (256, 1024, 1, 1, 1),
        "s4.pathway1_res6.branch2.a.weight": (32, 128, 1, 1, 1),
        "s4.pathway0_nonlocal13.conv_theta.bias": (512,),
        "s4_fuse.conv_f2s.weight": (256, 128, 5, 1, 1),
        "s5.pathway0_res0.branch2.a.weight": (512, 1280, 3, 1, 1),
        "head.projection.weight": (400, 2304),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


TINY = SlowFastConfig(
    stage_blocks=(1, 1, 1, 1), width=8, alpha=2, beta_inv=4, head_pool=1, dropout=0.5, nonlocal_blocks=(0,)
)


def test_named_heads_share_features_and_return_logits_in_both_modes():
    torch.manual_seed(0)
    model = build_model(TINY.model_copy(update={"dropout": 0.0}), {"verb": 5, "noun": 7})
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        trained = model(clips)
        evaluated = model.eval()(clips)
    assert {name: tuple(x.shape) for name, x in trained.items()} == {"verb": (2, 5), "noun": (2, 7)}
    for logits in (*trained.values(), *evaluated.values()):
        assert not torch.allclose(logits.sum(1), torch.ones(2), atol=1e-3)  # probabilities would sum to 1


@pytest.mark.parametrize("channels", [2, 10])
def test_flow_enters_by_wider_or_narrower_stems(channels):
    """Only the two stem convolutions change; for RGB nothing does."""
    rgb, flow = (build_model(TINY, {"action": 6}, in_channels) for in_channels in (3, channels))
    changed = {
        name for name, value in rgb.state_dict().items() if value.shape != flow.state_dict()[name].shape
    }
    assert changed == {"slow.stem.conv.weight", "fast.stem.conv.weight"}
    assert all(rgb.state_dict()[name].shape[1] == 3 for name in changed)
    assert flow(torch.randn(2, channels, 4, 32, 32))["action"].shape == (2, 6)
    with torch.device("meta"):
        named = create_model("slowfast_r50_4x16", {"action": 400}, in_channels=channels)
    # 64 filters of 1x7x7 and 8 of 5x7x7 for every channel.
    assert sum(p.numel() for p in named.parameters()) == 34_480_216 + (channels - 3) * (64 * 49 + 8 * 245)


def test_several_positions_give_normalised_logits_in_training_too():
    model = build_model(TINY, {"action": 6})
    logits = model(torch.randn(2, 3, 4, 64, 64))["action"]
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2))


def test_new_blocks_start_as_the_identity():
    model = build_model(TINY, {"action": 6})
    block = model.slow.res4.block0
    assert torch.count_nonzero(block.norm_c.weight) == 0
    x = torch.randn(1, 128, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.slow.res4.nonlocal0(x), x)


@pytest.mark.parametrize("heads", [{}, {"action": 0}, {"type": 3}, {"a.b": 3}, {"": 2}])
def test_unusable_heads(heads):
    with pytest.raises(ConfigError, match=r"^heads: "):
        build_model(TINY, heads)


def test_create_model_names_what_is_wrong():
    with pytest.raises(ConfigError, match="did you mean slowfast_r50_4x16"):
        create_model("slowfast_r50_4x61", {"action": 2})
    with pytest.raises(ConfigError, match=r"did you mean model\.dropout"):
        create_model("slowfast_r50_4x16", {"action": 2}, dropuot=0.1)
    with torch.device("meta"):
        assert create_model("slowfast_r50_4x16", {"action": 2}, dropout=0.1).head.dropout.p == 0.1
