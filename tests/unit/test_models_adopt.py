"""A network of plain torch layers, as a user writes it, trains exactly."""

import copy

import torch
from torch import nn

from kineray.config import ModelSection
from kineray.models import (
    GhostBatchNorm,
    build_model,
    commit_batch_norm,
    set_batch_norm_group,
    set_clip_seeds,
)
from kineray.models.blocks import ClipDropout, adopt


class PlainConfig(ModelSection):
    def build(self, heads, in_channels=3):
        return Plain(heads, in_channels)


class Plain(nn.Module):
    """Over clips, and over images after the frames were folded into the batch."""

    def __init__(self, heads, in_channels):
        super().__init__()
        self.of_clips = nn.Sequential(
            nn.Conv3d(in_channels, 4, 3, stride=(1, 4, 4)), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.3)
        )
        self.of_images = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
        self.classify = nn.ModuleDict({head: nn.Linear(6, classes) for head, classes in heads.items()})

    def forward(self, clips_bcthw):
        images = self.of_clips(clips_bcthw).transpose(1, 2)
        features = self.of_images(images.flatten(0, 1)).mean((2, 3)).unflatten(0, images.shape[:2]).mean(1)
        return {head: classify(features) for head, classify in self.classify.items()}


def trained(model, clips, micro_batch):
    """Logits and state after one step over groups of two clips."""
    model = copy.deepcopy(model).train()
    set_batch_norm_group(model, 2)
    parts = []
    for first in range(0, len(clips), micro_batch):
        part = clips[first : first + micro_batch]
        set_clip_seeds(model, range(first, first + len(part)))
        parts.append(model(part)["action"].detach())
    commit_batch_norm(model)
    return torch.cat(parts), model.state_dict()


def test_a_step_does_not_depend_on_the_micro_batch():
    torch.manual_seed(0)
    model = build_model(PlainConfig(), {"action": 3})
    clips = torch.randn(8, 3, 4, 32, 32)
    expected, state = trained(model, clips, 2)
    for micro_batch in (4, 6, 8):
        logits, other = trained(model, clips, micro_batch)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        for name, value in state.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_names_weights_and_evaluation_stay():
    torch.manual_seed(0)
    plain = Plain({"action": 3}, 3)
    ours = adopt(copy.deepcopy(plain))
    clips = torch.randn(2, 3, 4, 32, 32)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert torch.equal(ours.eval()(clips)["action"], plain.eval()(clips)["action"])
    norm, dropout = ours.of_clips[1], ours.of_clips[3]
    assert isinstance(norm, GhostBatchNorm) and isinstance(norm, nn.BatchNorm3d)
    assert isinstance(dropout, ClipDropout) and isinstance(dropout, nn.Dropout)


def test_a_layer_that_is_used_twice_stays_one_layer():
    shared = nn.BatchNorm1d(3)
    network = adopt(nn.ModuleList([nn.Sequential(shared), shared]))
    assert network[0][0] is network[1] is shared and isinstance(shared, GhostBatchNorm)


def test_what_cannot_be_exact_stays_as_it_is_with_a_warning(caplog):
    layers = [
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.BatchNorm1d(3, momentum=None),
        nn.AlphaDropout(),
    ]
    network = adopt(nn.ModuleList([*layers, nn.Dropout()]))
    assert [type(layer) for layer in network][:3] == [nn.BatchNorm1d, nn.BatchNorm1d, nn.AlphaDropout]
    assert [record.args[0] for record in caplog.records] == ["0", "1", "2"]


def test_a_batch_norm_without_weights_is_exact():
    bare = adopt(nn.Sequential(nn.BatchNorm1d(3, affine=False))).train()
    set_batch_norm_group(bare, 2)
    assert bare(torch.randn(4, 3)).mean().abs() < 1e-6
