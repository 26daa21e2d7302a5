"""Weights of torchvision: inflated image networks, backbones of frames, and video networks."""

import re

import pytest
import torch
from slow_cases import slow_after
from weights_files import built, clips, logits, randomise, refused, saved

from kineray.config import FrameConfig, LstmConfig, ResNet3dConfig, SlowFastConfig
from kineray.models import build_model, create_model, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def image_network(blocks=(1, 1, 1, 1), kind="bottleneck"):
    from torchvision.models import ResNet
    from torchvision.models.resnet import BasicBlock, Bottleneck

    torch.manual_seed(3)
    network = ResNet({"bottleneck": Bottleneck, "basic": BasicBlock}[kind], list(blocks)).eval()
    randomise(network)
    return network


def maps(network, images):
    """The feature maps of an image ResNet."""
    with torch.no_grad():
        for layer in list(network.children())[:-2]:
            images = layer(images)
    return images


def frozen_picture(frames):
    image = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(4))
    return image, image[:, :, None].repeat(1, 1, frames, 1, 1)


@pytest.mark.parametrize(("variant", "frames"), slow_after(1, [("c2d", 2), ("slow", 9), ("i3d", 18)]))
def test_an_inflated_network_computes_for_a_repeated_frame_what_the_image_network_computes(
    tmp_path, variant, frames
):
    """In the middle of the clip, which the padding of the temporal convolutions does not reach."""
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


@pytest.mark.parametrize("kind", slow_after(1, ["bottleneck", "basic"]))
def test_the_slow_pathway_starts_from_an_image_network(tmp_path, kind):
    """Whatever the Fast pathway computes, since its contribution has zero weights."""
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


@pytest.mark.parametrize("name", slow_after(1, ["resnet18", "ResNet18_Weights.IMAGENET1K_V1"]))
def test_torchvision_by_name(torch_home, name):
    network = torch_home("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    model = build_model(SlowFastConfig(block="basic", stage_blocks=(2, 2, 2, 2)), {"action": 5})
    loaded = load_weights(model, f"torchvision:{name}")
    assert torch.equal(model.slow.res5.block1.conv_b.weight[:, :, 0], network.layer4[1].conv2.weight)
    assert "trained with data.mean=0.485,0.456,0.406 data.std=0.229,0.224,0.225" in loaded.notes
    assert str(loaded).startswith(f"125 tensors of torchvision:{name} (torchvision); ")


@pytest.mark.parametrize("classes", slow_after(1, [5, 400]))
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
    error = refused(create_model("r3d_18", {"action": 5}), "torchvision:mc3_18")
    assert "weights have other shapes (backbone.layer2.0.conv1.0.weight is 128x64x1x3x3, " in error.problem


@pytest.mark.parametrize(
    ("backbone", "cut", "weights"),
    slow_after(
        1,
        [
            ("resnet18", "layer2", "ResNet18_Weights.IMAGENET1K_V1"),
            ("resnet18", "", "ResNet18_Weights.IMAGENET1K_V1"),
            ("mobilenet_v2", "features.13", "MobileNet_V2_Weights.IMAGENET1K_V2"),
            ("googlenet", "", "GoogLeNet_Weights.IMAGENET1K_V1"),
            ("inception_v3", "", "Inception_V3_Weights.IMAGENET1K_V1"),
            ("densenet121", "", "DenseNet121_Weights.IMAGENET1K_V1"),
        ],
    ),
)
def test_an_image_network_for_every_frame(torch_home, backbone, cut, weights):
    options = {"init_weights": False} if backbone in {"googlenet", "inception_v3"} else {}
    network = torch_home(backbone, weights, **options)
    model = build_model(FrameConfig(backbone=backbone, cut=cut, temporal=LstmConfig()), {"action": 5})
    loaded = load_weights(model, f"torchvision:{backbone}")
    assert "everything after the backbone is new" in loaded.notes
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


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [(2, 2, 3, 2), (2, 2, 1, 2)])
def test_another_depth_is_refused_for_every_frame(tmp_path, blocks):
    state = image_network(blocks, kind="basic").state_dict()
    model = build_model(FrameConfig(backbone="resnet18"), {"action": 5})
    assert "backbone.layer3." in refused(model, saved(state, tmp_path / "resnet.pth")).problem


@pytest.mark.slow
def test_s3d_of_torchvision(torch_home):
    network = torch_home("s3d", "S3D_Weights.KINETICS400_V1").eval()
    model = create_model("s3d", {"action": 400}, init="torchvision:s3d").eval()
    assert load_weights(model, "torchvision:s3d").new == ()
    assert torch.equal(model.head.linear["action"].weight, network.classifier[1].weight.flatten(1))
    inputs = torch.randn(1, 3, 11, 49, 66)
    with torch.no_grad():
        torch.testing.assert_close(model.features(inputs), network.features(inputs))
    error = refused(create_model("i3d_inception", {"action": 5}), "torchvision:s3d")
    assert "are not of this model (conv1.spatial.conv.weight, " in error.problem


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s3d", "i3d_inception"])
def test_inflated_googlenet(torch_home, name):
    """A module of spatial and temporal convolutions and a pool computes what it computes for an image."""
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
    error = refused(model, tmp_path / "resnet.pth")
    assert "are missing (backbone.res4.block1.conv_a.weight, " in error.problem
    assert "are not of this model (backbone.res3.block1.conv_a.weight, " in error.problem
    assert error.remedy == "set model.stage_blocks=1,2,1,1"


@pytest.mark.parametrize(
    "name", ["resnet5000", "ResNet18_Weights.NONE", "Nothing.IMAGENET1K_V1", "", "get_model", "os.system"]
)
def test_names_that_torchvision_does_not_have_are_refused(name):
    assert refused(built(), f"torchvision:{name}").code == "unknown_model"


def test_a_damaged_copy_in_the_cache_of_torchvision_is_refused(tmp_path, monkeypatch, torch_home):
    torch_home("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    copy = next(tmp_path.rglob("*.pth"))
    copy.write_bytes(copy.read_bytes()[:1000])
    error = refused(built(), "torchvision:resnet18")
    assert error.code == "damaged" and str(copy) in error.problem
