"""X3D against its published numbers and against pytorchvideo, whose weights it loads."""

import pytest
import torch
from published_numbers import size
from slow_cases import slow_after
from torch import nn
from weights_files import built, logits, refused

from kineray.config import X3DConfig
from kineray.models import GhostBatchNorm, create_model, load_weights, model_presets, summarise

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = X3DConfig(stage_blocks=(3, 5, 11, 7), width=8, head_pool=2)


def pytorchvideo(classes=5, **options):
    from pytorchvideo.models.x3d import create_x3d

    torch.manual_seed(2)
    network = create_x3d(model_num_class=classes, **options)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + (0.5 if name.endswith("var") else 0))
    return network.eval()


@pytest.mark.parametrize("name", slow_after(1, ["x3d_xs", "x3d_s", "x3d_m", "x3d_l"]))
def test_the_parameters_are_those_of_the_pytorchvideo_hub(name):
    from pytorchvideo.models import hub

    with torch.device("meta"):
        assert size(create_model(name, {"action": 400})) == size(getattr(hub, name)())


@pytest.mark.parametrize(
    ("name", "millions", "billions"),
    slow_after(
        1, [("x3d_xs", 3.76, 0.60), ("x3d_s", 3.76, 1.96), ("x3d_m", 3.76, 4.73), ("x3d_l", 6.08, 18.37)]
    ),
)
def test_numbers_of_the_paper(name, millions, billions):
    """Parameters without those of batch norms, and multiply-adds for a clip of training (Table 2)."""
    preset = model_presets()[name]
    summary = summarise(name, (3, preset.frames, preset.data.crop, preset.data.crop))
    assert summary.cost.weighted / 1e9 == pytest.approx(billions, rel=0.01)
    with torch.device("meta"):
        model = create_model(name, {"action": 400})
    norms = sum(size(layer) for layer in model.modules() if isinstance(layer, GhostBatchNorm))
    assert (size(model) - norms) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("wrapper", ["", "model."])
def test_files_of_pytorchvideo_give_the_same_logits(tmp_path, wrapper):
    theirs = pytorchvideo(stem_dim_in=4, input_clip_length=4, input_crop_size=64, head_activation=None)
    state = {f"{wrapper}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"model_state": state}, tmp_path / "X3D.pyth")
    ours = built(SMALL)
    loaded = load_weights(ours, str(tmp_path / "X3D.pyth"))
    assert (loaded.origin, loaded.new, loaded.notes) == ("PyTorchVideo", (), ())
    clips = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(clips)
    assert expected.std() > 1e-2
    torch.testing.assert_close(logits(ours, clips), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_probabilities_of_a_larger_crop_are_averaged_as_in_pytorchvideo(tmp_path):
    theirs = pytorchvideo(stem_dim_in=4, input_clip_length=4, input_crop_size=64)
    theirs.blocks[-1].dropout = nn.Identity()
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "X3D.pyth")
    ours = built(SMALL)
    load_weights(ours, str(tmp_path / "X3D.pyth"))
    clips = torch.randn(2, 3, 4, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(logits(ours, clips).softmax(1), theirs(clips), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x3d_xs", "x3d_l"])
def test_files_of_the_pytorchvideo_hub_fit(tmp_path, name):
    from pytorchvideo.models import hub

    torch.save({"model_state": getattr(hub, name)().state_dict()}, tmp_path / "X3D.pyth")
    model = create_model(name, {"action": 400}, init=str(tmp_path / "X3D.pyth"))
    assert load_weights(model, str(tmp_path / "X3D.pyth")).new == ()


def test_weights_of_another_depth_are_refused_with_the_keys_to_set(tmp_path):
    theirs = pytorchvideo(stem_dim_in=4, depth_factor=1.0)
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "X3D.pyth")
    error = refused(built(SMALL), tmp_path / "X3D.pyth")
    assert error.remedy == "set model.stage_blocks=1,2,5,3"


def test_flow_changes_only_the_first_convolution():
    rgb, flow = (built(SMALL, channels=channels).state_dict() for channels in (3, 2))
    assert {name for name in rgb if rgb[name].shape != flow[name].shape} == {"backbone.stem.spatial.weight"}
