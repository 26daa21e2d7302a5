"""Slow-only, C2D and I3D against their published numbers and against pytorchvideo."""

import pytest
import torch
from published_numbers import multiply_adds, size
from pytorchvideo_names import as_pytorchvideo, randomise
from slow_cases import slow_after
from torch import nn
from torch.nn import functional as F

from kineray.config import ResNet3dConfig
from kineray.errors import ConfigError
from kineray.models import build_model, create_model
from kineray.models.blocks import NonLocal

KERNELS = {
    "slow": [(1, 1, 1), (1, 1, 1), (3, 1, 1), (3, 1, 1)],
    "c2d": [(1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)],
    "i3d": [(3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)]],
}


@pytest.mark.parametrize(
    ("name", "of_400", "of_600", "gmacs"),
    slow_after(
        1,
        [
            ("slow_r50_4x16", 32_454_096, 32_863_896, 27.26),
            ("slow_r50_8x8", 32_454_096, 32_863_896, 54.52),
            ("slow_nl_r50_8x8", 39_812_560, 40_222_360, None),
            ("c2d_r50_8x8", 24_327_632, 24_737_432, 25.46),
            ("c2d_nl_r50_8x8", 31_686_096, 32_095_896, None),
            ("c2d_r101_8x8", 43_319_760, 43_729_560, None),
            ("c2d_nl_r101_8x8", 50_678_224, 51_088_024, None),
            ("i3d_r50_8x8", 28_043_472, 28_453_272, 37.10),
            ("i3d_nl_r50_8x8", 35_401_936, 35_811_736, 43.81),
            ("i3d_r101_8x8", 51_754_192, 52_163_992, 61.33),
            ("i3d_nl_r101_8x8", 59_112_656, 59_522_456, 68.04),
        ],
    ),
)
def test_published_numbers(name, of_400, of_600, gmacs):
    """Parameters with 400 and 600 classes, multiply-adds of the convolutions for a view of 256 x 256."""
    with torch.device("meta"):
        model = create_model(name, heads={"k400": 400, "k600": 600}).eval()
        heads = {head: size(linear) for head, linear in model.head.linear.items()}
        body = size(model) - sum(heads.values())
        assert (body + heads["k400"], body + heads["k600"]) == (of_400, of_600)
        if gmacs:
            assert multiply_adds(model, name) == pytest.approx(gmacs, rel=2e-4)


class PairwiseNonLocal(nn.Module):
    """A non-local block as the paper defines it: the weight of every pair of positions, then their sum."""

    def __init__(self, ours):
        super().__init__()
        self.ours = ours

    def forward(self, x):
        ours, pooled = self.ours, F.max_pool3d(x, (1, 2, 2))
        theta, phi, g = (
            F.conv3d(source, conv.weight, conv.bias).flatten(2)
            for conv, source in ((ours.theta, x), (ours.phi, pooled), (ours.g, pooled))
        )
        pairs = torch.einsum("bct,bcp->btp", theta, phi)
        weights = (
            (pairs / theta.shape[1] ** 0.5).softmax(2) if ours.form == "softmax" else pairs / phi.shape[2]
        )
        y = torch.einsum("btp,bcp->bct", weights, g).reshape(x.shape[0], -1, *x.shape[2:])
        return x + ours.norm(F.conv3d(y, ours.out.weight, ours.out.bias))


@pytest.mark.parametrize("form", ["dot_product", "softmax"])
def test_the_non_local_block_equals_its_definition(form):
    torch.manual_seed(0)
    block = NonLocal(12, form).double()
    x = torch.randn(2, 12, 3, 5, 4, dtype=torch.float64)
    randomise(block, x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), PairwiseNonLocal(block)(x))
        assert (block(x) - x).std() > 1e-2


@pytest.mark.parametrize("nonlocal_blocks", [{}, {"nonlocal_res3": (1, 3), "nonlocal_res4": (1, 3, 5)}])
@pytest.mark.parametrize(
    ("variant", "form"), slow_after(1, [("i3d", "softmax"), ("slow", "dot_product"), ("c2d", "softmax")])
)
def test_same_logits_as_pytorchvideo(variant, form, nonlocal_blocks):
    """pytorchvideo has no non-local blocks; ours, by their definition, are put after its residual ones."""
    from pytorchvideo.models.resnet import create_resnet

    torch.manual_seed(0)
    config = ResNet3dConfig(variant=variant, width=8, head_pool=2, nonlocal_form=form, **nonlocal_blocks)
    ours = build_model(config, {"action": 9}).double()
    clips = torch.randn(2, 3, 8, 64, 64, dtype=torch.float64)
    randomise(ours, clips)
    pooled = variant != "slow"
    theirs = create_resnet(
        model_num_class=9,
        stem_dim_out=8,
        stem_conv_kernel_size=(5 if variant == "i3d" else 1, 7, 7),
        stage1_pool=nn.MaxPool3d if pooled else None,
        stage_conv_a_kernel_size=KERNELS[variant],
        head_pool_kernel_size=(4 if pooled else 8, 2, 2),
    )
    theirs = theirs.double().eval()
    state = {key: value for key, value in ours.state_dict().items() if ".nonlocal" not in key}
    theirs.load_state_dict(as_pytorchvideo(state, pooled))
    for number in (3, 4):
        residual = theirs.blocks[number if pooled else number - 1].res_blocks
        for block in nonlocal_blocks.get(f"nonlocal_res{number}", ()):
            own = getattr(ours.backbone, f"res{number}").get_submodule(f"nonlocal{block}")
            residual[block] = nn.Sequential(residual[block], PairwiseNonLocal(own))
    with torch.no_grad():
        logits, expected = ours(clips)["action"], theirs(clips)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", slow_after(1, ["i3d_r50", "slow_r50", "c2d_r50"]))
def test_every_tensor_of_the_pytorchvideo_hub(name):
    from pytorchvideo.models import hub

    with torch.device("meta"):
        ours = create_model(f"{name}_8x8", {"action": 400}).state_dict()
        theirs = getattr(hub, name)().state_dict()
    renamed = as_pytorchvideo(ours, pooled=name != "slow_r50")
    assert {key: value.shape for key, value in renamed.items()} == {
        key: value.shape for key, value in theirs.items()
    }


def test_temporal_kernels_of_i3d_r101():
    """Every second block of res3 and res4, the middle one of res5."""
    with torch.device("meta"):
        backbone = create_model("i3d_r101_8x8", {"action": 400}).backbone
    kernels = [[block.conv_a.kernel_size[0] for block in stage] for stage in backbone.stages()]
    assert kernels == [[3, 3, 3], [3, 1, 3, 1], [3, 1] * 11 + [3], [1, 3, 1]]


def test_odd_frames_are_refused_where_pairs_are_pooled():
    for variant in ("c2d", "i3d"):
        config = ResNet3dConfig(variant=variant, stage_blocks=(1, 1, 1, 1), width=8, head_pool=1)
        with pytest.raises(ConfigError) as error:
            build_model(config, {"action": 2})(torch.zeros(2, 3, 5, 32, 32))
        assert (error.value.code, error.value.key) == ("wrong_shape", "data.frames")
        with pytest.raises(ConfigError):
            config.check_clip(5, 32, 32)
    ResNet3dConfig().check_clip(5, 32, 32)


def test_frames_that_are_too_small_for_non_local_blocks():
    config = ResNet3dConfig(stage_blocks=(1, 1, 1, 1), width=8, head_pool=1, nonlocal_res4=(0,))
    with pytest.raises(ConfigError) as error:
        build_model(config, {"action": 2})(torch.zeros(2, 3, 2, 16, 16))
    assert (error.value.code, error.value.key) == ("wrong_shape", "data.crop")
    with pytest.raises(ConfigError) as error:
        config.check_clip(8, 32, 16)
    assert error.value.key == "data.eval_crop"
    ResNet3dConfig().check_clip(8, 16, 16)


def test_non_local_blocks_must_exist():
    with pytest.raises(ConfigError, match="nonlocal_res3 4 is not one of the 4 blocks of res3") as error:
        ResNet3dConfig(nonlocal_res3=(1, 4))
    assert error.value.code == "bad_value"
