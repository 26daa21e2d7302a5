"""CutMix, and that mixup and CutMix take turns."""

import numpy as np
import pytest
import torch
from test_training_recipe import group, step_of

from kineray.config import Experiment, apply_overrides
from kineray.config.recipe.cutmix import CutmixConfig
from kineray.training.recipe import Recipe


def test_cutmix_pastes_one_rectangle_of_a_partner_and_mixes_targets_by_area():
    piece = CutmixConfig(alpha=1.0).build()
    clips = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 2, 2, 40, 60)  # a clip consists of its number
    _, targets = group()
    shares, distances = [], set()
    for seed in range(150):
        mixed, mixed_targets = piece.transform_group(clips, targets, np.random.default_rng(seed))
        pasted = mixed != clips
        assert torch.equal(pasted, pasted[:1, :1, :1].expand_as(pasted))  # in all clips, channels and frames
        rows, columns = pasted[0, 0, 0].any(1), pasted[0, 0, 0].any(0)
        assert torch.equal(pasted[0, 0, 0], rows[:, None] & columns)
        for line in (rows, columns):  # without gaps
            assert (line.int().diff().abs().sum() + line[0] + line[-1]).item() in (0, 2)
        area = pasted[0, 0, 0].float().mean().item()
        for clip in range(4):
            seen = set(mixed[clip][pasted[clip]].int().tolist())
            of_class = mixed_targets["action"][clip]
            assert of_class[clip].item() == pytest.approx(1 - area, abs=1e-6)
            for partner in seen:
                assert of_class[partner].item() == pytest.approx(area, abs=1e-6)
                distances.add((clip - partner) % 4)
            assert of_class.sum().item() == pytest.approx(1)
        shares.append(area)
    assert distances == {1, 2, 3}
    # Without the border the area would be uniform, with a mean of 0.5. Of a side s, whose square is uniform,
    # the border cuts off s^2 / 4 on average: E[s^2 (1 - s / 4)^2] = 1/2 - 1/5 + 1/48.
    assert np.mean(shares) == pytest.approx(0.32, abs=0.06)
    assert min(shares) < 0.05 and max(shares) > 0.7
    one, of_one = group(size=1)
    assert piece.transform_group(one, of_one, np.random.default_rng(0)) == (one, of_one)


def test_mixup_and_cutmix_take_turns_by_group():
    alone = {
        name: Recipe(apply_overrides(Experiment(), {f"recipe.{name}.alpha": 1.0}))
        for name in ("mixup", "cutmix")
    }
    both = Recipe(apply_overrides(Experiment(), {"recipe.mixup.alpha": 1.0, "recipe.cutmix.alpha": 1.0}))
    clips, targets = group(400, classes=400)
    mixed, mixed_targets = both.transform(step_of(), 0, clips, targets)
    results = {name: recipe.transform(step_of(), 0, clips, targets) for name, recipe in alone.items()}
    counts = dict.fromkeys(alone, 0)
    for start in range(0, 400, 4):
        part = slice(start, start + 4)
        drawn = [name for name, (result, _) in results.items() if torch.equal(mixed[part], result[part])]
        (name,) = drawn
        assert torch.equal(mixed_targets["action"][part], results[name][1]["action"][part])
        counts[name] += 1
    assert 35 < counts["mixup"] < 65
    later, _ = both.transform(step_of(), 200, clips[200:], {"action": targets["action"][200:]})
    assert torch.equal(later, mixed[200:])
