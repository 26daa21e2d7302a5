"""Runs that end when validation stops improving."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training_loop import run
from test_training_plan import assert_equal_state, last_state

from kineray.config import EarlyStoppingConfig, apply_overrides
from kineray.training import StepEvent


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=12), st.integers(1, 4))
def test_a_run_stops_when_no_recent_score_is_above_all_before(scores, patience):
    before, recent = scores[:-patience], scores[-patience:]
    wanted = bool(before) and max(recent) <= max(before)
    assert EarlyStoppingConfig(patience=patience, improvement=0).stops(scores) == wanted


def test_small_improvements_do_not_count():
    piece = EarlyStoppingConfig(patience=2, improvement=0.1)
    assert not piece.stops([0.5, 0.55]) and piece.stops([0.5, 0.55, 0.59])
    assert not piece.stops([0.5, 0.55, 0.65])


@pytest.mark.slow
def test_a_run_that_stops_early_is_the_same_when_it_is_resumed(tiny_experiment, tmp_path):
    """No score improves on the first by 1: the second of three epochs is the last."""
    torch.set_num_threads(1)
    changes = ["recipe.early_stopping.patience=1", "recipe.early_stopping.improvement=1", "train.epochs=3"]
    experiment = apply_overrides(tiny_experiment, changes)
    whole, events = run(experiment, tmp_path / "whole", checkpoint_every=1)
    assert len([event for event in events if isinstance(event, StepEvent)]) == whole.step == 6
    run(experiment, tmp_path / "parts", stop_after=5, checkpoint_every=1)
    resumed, _ = run(experiment, tmp_path / "parts", resume=True, checkpoint_every=1)
    assert (resumed.step, resumed.best, resumed.last) == (whole.step, whole.best, whole.last)
    assert_equal_state(last_state(tmp_path / "parts"), last_state(tmp_path / "whole"))
    again, events = run(experiment, tmp_path / "parts", resume=True)
    assert again == resumed and not [event for event in events if isinstance(event, StepEvent)]
