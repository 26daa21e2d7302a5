"""Weights of PySlowFast, Caffe2 and PyTorchVideo: the formats, damaged files and files that attack."""

import os
import pickle

import pytest
import safetensors.torch
import torch
from weights_files import (
    SLOWFAST,
    built,
    caffe2_name,
    clips,
    logits,
    pyslowfast_name,
    randomise,
    refused,
    save,
    saved,
)

from kineray.config import ResNet3dConfig, SlowFastConfig
from kineray.models import create_model, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_PATHWAY = ResNet3dConfig(stage_blocks=(1, 2, 2, 1), width=8, head_pool=1)
CONFIGS = [
    SLOWFAST,
    ONE_PATHWAY,
    ONE_PATHWAY.model_copy(update={"variant": "c2d"}),
    ONE_PATHWAY.model_copy(
        update={
            "variant": "i3d",
            "nonlocal_res3": (1,),
            "nonlocal_res4": (0, 1),
            "nonlocal_form": "softmax",
        }
    ),
]


@pytest.mark.parametrize("suffix", [".pyth", ".pkl"])
@pytest.mark.parametrize("config", CONFIGS, ids=["slowfast", "slow", "c2d", "i3d with non-local blocks"])
def test_public_files_give_the_same_logits(tmp_path, config, suffix):
    published, model = built(config), built(config, seed=1)
    loaded = load_weights(model, save(published, tmp_path / f"SLOWFAST{suffix}", config))
    assert torch.equal(logits(model), logits(published))
    assert loaded.new == () and loaded.notes == ()
    counters = sum(name.endswith("tracked") for name in model.state_dict())
    assert loaded.tensors == len(model.state_dict()) - (counters if suffix == ".pkl" else 0)
    assert str(loaded).startswith(f"{loaded.tensors} tensors of {tmp_path}/SLOWFAST{suffix} (")


def test_the_names_of_these_tests_are_the_public_ones():
    """The names above, against examples that are known to be in public files."""
    examples = {
        "slow.stem.norm.running_var": ("s1.pathway0_stem.bn.running_var", "res_conv1_bn_riv"),
        "fast.stem.conv.weight": ("s1.pathway1_stem.conv.weight", "t_conv1_w"),
        "laterals.0.conv.weight": ("s1_fuse.conv_f2s.weight", "t_pool1_subsample_w"),
        "laterals.2.norm.bias": ("s3_fuse.bn.bias", "t_res3_1_branch2c_bn_subsample_bn_b"),
        "slow.res4.block0.shortcut.0.weight": ("s4.pathway0_res0.branch1.weight", "res4_0_branch1_w"),
        "fast.res2.block0.norm_c.weight": ("s2.pathway1_res0.branch2.c_bn.weight", "t_res2_0_branch2c_bn_s"),
        "slow.res4.nonlocal1.phi.bias": ("s4.pathway0_nonlocal1.conv_phi.bias", "nonlocal_conv4_1_phi_b"),
        "slow.res4.nonlocal1.norm.weight": ("s4.pathway0_nonlocal1.bn.weight", "nonlocal_conv4_1_bn_s"),
        "head.linear.action.weight": ("head.projection.weight", "pred_w"),
    }
    for ours, (pyslowfast, caffe2) in examples.items():
        assert ours in built().state_dict()
        assert (pyslowfast_name(ours, SLOWFAST), caffe2_name(ours, SLOWFAST)) == (pyslowfast, caffe2)


def test_classifiers_that_are_convolutions(tmp_path):
    """Caffe2's fully-convolutional form of the last layer."""
    published, model, path = built(), built(seed=1), tmp_path / "x.pkl"
    save(published, path)
    content = pickle.loads(path.read_bytes())
    content["blobs"]["pred_w"] = content["blobs"]["pred_w"][:, :, None, None, None]
    path.write_bytes(pickle.dumps(content, protocol=2))
    load_weights(model, str(path))
    assert torch.equal(logits(model), logits(published))


def small_pytorchvideo():
    """PyTorchVideo's SlowFast with one bottleneck in each stage, as ``PTV_CONFIG``."""
    from pytorchvideo.models.slowfast import create_slowfast

    torch.manual_seed(2)
    model = create_slowfast(
        model_depth=18,
        model_num_class=5,
        slowfast_channel_reduction_ratio=(4,),
        slowfast_fusion_conv_kernel_size=(5, 1, 1),
        stem_dim_outs=(8, 2),
        head_pool_kernel_sizes=((2, 1, 1), (8, 1, 1)),
    )
    randomise(model)
    return model.eval()


@pytest.mark.parametrize("wrapper", ["", "model.", "module."])
def test_pytorchvideo(tmp_path, wrapper):
    theirs = small_pytorchvideo()
    config = SlowFastConfig(stage_blocks=(1, 1, 1, 1), width=8, alpha=4, beta_inv=4, head_pool=1)
    state = {f"{wrapper}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"model_state": state}, tmp_path / "x.pyth")
    model = built(config)
    loaded = load_weights(model, str(tmp_path / "x.pyth"))
    assert loaded.new == () and loaded.origin == "PyTorchVideo"
    with torch.no_grad():
        expected = theirs([clips()[:, :, [0, 7]], clips()])
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["slow", "c2d", "i3d"])
def test_pytorchvideo_with_one_pathway(tmp_path, variant):
    """c2d and i3d have a pooling block between two stages, so their later stages have other numbers."""
    from pytorchvideo.models.resnet import create_resnet

    torch.manual_seed(2)
    one, three = (1, 1, 1), (3, 1, 1)
    temporal = {
        "slow": (one, one, three, three),
        "c2d": (one, one, one, one),
        "i3d": (three, [three, one], [three, one], [one, three]),
    }[variant]
    theirs = create_resnet(
        model_depth=50,
        model_num_class=5,
        stem_dim_out=8,
        stem_conv_kernel_size=(5 if variant == "i3d" else 1, 7, 7),
        stage1_pool=None if variant == "slow" else torch.nn.MaxPool3d,
        stage1_pool_kernel_size=(2, 1, 1),
        stage_conv_a_kernel_size=temporal,
        head_pool_kernel_size=(8 if variant == "slow" else 4, 1, 1),
    )
    randomise(theirs)
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "x.pyth")
    model = built(ResNet3dConfig(variant=variant, width=8, head_pool=1))
    assert load_weights(model, str(tmp_path / "x.pyth")).new == ()
    with torch.no_grad():
        expected = theirs.eval()(clips())
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_pytorchvideo_hub_model(tmp_path):
    """The real network and names of ``slowfast_r50``, in the envelope of its file."""
    from pytorchvideo.models.hub import slowfast_r50

    torch.manual_seed(0)
    theirs = slowfast_r50(head_pool_kernel_sizes=((8, 2, 2), (32, 2, 2)), model_num_class=7).eval()
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "SLOWFAST_8x8_R50.pyth")
    ours = create_model("slowfast_r50_8x8", {"action": 7}, init=str(tmp_path / "SLOWFAST_8x8_R50.pyth"))
    inputs = clips(frames=32).repeat(1, 1, 1, 2, 2)
    slow = torch.linspace(0, 31, 8).long()
    with torch.no_grad():
        expected = theirs([inputs[:, :, slow], inputs])
    torch.testing.assert_close(logits(ours.eval(), inputs), expected, rtol=1e-4, atol=1e-5)


# -- files that cannot be used ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("x.pyth", b"", "damaged"),
        ("x.pyth", b"this is no file of weights", "damaged"),
        ("x.pth", b"PK\x03\x04 cut off", "damaged"),
        ("x.pkl", b"", "damaged"),
        ("x.pkl", b"this is no pickle", "damaged"),
        ("x.pkl", pickle.dumps([1, 2]), "not_weights"),
        ("x.pkl", pickle.dumps({"blobs": 1}), "not_weights"),
        ("x.safetensors", b"", "damaged"),
        ("x.safetensors", b"\xff" * 40, "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    assert refused(built(), tmp_path / name).code == code


def test_truncated_files_are_refused(tmp_path):
    for path in (tmp_path / "x.pyth", tmp_path / "x.pkl"):
        save(built(), path)
        path.write_bytes(path.read_bytes()[:-5000])
        assert refused(built(), path).code == "damaged"
    whole = tmp_path / "model.safetensors"
    safetensors.torch.save_file(built().state_dict(), whole)
    whole.write_bytes(whole.read_bytes()[:-1])
    assert refused(built(), whole).code == "damaged"


def test_missing_files_and_files_without_weights_are_refused(tmp_path):
    assert refused(built(), tmp_path / "absent.pyth").code == "not_found"
    assert refused(built(), tmp_path / "absent").code == "not_found"
    assert refused(built(), tmp_path).code == "not_a_checkpoint"
    assert refused(built(), saved([1, 2], tmp_path / "list.pth")).code == "not_weights"
    assert refused(built(), saved({"epoch": 3}, tmp_path / "none.pth")).code == "not_weights"


class Attack:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["x.pkl", "x.pyth", "x.pth"])
def test_a_pickle_that_attacks_does_not_run(tmp_path, name):
    made = tmp_path / "made by the attack"
    content = {"blobs": {"conv1_w": Attack(made)}, "model_state": Attack(made)}
    if name == "x.pkl":
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
        error = refused(built(), tmp_path / name)
        assert error.code == "unsafe" and f"{os.mkdir.__module__}.mkdir" in error.problem
    else:
        torch.save(content, tmp_path / name)
        assert refused(built(), tmp_path / name).code == "damaged"
    assert not made.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'echo'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x12lib.npyio.os.mkdir\x93.",
        b"(S'x'\nios\nmkdir\n.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    ],
)
def test_only_arrays_are_unpickled(tmp_path, code):
    (tmp_path / "x.pkl").write_bytes(code)
    assert refused(built(), tmp_path / "x.pkl").code in {"unsafe", "damaged"}


def test_arrays_of_old_and_new_numpy(tmp_path):
    """Names of NumPy 1 (and Python 2), and of NumPy 2."""
    path, published = tmp_path / "x.pkl", built()
    save(published, path)
    new = path.read_bytes()
    assert b"numpy._core.multiarray" in new
    old = new.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != new
    path.write_bytes(old)
    model = built(seed=1)
    load_weights(model, str(path))
    assert torch.equal(logits(model), logits(published))
