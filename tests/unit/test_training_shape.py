"""The shape of a run: the published run's numbers, and what differs from step to step."""

import math
import runpy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training_plan import Varied

from kineray.config import apply_overrides
from kineray.data import ClipShape
from kineray.errors import ConfigError
from kineray.training import ExperimentPlan, RunShape, shape_of

published = runpy.run_path(str(Path(__file__).parents[2] / "experiments/slowfast.py"))["experiment"]

# Training clips: 234 batches of 1024, so that 34 epochs are the 8k steps of the paper's warm-up.
KINETICS = 239_975
PER_EPOCH = 234

# SlowFast on 128 GPUs x 8 clips: the paper's schedule (base 1.6) as PySlowFast computes it with 16 shards.
PUBLISHED = {0: 0.16, 17: 0.822, 34: 1.484, 98: 0.80, 150: 0.208}


def paper_rate(epoch):
    """Half-period cosine from 1.6, before it a linear warm-up from 16 x 0.01 to its value at epoch 34."""
    cosine = lambda at: 1.6 * 0.5 * (math.cos(math.pi * at / 196) + 1)  # noqa: E731
    return 0.16 + (cosine(34) - 0.16) * epoch / 34 if epoch < 34 else cosine(epoch)


@pytest.fixture(scope="module")
def shape():
    return shape_of(published, KINETICS, workers=128)


@pytest.mark.parametrize(("epoch", "rate"), PUBLISHED.items())
def test_the_learning_rate_of_the_128_gpu_run_is_the_published_one(epoch, rate):
    step = ExperimentPlan(published, KINETICS).at(epoch * PER_EPOCH)
    assert step.lr == pytest.approx(rate, abs=5e-4) and step.lr == pytest.approx(paper_rate(epoch))


def test_the_curve_of_the_128_gpu_run_follows_it_at_every_step(shape):
    steps, rates = [point.step for point in shape.curve], [point.lr for point in shape.curve]
    between = np.interp(np.arange(shape.total_steps), steps, rates)
    wanted = [paper_rate(step / PER_EPOCH) for step in range(shape.total_steps)]
    assert np.abs(between - wanted).max() <= 0.016
    assert (steps[:2], steps[-1]) == ([0, 34 * PER_EPOCH], 196 * PER_EPOCH - 1) and len(steps) < 12
    assert [point.epoch for point in shape.curve[:2]] == [0, 34]


def test_the_shape_of_the_128_gpu_run(shape):
    assert (shape.total_steps, shape.epochs, shape.steps_per_epoch) == (45_864, 196, (234, 234))
    assert (shape.clips_per_epoch, shape.dropped_clips) == (KINETICS, KINETICS - 234 * 1024)
    [kind] = shape.kinds
    assert (kind.global_batch, kind.bn_group, kind.steps, kind.micro_batches) == (1024, 8, 45_864, 1)
    assert kind.clip == ClipShape(frames=32, stride=2, short_side=(256, 320), crop=224)


def test_the_busiest_worker_counts(tiny_experiment):
    """4 groups of 4 clips: 3 workers hold 1, 1 and 2 of them."""
    for workers, micro_batch, most in ((1, None, 4), (1, 8, 2), (3, None, 2), (3, 8, 1), (4, None, 1)):
        shape = shape_of(tiny_experiment, 48, micro_batch=micro_batch, workers=workers)
        assert shape.kinds[0].micro_batches == most
    assert shape_of(tiny_experiment, 48).kinds[0].micro_batches is None
    for refused, code in (({"workers": 5}, "too_many_workers"), ({"micro_batch": 6}, "not_whole_groups")):
        with pytest.raises(ConfigError) as error:
            shape_of(tiny_experiment, 48, **refused)
        assert error.value.code == code


def test_several_clips_of_a_sample_count_one_by_one(tiny_experiment):
    shape = shape_of(apply_overrides(tiny_experiment, ["data.clips_per_sample=2"]), 50)
    assert (shape.clips_per_epoch, shape.dropped_clips, shape.steps_per_epoch) == (100, 4, (6, 6))


def test_steps_that_differ_are_counted_by_kind():
    shape = RunShape.of(Varied(), 50, 4, workers=1)
    assert (shape.total_steps, shape.epochs, shape.steps_per_epoch) == (8, 2, (4, 4))
    assert sum(kind.steps for kind in shape.kinds) == 8
    assert {kind.global_batch: kind.micro_batches for kind in shape.kinds}[20] == 5
    assert shape.dropped_clips == 50 - 44
    assert all(shape.lines().values())


@dataclass(frozen=True)
class OfRates:
    """A plan of one epoch with these learning rates."""

    rates: tuple[float, ...]

    @property
    def total_steps(self):
        return len(self.rates)

    def at(self, index):
        done = (index + 1) / len(self.rates)
        return replace(Varied().at(0), index=index, first=16 * index, lr=self.rates[index], epochs_done=done)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60))
def test_lines_between_the_points_of_a_curve_are_near_every_rate(rates):
    curve = RunShape.of(OfRates(tuple(rates)), 16 * len(rates), 4).curve
    between = np.interp(np.arange(len(rates)), [point.step for point in curve], [point.lr for point in curve])
    assert np.abs(between - rates).max() <= 0.01 * max(rates) + 1e-12
    assert [point.lr for point in curve] == [rates[point.step] for point in curve]


def test_a_jump_and_a_constant_rate_are_their_ends():
    curve = RunShape.of(OfRates((1.0,) * 10 + (0.1,) * 10), 320, 4).curve
    assert [(point.step, point.lr) for point in curve] == [(0, 1.0), (9, 1.0), (10, 0.1), (19, 0.1)]
    assert [point.step for point in RunShape.of(OfRates((0.5,) * 20), 320, 4).curve] == [0, 19]
