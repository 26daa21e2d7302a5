"""Dropout whose masks depend on the clips alone."""

import pytest
import torch
from torch import nn

from kineray.config import C3DConfig, SlowFastConfig, TwoStreamConfig
from kineray.models import build_model, checkpoint_activations, set_clip_seeds
from kineray.models.blocks import ClipDropout, adopt
from kineray.training.step import clip_seed

FEATURES = torch.ones(6, 1, 500)


def dropped(seeds, features=FEATURES, p=0.3):
    layer = ClipDropout(p).train()
    set_clip_seeds(layer, seeds)
    return layer(features)


def test_the_mask_is_a_function_of_the_seed_alone():
    seeds = [clip_seed(0, 3, position) for position in range(6)]
    whole = dropped(seeds)
    torch.manual_seed(99)
    parts = torch.cat([dropped(seeds[:2], FEATURES[:2]), dropped(seeds[2:], FEATURES[2:])])
    assert torch.equal(whole, parts)
    assert torch.equal(whole[[4, 1]], dropped([seeds[4], seeds[1]], FEATURES[:2]))


def test_seeds_differ_by_run_step_and_position():
    seeds = {
        clip_seed(run, step, position) for run in range(3) for step in range(20) for position in range(20)
    }
    assert len(seeds) == 3 * 20 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    masks = dropped([clip_seed(0, step, 0) for step in range(6)])
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 6


def test_it_drops_the_given_share_and_scales_the_rest():
    out = dropped(list(range(6)))
    assert {round(value, 5) for value in out.unique().tolist()} == {0.0, round(1 / 0.7, 5)}
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)  # 3.6 standard deviations
    assert dropped([1] * 6, FEATURES.bfloat16()).dtype == torch.bfloat16


def test_the_frames_of_a_clip_may_lie_in_the_batch_dimension():
    folded = dropped([1, 2], torch.ones(2 * 3, 500))
    assert torch.equal(folded[3:], dropped([2], torch.ones(3, 500)))
    assert dropped([1, 2], torch.ones(3, 500)).shape == (3, 500)  # rows that are no clips


def test_it_is_ordinary_dropout_without_seeds_and_does_nothing_in_evaluation_or_at_zero():
    torch.manual_seed(0)
    assert 0 < (dropped(None) == 0).float().mean() < 1
    assert torch.equal(dropped([1] * 6, p=0.0), FEATURES)
    assert torch.equal(ClipDropout(0.9).eval()(FEATURES), FEATURES)


def test_channels_are_dropped_whole_and_by_the_clip_alone():
    torch.manual_seed(0)
    channels = torch.ones(4, 50, 2, 3)
    for dropout, features in (
        (nn.Dropout1d(0.3), channels[..., 0]),
        (nn.Dropout2d(0.3), channels),
        (nn.Dropout3d(0.3), channels[..., None]),
    ):
        layer = adopt(nn.Sequential(dropout)).train()
        for seeds in (range(4), None):
            set_clip_seeds(layer, seeds)
            kept = layer(features).flatten(2)
            assert torch.equal(kept, kept[..., :1].expand_as(kept))
            assert {round(value, 5) for value in kept.unique().tolist()} == {0.0, round(1 / 0.7, 5)}
        set_clip_seeds(layer, range(4))
        whole = layer(features)
        set_clip_seeds(layer, [3])
        assert torch.equal(layer(features[3:]), whole[3:])


def masks(model, clips, seeds):
    """{dropout layer: what it keeps of every clip} of a training pass and its backward pass."""
    found, handles = {}, []

    def ones(_layer, inputs):
        return (torch.ones_like(inputs[0]) + 0 * inputs[0],)

    for name, layer in model.named_modules():
        if isinstance(layer, ClipDropout):
            found[name] = []
            handles.append(layer.register_forward_pre_hook(ones))
            handles.append(
                layer.register_forward_hook(lambda _, __, out, name=name: found[name].append(out != 0))
            )
    set_clip_seeds(model, seeds)
    outputs = model(clips)
    torch.stack([values.square().sum() for values in outputs.values()]).sum().backward()
    for handle in handles:
        handle.remove()
    return {name: torch.stack(kept) for name, kept in found.items()}


C3D = (C3DConfig(width=4, dropout=0.5), (3, 16, 112, 112))
STREAM = SlowFastConfig(
    stage_blocks=(1, 1, 1, 1), width=8, alpha=2, beta_inv=4, head_pool=1, dropout=0.5, fusion_kernel=1
)
TWO_STREAM = (TwoStreamConfig(rgb=STREAM, flow=STREAM), (5, 4, 32, 32))


@pytest.mark.parametrize(
    ("config", "shape", "layers"),
    [(*C3D, {"dropout", "head.dropout"}), (*TWO_STREAM, {"rgb.head.dropout", "flow.head.dropout"})],
    ids=["c3d", "two_stream"],
)
def test_layers_of_equal_shape_have_different_masks(config, shape, layers):
    torch.manual_seed(0)
    model = build_model(config, {"action": 3}, shape[0]).train()
    clips = torch.randn(3, *shape)
    found = masks(model, clips, [5, 6, 7])
    assert set(found) == layers
    one, other = found.values()
    assert one.shape == other.shape
    agreement = (one == other).float().mean().item()
    assert agreement == pytest.approx(0.5, abs=0.1)  # independent halves agree half of the time

    again = masks(model, clips[1:], [6, 7])  # as another worker or micro-batch has them
    checkpoint_activations(model)
    checkpointed = masks(model, clips, [5, 6, 7])
    for name, kept in found.items():
        assert torch.equal(kept[0, 1:], again[name][0])
        assert all(torch.equal(kept[0], once) for once in checkpointed[name])
