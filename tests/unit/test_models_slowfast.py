"""SlowFast against its published numbers and against other implementations."""

import itertools
import re

import pytest
import torch
from published_numbers import multiply_adds, size
from pytorchvideo_names import as_pytorchvideo, randomise
from slow_cases import slow_after
from torch.nn import functional as F

from kineray.config import SlowFastConfig
from kineray.errors import ConfigError
from kineray.models import build_model, create_model, slow_indices
from kineray.models.blocks import BasicBlock, R2Plus1dBlock


@pytest.mark.parametrize(
    ("name", "of_400", "of_600", "gmacs"),
    slow_after(
        1,
        [
            ("slowfast_r50_4x16", 34_480_216, 34_941_216, 36.10),
            ("slowfast_r50_8x8", 34_566_488, 35_027_488, 65.71),
            ("slowfast_nl_r50_8x8", 41_838_680, 42_299_680, None),
            ("slowfast_r101_8x8", 53_774_808, 54_235_808, 106.51),
            ("slowfast_r101_16x8", 53_774_808, 54_235_808, 213.02),
            ("slowfast_r101_50_101_8x8", 53_914_072, 54_375_072, None),
            ("slowfast_r101_101_101_8x8", 62_826_968, 63_287_968, 125.90),
            ("slowfast_nl_r101_8x8", 60_080_088, 60_541_088, 114.56),
            ("slowfast_nl_r101_16x8", 60_080_088, 60_541_088, 229.13),
            # Not published, but meant to cost far less than the others.
            ("slowfast_shallow_4x16", 9_414_424, 9_529_824, 10.646),
            ("slowfast_thin_4x16", 5_509_444, 5_567_244, 5.7005),
        ],
    ),
)
def test_published_numbers(name, of_400, of_600, gmacs):
    """Parameters with 400 and 600 classes, multiply-adds of the convolutions for a view of 256 x 256."""
    with torch.device("meta"):
        model = create_model(name, heads={"k400": 400, "k600": 600, "ava": 80}).eval()
        heads = {head: size(linear) for head, linear in model.head.linear.items()}
        body = size(model) - sum(heads.values())
        assert (body + heads["k400"], body + heads["k600"]) == (of_400, of_600)
        if "r101_nl" in name:
            assert body + heads["ava"] == 59_342_488
        if gmacs:
            assert multiply_adds(model, name) == pytest.approx(gmacs, rel=2e-4)


def test_parameters_by_part():
    with torch.device("meta"):
        model = create_model("slowfast_r50_4x16", heads={"action": 400})
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert round(count["fast"] / 1e6, 3) == 0.514
    assert round(count["laterals"] / 1e6, 3) == 0.217
    assert count["head"] == 2305 * 400 - 400 + 400
    assert len(model.state_dict()) == 662


def test_slow_frames_are_the_published_ones():
    assert slow_indices(32, 4) == (0, 4, 8, 13, 17, 22, 26, 31)
    assert slow_indices(32, 8) == (0, 10, 20, 31)
    assert slow_indices(8, 8) == (0,)
    for frames, alpha in itertools.product((8, 16, 32, 64, 128), (1, 2, 4, 8)):
        linspace = torch.linspace(0, frames - 1, frames // alpha).long()
        assert slow_indices(frames, alpha) == tuple(linspace.tolist())
    with pytest.raises(ConfigError) as error:
        slow_indices(30, 8)
    assert (error.value.code, error.value.key) == ("wrong_shape", "data.frames")


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


@pytest.mark.parametrize("positions", slow_after(1, [1, 2]))
@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"width": 8}, id="r50_4x16"),
        pytest.param({"width": 8, "alpha": 4, "fusion_kernel": 7}, id="r50_8x8", marks=pytest.mark.slow),
        pytest.param(
            {
                "width": 8,
                "alpha": 4,
                "stage_blocks": (3, 4, 23, 3),
                "temporal_blocks_slow": (3, 4, 6, 3),
                "temporal_blocks_fast": (3, 4, 23, 3),
                "nonlocal_res3": (1, 3),
                "nonlocal_res4": (6, 13, 20),
            },
            id="r101_nl",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_same_function_as_a_second_implementation(config, positions):
    torch.manual_seed(0)
    model = build_model(SlowFastConfig(head_pool=2, **config), {"action": 9}).double()
    size = 32 * (2 + positions - 1)
    clips = torch.randn(2, 3, 16, size, size, dtype=torch.float64)
    randomise(model, clips)
    with torch.no_grad():
        ours = model(clips)["action"]
        reference = Reference(pyslowfast_keys(model.state_dict()), model.config.alpha)
        theirs = reference.probabilities(clips, pool=2)
    assert ours.shape == (2, 9)
    assert theirs.std() > 1e-3  # not a constant
    torch.testing.assert_close(ours.softmax(1), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("depth", "config", "ratio", "kernel", "alpha"),
    [
        pytest.param(18, {"stage_blocks": (1, 1, 1, 1), "width": 8, "beta_inv": 4}, 4, 5, 2, id="one block"),
        pytest.param(50, {"width": 8}, 8, 7, 4, id="r50", marks=pytest.mark.slow),
    ],
)
def test_same_logits_as_pytorchvideo(depth, config, ratio, kernel, alpha):
    from pytorchvideo.models.slowfast import create_slowfast

    config = SlowFastConfig(**config, alpha=alpha, fusion_kernel=kernel, head_pool=2)
    ours = build_model(config, {"action": 9}).double()
    clips = torch.randn(2, 3, 16, 64, 64, dtype=torch.float64)
    randomise(ours, clips)
    theirs = create_slowfast(
        slowfast_channel_reduction_ratio=ratio,
        slowfast_fusion_conv_kernel_size=(kernel, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        model_depth=depth,
        model_num_class=9,
        stem_dim_outs=(config.width, config.width // ratio),
        head_pool_kernel_sizes=((16 // alpha, 2, 2), (16, 2, 2)),
    )
    theirs = theirs.double().eval()
    theirs.load_state_dict(as_pytorchvideo(ours.state_dict()))
    slow = clips[:, :, torch.linspace(0, 15, 16 // alpha).long()]
    with torch.no_grad():
        logits = ours(clips)["action"]
        expected = theirs([slow, clips])  # the list is changed, the tensors are not
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "hub_name"),
    slow_after(
        1,
        [
            ("slowfast_r50_8x8", "slowfast_r50"),
            ("slowfast_r101_101_101_8x8", "slowfast_r101"),
            ("slowfast_r101_16x8", "slowfast_16x8_r101_50_50"),
        ],
    ),
)
def test_every_tensor_of_the_pytorchvideo_hub(name, hub_name):
    from pytorchvideo.models import hub

    with torch.device("meta"):
        ours = as_pytorchvideo(create_model(name, {"action": 400}).state_dict())
        theirs = getattr(hub, hub_name)().state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


def test_shapes_of_the_model_zoo():
    with torch.device("meta"):
        state = pyslowfast_keys(create_model("slowfast_nl_r101_8x8", {"action": 400}).state_dict())
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
    stage_blocks=(1, 1, 1, 1), width=8, alpha=2, beta_inv=4, head_pool=1, dropout=0.5, nonlocal_res4=(0,)
)


def test_networks_of_blocks_with_two_convolutions():
    """R18: (time, height, width) of both convolutions, one block of each stage; R(2+1)D: factorised."""
    with torch.device("meta"):
        basic = create_model("slowfast_r18_4x16", {"action": 400})
        factorised = create_model("slowfast_r2plus1d_34_4x16", {"action": 400})
    assert [len(stage) for stage in basic.slow.stages()] == [2, 2, 2, 2]
    assert [len(stage) for stage in factorised.fast.stages()] == [3, 4, 6, 3]
    for pathway, kernels in ((basic.slow, [1, 1, 3, 3]), (basic.fast, [3, 3, 3, 3])):
        blocks = [block for stage in pathway.stages() for block in stage]
        assert [block.conv_a.kernel_size for block in blocks[::2]] == [(kernel, 3, 3) for kernel in kernels]
        assert {block.conv_b.kernel_size for block in blocks} == {(1, 3, 3)}
    assert basic.head.linear.action.in_features == 512 + 64
    assert factorised.slow.res2.block0.conv_a.kernel_size == (1, 3, 3)
    for conv in (factorised.slow.res4.block1.conv_a, factorised.slow.res4.block1.conv_b):
        # floor(3 9 256 256 / (9 256 + 3 256)) channels between: equation of section 3.5 of the R(2+1)D paper
        assert tuple(conv.spatial.weight.shape) == (576, 256, 1, 3, 3)
        assert tuple(conv.temporal.weight.shape) == (256, 576, 3, 1, 1)


def basic_block(x, weights, stride, conv):
    """torchvision's order of a basic block, functional."""

    def norm(x, name):
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"])

    branch = F.relu(norm(conv(x, "conv_a", (1, stride, stride), norm), "norm_a"))
    branch = norm(conv(branch, "conv_b", (1, 1, 1), norm), "norm_b")
    if "shortcut.0.weight" in weights:
        x = norm(F.conv3d(x, weights["shortcut.0.weight"], stride=(1, stride, stride)), "shortcut.1")
    return F.relu(x + branch)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("cls", [BasicBlock, R2Plus1dBlock])
def test_blocks_of_two_convolutions(cls, stride):
    block = cls(6 if stride == 1 else 4, 6, 3, stride).double()
    x = torch.randn(2, 6 if stride == 1 else 4, 4, 6, 6, dtype=torch.float64)
    randomise(block, x)
    weights = dict(block.state_dict())

    def conv3d(x, weight, stride):
        return F.conv3d(x, weight, stride=stride, padding=tuple(size // 2 for size in weight.shape[2:]))

    def full(x, name, stride, norm):
        return conv3d(x, weights[f"{name}.weight"], stride)

    def factorised(x, name, stride, norm):
        x = F.relu(norm(conv3d(x, weights[f"{name}.spatial.weight"], stride), f"{name}.norm"))
        return conv3d(x, weights[f"{name}.temporal.weight"], (1, 1, 1))

    expected = basic_block(x, weights, stride, full if cls is BasicBlock else factorised)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)


@pytest.mark.slow
def test_exports_for_any_number_of_clips():
    model = build_model(TINY, {"action": 6}).eval()
    clips = torch.randn(3, 3, 12, 32, 32)
    batch = {0: torch.export.Dim("clips")}
    exported = torch.export.export(model, (clips[:2],), dynamic_shapes=(batch,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(clips)["action"], model(clips)["action"])


def test_frames_that_are_too_small_for_non_local_blocks():
    """Their maps are 1/8 of the frame in res3 and 1/16 in res4, rounded up, and must be 2 x 2."""
    for field, smallest in (("nonlocal_res3", 9), ("nonlocal_res4", 17)):
        config = SlowFastConfig(stage_blocks=(1, 1, 1, 1), width=8, alpha=2, **{field: (0,)})
        model = build_model(config, {"action": 2}).eval()
        assert model(torch.zeros(1, 3, 2, smallest, smallest))["action"].shape == (1, 2)
        config.check_clip(2, smallest, smallest)
        with pytest.raises(ConfigError) as error:
            model(torch.zeros(1, 3, 2, smallest - 1, 40))
        assert (error.value.code, error.value.key) == ("wrong_shape", "data.crop")
        with pytest.raises(ConfigError) as error:
            config.check_clip(2, smallest - 1, 40)
        assert (error.value.key, error.value.remedy) == ("data.crop", f"give at least {smallest} pixels")
        with pytest.raises(ConfigError) as error:
            config.check_clip(2, 40, smallest - 1)
        assert error.value.key == "data.eval_crop"


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


@pytest.mark.parametrize("channels", slow_after(1, [2, 10]))
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
def test_unusable_heads_are_refused(heads):
    with pytest.raises(ConfigError) as error:
        build_model(TINY, heads)
    assert error.value.code in {"empty", "bad_name", "out_of_range"} and error.value.key == "heads"


def test_create_model_suggests_the_name_and_the_field():
    with pytest.raises(ConfigError, match="did you mean slowfast_r50_4x16") as error:
        create_model("slowfast_r50_4x61", {"action": 2})
    assert error.value.code == "unknown_model"
    with pytest.raises(ConfigError, match=r"did you mean model\.dropout") as error:
        create_model("slowfast_r50_4x16", {"action": 2}, dropuot=0.1)
    assert error.value.code == "unknown_key"
    with torch.device("meta"):
        assert create_model("slowfast_r50_4x16", {"action": 2}, dropout=0.1).head.dropout.p == 0.1
