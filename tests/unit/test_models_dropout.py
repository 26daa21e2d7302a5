"""Dropout whose masks belong to the clips."""

import pytest
import torch

from kineray.models import set_clip_seeds
from kineray.models.blocks import ClipDropout
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


def test_it_is_dropout():
    out = dropped(list(range(6)))
    assert {round(value, 5) for value in out.unique().tolist()} == {0.0, round(1 / 0.7, 5)}
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)  # 3.6 standard deviations
    assert dropped([1] * 6, FEATURES.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="2 clip seeds for 6 clips"):
        dropped([1, 2])


def test_without_seeds_in_evaluation_and_at_zero():
    torch.manual_seed(0)
    assert 0 < (dropped(None) == 0).float().mean() < 1
    assert torch.equal(dropped([1] * 6, p=0.0), FEATURES)
    assert torch.equal(ClipDropout(0.9).eval()(FEATURES), FEATURES)
