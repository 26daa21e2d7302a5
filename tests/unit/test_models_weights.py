"""Published weights: the formats, what must fit and what may differ, damaged files and files that attack.

The public files are made here: our own weights, by the names that PySlowFast, PyTorchVideo and Caffe2 give
them (written from their documentation, apart from the tables that are tested).
"""

import os
import pickle
import re

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from kineray.config import FrameConfig, LstmConfig, ResNet3dConfig, SlowFastConfig
from kineray.errors import CheckpointError, KinerayError
from kineray.models import build_model, create_model, load_weights
from kineray.training import load_checkpoint
from small_checkpoint import save_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

SLOWFAST = SlowFastConfig(
    stage_blocks=(1, 2, 2, 1), width=8, alpha=4, beta_inv=4, head_pool=1, nonlocal_res4=(1,)
)


def built(config=SLOWFAST, classes=5, *, seed=0, channels=3):
    """A model whose every number is random, batch norms included, so that no mix-up goes unnoticed."""
    torch.manual_seed(seed)
    model = build_model(config, {"action": classes}, channels).eval()
    randomise(model)
    return model


def randomise(model):
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand_like(value) + (0.5 if name.endswith("var") else 0))


def clips(frames=8, channels=3):
    return torch.randn(2, channels, frames, 32, 32, generator=torch.Generator().manual_seed(1))


def logits(model, inputs=None):
    with torch.no_grad():
        return model(clips() if inputs is None else inputs)["action"]


# -- names that other projects give to our weights ----------------------------------------------------


def parts(name):
    """``slow.res4.block0.conv_a.weight`` -> (pathway 0 or 1, stage, "block", 0, "conv_a", "weight")."""
    found = re.fullmatch(
        r"(slow|fast|backbone)\.res(\d)\.(block|nonlocal)(\d+)\.(\w+)((?:\.\d)?)\.(\w+)", name
    )
    pathway = {"slow": 0, "backbone": 0, "fast": 1}[found[1]]
    return pathway, int(found[2]), found[3], int(found[4]), found[5] + found[6], found[7]


def pyslowfast_name(name, _):
    if name.startswith("head."):
        return f"head.projection.{name.rpartition('.')[2]}"
    if name.startswith("laterals."):
        _, index, layer, leaf = name.split(".")
        return f"s{int(index) + 1}_fuse.{ {'conv': 'conv_f2s', 'norm': 'bn'}[layer] }.{leaf}"
    if ".stem." in name:
        pathway, _, layer, leaf = name.split(".")
        return f"s1.pathway{int(pathway == 'fast')}_stem.{ {'conv': 'conv', 'norm': 'bn'}[layer] }.{leaf}"
    pathway, stage, kind, index, layer, leaf = parts(name)
    if kind == "nonlocal":
        return (
            f"s{stage}.pathway{pathway}_nonlocal{index}.{'bn' if layer == 'norm' else f'conv_{layer}'}.{leaf}"
        )
    place = {"shortcut.0": "branch1", "shortcut.1": "branch1_bn"}
    place |= {f"conv_{letter}": f"branch2.{letter}" for letter in "abc"}
    place |= {f"norm_{letter}": f"branch2.{letter}_bn" for letter in "abc"}
    return f"s{stage}.pathway{pathway}_res{index}.{place[layer]}.{leaf}"


def caffe2_name(name, config):
    kind, _, leaf = name.rpartition(".")
    is_norm = re.search(r"norm(_[abc])?$|shortcut\.1$", kind)
    end = {"weight": "w", "bias": "b"}
    if is_norm:
        end = {"weight": "bn_s", "bias": "bn_b", "running_mean": "bn_rm", "running_var": "bn_riv"}
    if leaf not in end:
        return None  # counters
    end = end[leaf]
    if name.startswith("head."):
        return f"pred_{end}"
    if name.startswith("laterals."):
        stage = int(name.split(".")[1]) + 1
        last = config.stage_blocks[stage - 2] - 1
        return (
            f"t_pool1_subsample_{end}" if stage == 1 else f"t_res{stage}_{last}_branch2c_bn_subsample_{end}"
        )
    if ".stem." in name:
        return f"{'t_' if name.startswith('fast') else ''}{'res_' if is_norm else ''}conv1_{end}"
    pathway, stage, kind, index, layer, _ = parts(name)
    if kind == "nonlocal":
        return f"nonlocal_conv{stage}_{index}_{end if layer == 'norm' else f'{layer}_{end}'}"
    branch = "1" if layer.startswith("shortcut") else f"2{layer[-1]}"
    return f"{'t_' if pathway else ''}res{stage}_{index}_branch{branch}_{end}"


def save(model, path, config=SLOWFAST, cfg=None):
    """The weights of a model as a public file: by the suffix of ``path``, PySlowFast's or Caffe2's."""
    state = model.state_dict()
    if path.suffix == ".pyth":
        weights = {pyslowfast_name(name, config): value for name, value in state.items()}
        torch.save({"epoch": 195, "model_state": weights, "optimizer_state": {}, "cfg": cfg or ""}, path)
    else:
        blobs = {caffe2_name(name, config): value.numpy() for name, value in state.items()}
        del blobs[None]
        blobs |= {f"{name}_momentum": value for name, value in list(blobs.items())}
        blobs |= {"lr": np.float32([0.1]), "model_iter": np.int64([12])}
        path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return str(path)


# -- formats ------------------------------------------------------------------------------------------


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


def test_the_words_of_the_public_names():
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
    """PyTorchVideo's own SlowFast with one bottleneck in each stage, as ``PTV_CONFIG``."""
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


# -- torchvision --------------------------------------------------------------------------------------


def image_network(blocks=(1, 1, 1, 1), kind="bottleneck"):
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock, Bottleneck

    torch.manual_seed(3)
    network = ResNet({"bottleneck": Bottleneck, "basic": BasicBlock}[kind], list(blocks)).eval()
    randomise(network)
    return network


def maps(network, images):
    """The feature maps of a ResNet of images."""
    with torch.no_grad():
        for layer in list(network.children())[:-2]:
            images = layer(images)
    return images


def frozen_picture(frames):
    image = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(4))
    return image, image[:, :, None].repeat(1, 1, frames, 1, 1)


@pytest.mark.parametrize(("variant", "frames"), [("c2d", 2), ("slow", 9), ("i3d", 18)])
def test_an_inflated_network_sees_in_a_frozen_picture_what_the_image_network_sees(tmp_path, variant, frames):
    """In the middle of the clip, to which the padding of the convolutions over time does not reach."""
    image, video = frozen_picture(frames)
    network = image_network()
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    config = ResNet3dConfig(variant=variant, stage_blocks=(1, 1, 1, 1))
    model = build_model(config, {"action": 5}).eval()
    loaded = load_weights(model, str(tmp_path / "resnet.pth"))
    assert loaded.new == ("head.linear.action.weight", "head.linear.action.bias")
    features = []
    model.head.register_forward_hook(lambda _, inputs, __: features.append(inputs[0][0]))
    logits(model, video)
    middle = features[0][:, :, features[0].shape[2] // 2]
    expected = maps(network, image)
    assert expected.std() > 0.1
    torch.testing.assert_close(middle, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
def test_the_slow_pathway_starts_from_an_image_network(tmp_path, kind):
    """Whatever the Fast pathway sees: the weights of what it adds are zero."""
    image, video = frozen_picture(36)
    network = image_network(kind=kind)
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    config = SlowFastConfig(block=kind, stage_blocks=(1, 1, 1, 1), alpha=4)
    model = build_model(config, {"action": 5}).eval()
    loaded = load_weights(model, str(tmp_path / "resnet.pth"))
    assert loaded.notes == (
        "the Fast pathway and the lateral connections are new",
        "head action is new: 5 classes",
    )
    assert {name.split(".")[0] for name in loaded.new} == {"fast", "laterals", "head"}
    features = []
    model.head.register_forward_hook(lambda _, inputs, __: features.append(inputs[0][0]))
    logits(model, video)
    torch.testing.assert_close(features[0][:, :, 4], maps(network, image), rtol=1e-3, atol=1e-3)


def test_a_slow_pathway_for_optical_flow(tmp_path):
    network = image_network()
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    model = build_model(SlowFastConfig(stage_blocks=(1, 1, 1, 1)), {"action": 5}, 2)
    loaded = load_weights(model, str(tmp_path / "resnet.pth"))
    mean = network.conv1.weight.mean(1, keepdim=True).repeat(1, 2, 1, 1)
    torch.testing.assert_close(model.slow.stem.conv.weight[:, :, 0], mean)
    assert "slow.stem.conv.weight has the mean over RGB for each of 2 channels" in loaded.notes


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """torchvision's cache, empty: (architecture, weights) -> the file that would be downloaded."""
    from torchvision.models import get_model, get_weight

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)

    def put(architecture, name, **options):
        torch.manual_seed(5)
        network = get_model(architecture, weights=None, **options)
        randomise(network)
        torch.save(network.state_dict(), folder / get_weight(name).url.rpartition("/")[2])
        return network

    return put


@pytest.mark.parametrize("name", ["resnet18", "ResNet18_Weights.IMAGENET1K_V1"])
def test_torchvision_by_name(torch_home, name):
    network = torch_home("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    model = build_model(SlowFastConfig(block="basic", stage_blocks=(2, 2, 2, 2)), {"action": 5})
    loaded = load_weights(model, f"torchvision:{name}")
    assert torch.equal(model.slow.res5.block1.conv_b.weight[:, :, 0], network.layer4[1].conv2.weight)
    assert "trained with data.mean=0.485,0.456,0.406 data.std=0.229,0.224,0.225" in loaded.notes
    assert str(loaded).startswith(f"125 tensors of torchvision:{name} (torchvision); ")


@pytest.mark.parametrize("classes", [400, 5])
def test_a_video_network_of_torchvision_keeps_its_classifier(torch_home, classes):
    network = torch_home("mc3_18", "MC3_18_Weights.KINETICS400_V1").eval()
    model = create_model("mc3_18", {"action": classes}, init="torchvision:mc3_18").eval()
    if classes == 400:
        with torch.no_grad():
            torch.testing.assert_close(logits(model), network(clips()))
    loaded = load_weights(model, "torchvision:mc3_18")
    head_is_new = ("head action is new: 5 classes, 400 in the file",) if classes == 5 else ()
    normalisation = "data.mean=0.43216,0.394666,0.37645 data.std=0.22803,0.22145,0.216989"
    assert loaded.notes == (f"trained with {normalisation}", *head_is_new)
    message = refused(create_model("r3d_18", {"action": 5}), "torchvision:mc3_18")
    assert "weights have other shapes (backbone.layer2.0.conv1.0.weight is 128x64x1x3x3, " in message


@pytest.mark.parametrize(
    ("backbone", "cut", "weights"),
    [
        ("resnet18", "", "ResNet18_Weights.IMAGENET1K_V1"),
        ("resnet18", "layer2", "ResNet18_Weights.IMAGENET1K_V1"),
        ("mobilenet_v2", "features.13", "MobileNet_V2_Weights.IMAGENET1K_V2"),
        pytest.param(*("googlenet", "", "GoogLeNet_Weights.IMAGENET1K_V1"), marks=pytest.mark.slow),
        pytest.param(*("inception_v3", "", "Inception_V3_Weights.IMAGENET1K_V1"), marks=pytest.mark.slow),
        pytest.param(*("densenet121", "", "DenseNet121_Weights.IMAGENET1K_V1"), marks=pytest.mark.slow),
    ],
)
def test_an_image_network_for_every_frame(torch_home, backbone, cut, weights):
    options = {"init_weights": False} if backbone in {"googlenet", "inception_v3"} else {}
    network = torch_home(backbone, weights, **options)
    model = build_model(FrameConfig(backbone=backbone, cut=cut, temporal=LstmConfig()), {"action": 5})
    loaded = load_weights(model, f"torchvision:{backbone}")
    assert "what is behind the backbone is new" in loaded.notes
    assert not any(name.startswith("backbone.") for name in loaded.new)
    assert any(name.startswith("temporal.") for name in loaded.new)
    theirs = network.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, theirs[name])


@pytest.mark.slow
def test_names_in_the_files_of_densenet(tmp_path):
    """Older than those of the network: torchvision renames them when it loads them, and so do we."""
    from torchvision.models import densenet121

    state = densenet121().state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value for name, value in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    model = build_model(FrameConfig(backbone="densenet121"), {"action": 5})
    loaded = load_weights(model, str(saved(old, tmp_path / "densenet121.pth")))
    assert all(name.startswith("head.") for name in loaded.new)


@pytest.mark.parametrize("blocks", [(2, 2, 3, 2), (2, 2, 1, 2)])
def test_another_depth_is_refused_for_every_frame(tmp_path, blocks):
    state = image_network(blocks, kind="basic").state_dict()
    model = build_model(FrameConfig(backbone="resnet18"), {"action": 5})
    assert "backbone.layer3." in refused(model, saved(state, tmp_path / "resnet.pth"))


@pytest.mark.slow
def test_s3d_of_torchvision(torch_home):
    network = torch_home("s3d", "S3D_Weights.KINETICS400_V1").eval()
    model = create_model("s3d", {"action": 400}, init="torchvision:s3d").eval()
    assert load_weights(model, "torchvision:s3d").new == ()
    assert torch.equal(model.head.linear["action"].weight, network.classifier[1].weight.flatten(1))
    inputs = torch.randn(1, 3, 11, 49, 66)
    with torch.no_grad():
        torch.testing.assert_close(model.features(inputs), network.features(inputs))
    message = refused(create_model("i3d_inception", {"action": 5}), "torchvision:s3d")
    assert "are not of this model (conv1.spatial.conv.weight, " in message


@pytest.mark.parametrize("name", ["s3d", pytest.param("i3d_inception", marks=pytest.mark.slow)])
def test_inflated_googlenet(torch_home, name):
    """A module with convolutions over space, over time and a pool sees what it sees in an image."""
    network = torch_home("googlenet", "GoogLeNet_Weights.IMAGENET1K_V1", init_weights=False).eval()
    model = create_model(name, {"action": 5}).eval()
    loaded = load_weights(model, "torchvision:googlenet")
    assert "trained with data.mean=0.5,0.5,0.5 data.std=0.5,0.5,0.5" in loaded.notes
    assert all(".temporal.norm." in part or part.startswith("head.") for part in loaded.new)
    image = torch.rand(1, 192, 9, 9)
    with torch.no_grad():
        features = model.inception3a(image[:, :, None].repeat(1, 1, 7, 1, 1))[:, :, 3]
        torch.testing.assert_close(features, network.inception3a(image), rtol=2e-3, atol=1e-3)


@pytest.mark.slow
def test_inflated_inception_v3(torch_home):
    network = torch_home("inception_v3", "Inception_V3_Weights.IMAGENET1K_V1", init_weights=False).eval()
    model = create_model("s3d_v3", {"action": 5}).eval()
    loaded = load_weights(model, "torchvision:inception_v3")
    assert "the auxiliary classifier is new" in loaded.notes
    assert all(re.match(r"auxiliary\.|head\.|.*\.temporal\.norm\.", part) for part in loaded.new)
    image = torch.rand(1, 2048, 5, 5)
    with torch.no_grad():
        features = model.layers["18"](image[:, :, None].repeat(1, 1, 9, 1, 1))[:, :, 4]
        expected = network.Mixed_7c(image)
    torch.testing.assert_close(features, expected, rtol=5e-3, atol=5e-3)


def test_another_image_network_is_refused_with_the_keys_to_set(tmp_path):
    torch.save(image_network((1, 2, 1, 1)).state_dict(), tmp_path / "resnet.pth")
    model = build_model(ResNet3dConfig(stage_blocks=(1, 1, 2, 1)), {"action": 5})
    message = refused(model, tmp_path / "resnet.pth")
    assert "are missing (backbone.res4.block1.conv_a.weight, " in message
    assert "are not of this model (backbone.res3.block1.conv_a.weight, " in message
    assert message.endswith("; set model.stage_blocks=1,2,1,1")


@pytest.mark.parametrize(
    "name", ["resnet5000", "ResNet18_Weights.NONE", "Nothing.IMAGENET1K_V1", "", "get_model", "os.system"]
)
def test_what_torchvision_does_not_have(name):
    assert "not a network of torchvision" in refused(built(), f"torchvision:{name}")


def test_a_copy_of_torchvision_that_is_damaged(tmp_path, monkeypatch, torch_home):
    torch_home("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    copy = next(tmp_path.rglob("*.pth"))
    copy.write_bytes(copy.read_bytes()[:1000])
    message = refused(built(), "torchvision:resnet18")
    assert str(copy) in message and "damaged" in message


# -- a kineray checkpoint -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a checkpoint of four classes."""
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
    # A picture whose channels are all alike gives the same features, scaled by the number of channels.
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


def refused(model, init, **options):
    """The one line that says why; the model stays as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KinerayError) as error:
        load_weights(model, str(init), **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(error.value) is CheckpointError
    message = str(error.value)
    assert message.startswith(f"{init}: ") and "\n" not in message and len(message) < 600
    return message


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
    message = refused(built(), save(built(SLOWFAST.model_copy(update=change)), tmp_path / "x.pyth"))
    assert all(word in message for word in words), message
    keys = {key: value for key, value in change.items() if (key, value) != ("nonlocal_res4", ())}
    for key, value in keys.items():
        assert f"model.{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}" in message
    assert "; set " in message


def test_following_the_advice_is_enough(tmp_path):
    """What the error says to set can be given as it is."""
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
    keys = dict(re.findall(r" model\.(\w+)=(\S+)", str(error.value)))
    assert keys["alpha"] == "4" and keys["fusion_kernel"] == "7"
    model = create_model("slowfast_r50_4x16", {"action": 5}, init=file, **keys).eval()
    assert torch.equal(model.slow.stem.conv.weight, built(other).slow.stem.conv.weight)


def test_another_alpha_has_the_same_shapes_and_is_told(tmp_path, checkpoint):
    cfg = yaml.safe_dump({"SLOWFAST": {"ALPHA": 4}, "NONLOCAL": {"INSTANTIATION": "dot_product"}})
    file = save(built(), tmp_path / "x.pyth", cfg=cfg)
    assert load_weights(built(), file).notes == ()
    other = built(SLOWFAST.model_copy(update={"alpha": 8}))
    told = ("trained with model.alpha=4, which is another here",)
    assert load_weights(other, file).notes == told
    assert load_weights(like(checkpoint, alpha=2), checkpoint).notes == told
    # PyTorchVideo and Caffe2 do not say it, but all public networks with these laterals have alpha 4.
    wide = SLOWFAST.model_copy(update={"fusion_kernel": 7, "alpha": 8})
    assert load_weights(built(wide), save(built(wide), tmp_path / "x.pkl")).notes == told


def test_weights_of_something_else(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pth")
    message = refused(built(), tmp_path / "x.pth")
    assert "1 weights are not of this model (conv.weight)" in message
    assert message.endswith("; choose the model that they are of")


# -- files that cannot be used ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("x.pyth", b"", "damaged"),
        ("x.pyth", b"this is no file of weights", "damaged"),
        ("x.pth", b"PK\x03\x04 cut off", "damaged"),
        ("x.pkl", b"", "damaged"),
        ("x.pkl", b"this is no pickle", "damaged"),
        ("x.pkl", pickle.dumps([1, 2]), "no 'blobs'"),
        ("x.pkl", pickle.dumps({"blobs": 1}), "no 'blobs'"),
        ("x.safetensors", b"", "damaged"),
        ("x.safetensors", b"\xff" * 40, "damaged"),
    ],
)
def test_damaged_files(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    assert word in refused(built(), tmp_path / name)


def test_files_that_are_cut_off(tmp_path, checkpoint):
    for path in (tmp_path / "x.pyth", tmp_path / "x.pkl"):
        save(built(), path)
        path.write_bytes(path.read_bytes()[:-5000])
        assert "damaged" in refused(built(), path)
    whole = tmp_path / "model.safetensors"
    safetensors.torch.save_file(built().state_dict(), whole)
    whole.write_bytes(whole.read_bytes()[:-1])
    assert "damaged" in refused(built(), whole)


def test_what_is_not_there(tmp_path):
    assert "no such file or folder" in refused(built(), tmp_path / "absent.pyth")
    assert "no such file or folder" in refused(built(), tmp_path / "absent")
    assert "a folder without model.safetensors" in refused(built(), tmp_path)
    assert "no weights by name" in refused(built(), saved([1, 2], tmp_path / "list.pth"))
    assert "no weights by name" in refused(built(), saved({"epoch": 3}, tmp_path / "none.pth"))


def saved(content, path):
    torch.save(content, path)
    return path


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
        assert f"refused: it would use {os.mkdir.__module__}.mkdir" in refused(built(), tmp_path / name)
    else:
        torch.save(content, tmp_path / name)
        assert "holds more than weights" in refused(built(), tmp_path / name)
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
    message = refused(built(), tmp_path / "x.pkl")
    assert "refused: it would use" in message or "damaged" in message


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
