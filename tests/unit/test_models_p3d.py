"""P3D against the residual networks that it is made of and against its equations, written a second time."""

import pytest
import torch
import torchvision
from torch.nn import functional as F

from kineray.config import DataConfig, Experiment, P3DConfig
from kineray.errors import ConfigError
from kineray.models import build_model, create_model

HEADS = {"action": 6}


@pytest.mark.parametrize(("name", "image_network"), [("p3d_63", "resnet50"), ("p3d_199", "resnet152")])
def test_temporal_convolutions_are_all_that_is_added_to_the_image_network(name, image_network):
    """One in each block of res2, res3 and res4, with its batch norm: 50 + 13 and 152 + 47 layers."""
    with torch.device("meta"):
        model = create_model(name, {"action": 400})
        images = getattr(torchvision.models, image_network)(weights=None, num_classes=400)
    temporal = [value for key, value in model.named_parameters() if ".conv_t." in key or ".norm_t." in key]
    total = sum(p.numel() for p in model.parameters())
    assert len(temporal) // 3 == {"p3d_63": 13, "p3d_199": 47}[name]
    assert total - sum(p.numel() for p in temporal) == sum(p.numel() for p in images.parameters())


class Reference:
    """P3D in evaluation: weights by our key, structure by the equations of the paper."""

    def __init__(self, weights, kinds):
        self.w = weights
        self.kinds = kinds

    def unit(self, x, conv, norm, stride=1):
        """A convolution and its batch norm."""
        w = self.w
        weight = w[f"{conv}.weight"]
        x = F.conv3d(x, weight, None, (1, stride, stride), tuple(size // 2 for size in weight.shape[2:]))
        scale = w[f"{norm}.weight"] / (w[f"{norm}.running_var"] + 1e-5).sqrt()
        shift = w[f"{norm}.bias"] - w[f"{norm}.running_mean"] * scale
        return x * scale.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)

    def block(self, x, key, kind, stride):
        def spatial(y):
            return self.unit(y, f"{key}.conv_s", f"{key}.norm_s").relu()

        def temporal(y):
            return self.unit(y, f"{key}.conv_t", f"{key}.norm_t")

        y = self.unit(x, f"{key}.conv_a", f"{key}.norm_a", stride).relu()
        y = {
            "A": lambda: temporal(spatial(y)),
            "B": lambda: spatial(y) + temporal(y),
            "C": lambda: spatial(y) + temporal(spatial(y)),
            "": lambda: spatial(y),
        }[kind]().relu()
        y = self.unit(y, f"{key}.conv_c", f"{key}.norm_c")
        if f"{key}.shortcut.0.weight" in self.w:
            x = self.unit(x, f"{key}.shortcut.0", f"{key}.shortcut.1", stride)
        return (x + y).relu()

    def logits(self, x):
        x = self.unit(x, "stem.conv", "stem.norm", 2).relu()
        x = F.max_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
        kinds = iter(self.kinds)
        for stage in (2, 3, 4, 5):
            block = 0
            while f"res{stage}.block{block}.conv_a.weight" in self.w:
                stride = 2 if stage > 2 and block == 0 else 1
                kind = next(kinds) if stage < 5 else ""
                x = self.block(x, f"res{stage}.block{block}", kind, stride)
                block += 1
            if stage < 5:
                x = F.max_pool3d(x, (2, 1, 1))
        return F.linear(
            x.mean((2, 3, 4)), self.w["head.linear.action.weight"], self.w["head.linear.action.bias"]
        )


@pytest.mark.parametrize(
    ("blocks", "kinds"),
    [
        (("A", "B", "C"), "ABCABCAB"),  # the sequence continues from one stage to the next
        (("B",), "BBBBBBBB"),
        (("C", "A"), "CACACACA"),
    ],
)
def test_same_function_as_the_equations(blocks, kinds):
    torch.manual_seed(0)
    model = build_model(P3DConfig(stage_blocks=(2, 2, 4, 2), width=8, blocks=blocks), HEADS).double().eval()
    for value in model.state_dict().values():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) * 0.5 + 0.5)
    model.head.linear["action"].weight.data.normal_()
    clips = torch.randn(2, 3, 32, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        ours = model(clips)["action"]
    expected = Reference(model.state_dict(), kinds).logits(clips)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours, expected)


def test_the_kinds_alternate_in_the_published_networks():
    """The authors' network of 199 layers starts res3 with an A block and ends res4 with a B block."""
    with torch.device("meta"):
        model = create_model("p3d_199", HEADS)
    kinds = "".join(block.kind for stage in (model.res2, model.res3, model.res4) for block in stage)
    assert kinds == ("ABC" * 16)[:47]
    assert model.res3.block0.kind == "A" and model.res4.block35.kind == "B"


def test_frames_at_every_stage():
    with torch.device("meta"):
        model = create_model("p3d_63", HEADS).eval()
        shapes = []
        for stage in (model.stem, model.res2, model.res3, model.res4, model.res5):
            stage.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[1:])))
        model(torch.empty(1, 3, 16, 160, 160))
    assert shapes == [(64, 8, 40, 40), (256, 8, 40, 40), (512, 4, 20, 20), (1024, 2, 10, 10), (2048, 1, 5, 5)]


def test_unknown_kinds_of_block_are_refused():
    for blocks in ("A,D", ""):
        with pytest.raises(ConfigError) as error:
            create_model("p3d_63", HEADS, blocks=blocks)
        assert (error.value.code, error.value.key) == ("bad_value", "model.blocks")
    with torch.device("meta"):
        model = create_model("p3d_63", HEADS, blocks="C,B")
    assert [block.kind for block in model.res2] == ["C", "B", "C"]


def test_frames_are_checked_before_training():
    with pytest.raises(ConfigError) as error:
        Experiment(data=DataConfig(frames=24), model=P3DConfig())
    assert (error.value.code, error.value.key) == ("wrong_shape", "data.frames")
    assert "a multiple of 16" in error.value.problem
