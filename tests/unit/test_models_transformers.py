"""Video Swin and MViT are torchvision's, with its parameters, its weights and its logits."""

import pytest
import torch
from published_numbers import size
from slow_cases import slow_after
from torchvision.models import video
from weights_files import built, logits

from kineray.config import MViTConfig, Swin3DConfig
from kineray.errors import ConfigError
from kineray.models import create_model, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["swin3d_t", "mvit_v2_s", "swin3d_s", "swin3d_b", "mvit_v1_b"]


@pytest.mark.parametrize("name", slow_after(2, NAMES))
def test_the_layers_are_torchvisions(name):
    with torch.device("meta"):
        ours, theirs = create_model(name, {"action": 400}), getattr(video, name)()
    found = {key.removeprefix("backbone."): value.shape for key, value in ours.state_dict().items()}
    wanted = {key: value.shape for key, value in theirs.state_dict().items()}
    ending = "head.1." if name.startswith("mvit") else "head."
    for part in ("weight", "bias"):
        assert found.pop(f"head.linear.action.{part}") == wanted.pop(f"{ending}{part}")
    assert found == wanted and size(ours) == size(theirs)


@pytest.mark.parametrize(
    ("config", "theirs", "clip"),
    [
        (
            Swin3DConfig(width=12, stage_blocks=(1, 2, 1, 1)),
            lambda: video.SwinTransformer3d(
                [2, 4, 4], 12, [1, 2, 1, 1], [3, 6, 12, 24], [8, 7, 7], num_classes=5
            ),
            (2, 3, 8, 64, 48),
        ),
        (
            MViTConfig(),
            video.mvit_v2_s,
            None,
        ),
        (
            MViTConfig(version="v1"),
            video.mvit_v1_b,
            None,
        ),
    ],
    ids=["swin3d", "mvit_v2", "mvit_v1"],
)
@pytest.mark.slow
def test_its_files_give_the_same_logits(config, theirs, clip, tmp_path):
    torch.manual_seed(2)
    network = theirs().eval()
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.05)
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    classes = 5 if clip else 400
    ours = built(config, classes)
    loaded = load_weights(ours, str(tmp_path / "theirs.pth"))
    assert (loaded.origin, loaded.new, loaded.notes) == ("torchvision", (), ())
    clips = torch.randn(clip or (1, 3, 16, 224, 224), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(clips)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits(ours, clips), expected, rtol=1e-4, atol=1e-5)


def test_mvit_takes_the_clips_that_it_is_made_for():
    config = MViTConfig(frames=4, side=64)
    config.check_clip(4, 64, 64)
    for clip, key in [((8, 64, 64), "frames"), ((4, 56, 64), "crop"), ((4, 64, 56), "eval_crop")]:
        with pytest.raises(ConfigError) as error:
            config.check_clip(*clip)
        assert error.value.key == f"data.{key}"
