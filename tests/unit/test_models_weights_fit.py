"""What must fit and what may differ between a model and the weights it starts from."""

import os
import re

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_models import RESNET
from torchvision.models import resnet18
from weights_files import SLOWFAST, built, logits, refused, save

from kineray.config import (
    FrameConfig,
    GruConfig,
    P3DConfig,
    ResNet3dConfig,
    SlowFastConfig,
    STResNetConfig,
    TwoStreamConfig,
    change_model,
)
from kineray.errors import CheckpointError
from kineray.models import build_model, create_model, load_weights
from kineray.training import load_checkpoint
from small_checkpoint import save_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

# -- a kineray checkpoint -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a checkpoint with four classes."""
    return save_small_checkpoint(str(tmp_path_factory.mktemp("run") / "checkpoints"))


def like(checkpoint, classes=4, seed=3, **changes):
    config = load_checkpoint(checkpoint).experiment.model
    return built(config.model_copy(update=changes), classes, seed=seed)


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_checkpoint(checkpoint, file):
    model = like(checkpoint)
    loaded = load_weights(model, os.path.join(checkpoint, file))  # noqa: PTH118 - "" adds a slash
    assert torch.equal(logits(model), logits(load_checkpoint(checkpoint).model))
    assert loaded.new == () and loaded.origin == "kineray"


def test_other_classes_change_the_classifiers_alone(checkpoint):
    model = like(checkpoint, classes=9)
    before = model.head.linear["action"].weight.clone()
    loaded = load_weights(model, checkpoint)
    assert loaded.new == ("head.linear.action.weight", "head.linear.action.bias")
    assert loaded.notes == ("head action is new: 9 classes, 4 in the file",)
    assert torch.equal(model.head.linear["action"].weight, before)
    theirs = load_checkpoint(checkpoint).model.state_dict()
    for name, value in model.state_dict().items():
        assert name in loaded.new or torch.equal(value, theirs[name])


def test_heads_go_by_their_names(checkpoint, tmp_path):
    two = save_small_checkpoint(str(tmp_path), heads={"verb": ("a", "b"), "noun": ("c", "d", "e")})
    model = build_model(load_checkpoint(two).experiment.model, {"noun": 3, "tool": 2})
    loaded = load_weights(model, two)
    assert loaded.new == ("head.linear.tool.weight", "head.linear.tool.bias")
    assert loaded.notes == ("head tool is new: 2 classes",)
    theirs = load_checkpoint(two).model.head.linear["noun"]
    assert torch.equal(model.head.linear["noun"].weight, theirs.weight)


def test_one_public_classifier_is_not_given_to_two_heads(tmp_path):
    model = build_model(SLOWFAST, {"verb": 5, "noun": 5})
    loaded = load_weights(model, save(built(), tmp_path / "x.pyth"))
    assert loaded.notes == ("head noun is new: 5 classes", "head verb is new: 5 classes")


@pytest.mark.parametrize("channels", [2, 10])
def test_other_channels_get_the_mean_over_rgb(tmp_path, channels):
    published, model = built(), built(seed=1, channels=channels)
    loaded = load_weights(model, save(published, tmp_path / "x.pyth"))
    grey = torch.randn(2, 1, 8, 32, 32)
    # A frame whose channels are all equal gives the same features, scaled by the number of channels.
    first = model.slow.stem.conv(grey.repeat(1, channels, 1, 1, 1)) * 3 / channels
    torch.testing.assert_close(first, published.slow.stem.conv(grey.repeat(1, 3, 1, 1, 1)))
    assert sorted(note.split()[0] for note in loaded.notes) == [
        "fast.stem.conv.weight",
        "slow.stem.conv.weight",
    ]


def test_nonlocal_res4_may_be_new(tmp_path):
    """As in the paper: they start as the identity, on the weights of the network without them."""
    plain = built(SLOWFAST.model_copy(update={"nonlocal_res4": ()}))
    torch.manual_seed(1)
    model = build_model(SLOWFAST, {"action": 5}).eval()
    loaded = load_weights(model, save(plain, tmp_path / "x.pyth"))
    assert torch.equal(logits(model), logits(plain))
    assert loaded.notes == ("the non-local blocks are new",)
    assert len(loaded.new) == 12 and all(".nonlocal1." in name for name in loaded.new)


# -- weights of another network -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"fusion_kernel": 7},
            ["4 weights have other shapes", "laterals.0.conv.weight is 4x2x7x1x1, here 4x2x5x1x1", "..."],
        ),
        ({"stage_blocks": (1, 2, 3, 1)}, ["weights are not of this model (slow.res4.block2.conv_a.weight, "]),
        (
            {"stage_blocks": (1, 2, 1, 1), "nonlocal_res4": ()},
            ["are missing (slow.res4.block1.conv_a.weight, "],
        ),
        ({"width": 16, "beta_inv": 8}, ["slow.stem.conv.weight is 16x3x1x7x7, here 8x3x1x7x7"]),
        ({"fusion_ratio": 1}, ["slow.res2.block0.conv_a.weight is 8x10x1x1x1, here 8x12x1x1x1"]),
        ({"temporal_kernels_slow": (1, 3, 3, 3)}, ["slow.res3.block0.conv_a.weight is 16x"]),
        ({"nonlocal_res4": (0,)}, ["slow.res4.nonlocal1.theta.weight", "slow.res4.nonlocal0.theta.weight"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_configuration_is_refused_with_the_keys_to_set(tmp_path, change, words):
    error = refused(built(), save(built(SLOWFAST.model_copy(update=change)), tmp_path / "x.pyth"))
    assert error.code == "other_model" and all(word in error.problem for word in words), error
    keys = {key: value for key, value in change.items() if (key, value) != ("nonlocal_res4", ())}
    for key, value in keys.items():
        argument = ",".join(map(str, value)) if isinstance(value, tuple) else value
        assert f"model.{key}={argument}" in error.remedy.split()


def test_following_the_remedy_is_enough(tmp_path):
    """The settings in the remedy can be given as they are."""
    other = SlowFastConfig(
        stage_blocks=(2, 1, 3, 1),
        width=8,
        beta_inv=2,
        alpha=4,
        fusion_kernel=7,
        temporal_blocks_slow=(2, 1, 2, 1),
    )
    file = save(built(other), tmp_path / "x.pyth", cfg=yaml.safe_dump({"SLOWFAST": {"ALPHA": 4}}))
    with pytest.raises(CheckpointError) as error:
        create_model("slowfast_r50_4x16", {"action": 5}, init=file)
    keys = dict(re.findall(r" model\.(\w+)=(\S+)", error.value.remedy))
    assert keys["alpha"] == "4" and keys["fusion_kernel"] == "7"
    model = create_model("slowfast_r50_4x16", {"action": 5}, init=file, **keys).eval()
    assert torch.equal(model.slow.stem.conv.weight, built(other).slow.stem.conv.weight)


def test_another_alpha_has_the_same_shapes_and_is_reported(tmp_path, checkpoint):
    cfg = yaml.safe_dump({"SLOWFAST": {"ALPHA": 4}, "NONLOCAL": {"INSTANTIATION": "dot_product"}})
    file = save(built(), tmp_path / "x.pyth", cfg=cfg)
    assert load_weights(built(), file).notes == ()
    other = built(SLOWFAST.model_copy(update={"alpha": 8}))
    noted = ("trained with model.alpha=4, which differs here",)
    assert load_weights(other, file).notes == noted
    assert load_weights(like(checkpoint, alpha=2), checkpoint).notes == noted
    # Files of PyTorchVideo and Caffe2 lack it, but all public networks with these laterals have alpha 4.
    wide = SLOWFAST.model_copy(update={"fusion_kernel": 7, "alpha": 8})
    assert load_weights(built(wide), save(built(wide), tmp_path / "x.pkl")).notes == noted


@pytest.mark.parametrize(
    ("theirs", "ours", "note"),
    [
        (P3DConfig(stage_blocks=(1, 1, 2, 1), width=8), {"blocks": "C,B,A"}, "blocks=A,B,C"),
        (STResNetConfig(), {"delays": (2,)}, "delays=1"),
        (
            FrameConfig(**RESNET, temporal=GruConfig(units=3)),
            {"temporal.z_norm": "per_frame"},
            "temporal.z_norm=none",
        ),
        (TwoStreamConfig(rgb=SLOWFAST, flow=SLOWFAST), {"flow.alpha": 2}, "flow.alpha=4"),
    ],
)
def test_settings_that_do_not_show_in_shapes_are_reported(tmp_path, theirs, ours, note):
    channels = 5 if isinstance(theirs, TwoStreamConfig) else 3
    save_file(built(theirs, channels=channels).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"model": theirs.model_dump(mode="json")}))
    loaded = load_weights(built(change_model(theirs, ours), channels=channels), str(tmp_path))
    assert loaded.notes == (f"trained with model.{note}, which differs here",)
    others = {"dropout": 0.9, "init": "x"} if hasattr(theirs, "dropout") else {}
    assert load_weights(built(change_model(theirs, others), channels=channels), str(tmp_path)).notes == ()


def test_weights_of_one_stream_are_for_one_stream(tmp_path, checkpoint):
    model = built(TwoStreamConfig(rgb=SLOWFAST, flow=SLOWFAST), channels=5)
    assert (
        refused(model, checkpoint).remedy == "set model.rgb.init or model.flow.init to start a stream from it"
    )


def test_the_remedy_names_no_settings_that_cannot_help(tmp_path):
    """A 3D ResNet has no basic blocks, however many of them there are."""
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "resnet18.pth")
    model = built(ResNet3dConfig(stage_blocks=(1, 1, 1, 1), width=8, head_pool=1))
    assert refused(model, str(tmp_path / "resnet18.pth")).remedy == "choose the model that they belong to"


def test_names_that_only_look_like_those_of_pytorchvideo(tmp_path):
    names = ("blocks.x.y.res_blocks.z", "blocks.0.a")
    torch.save({name: torch.zeros(2) for name in names}, tmp_path / "x.pyth")
    assert refused(built(), str(tmp_path / "x.pyth")).code == "other_model"


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pth")
    error = refused(built(), tmp_path / "x.pth")
    assert error.code == "other_model" and "1 weights are not of this model (conv.weight)" in error.problem
    assert error.remedy == "choose the model that they belong to"
