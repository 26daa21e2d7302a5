"""A slow worker is found in time, with the right cause; noise alone raises no alarm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineray.training import line_of
from kineray.training.stragglers import CAUSES, Stragglers

MEDIAN_S = np.array([0.005, 0.002, 0.4])  # of data wait, copy and compute


def noisy(rng, steps, workers):
    """Seconds [step, rank, cause] of undisturbed workers.

    Most steps are within a few percent, some take a multiple, a slow phase of one worker lasts for several
    steps, and every 50th step all wait for decoders.
    """
    seconds = MEDIAN_S * rng.lognormal(0.0, (0.8, 0.3, 0.08), (steps, workers, 3))
    seconds *= np.where(rng.random((steps, workers, 1)) < 0.02, rng.uniform(1.5, 6.0, (steps, workers, 1)), 1)
    for start, rank in zip(
        rng.integers(0, steps, steps // 200), rng.integers(0, workers, steps // 200), strict=True
    ):
        seconds[start : start + rng.integers(3, 12), rank] *= 2
    seconds[::50, :, 0] += rng.exponential(1.0, (len(seconds[::50]), workers))
    return seconds


def found(seconds_trc):
    watch = Stragglers([f"host{rank // 2}" for rank in range(seconds_trc.shape[1])])
    return [event for step, seconds in enumerate(seconds_trc) for event in watch(step, seconds.tolist())]


@pytest.mark.parametrize("workers", [2, 8])
def test_ten_thousand_undisturbed_steps_raise_no_alarm(workers):
    assert found(noisy(np.random.default_rng(workers), 10_000, workers)) == []


def test_workers_that_all_wait_for_their_decoders_are_no_stragglers():
    seconds = noisy(np.random.default_rng(0), 5_000, 4)
    seconds[:, :, 0] = np.random.default_rng(1).exponential(0.5, seconds.shape[:2])
    assert found(seconds) == []


@pytest.mark.parametrize("workers", [2, 3, 16])
@pytest.mark.parametrize("cause", CAUSES)
def test_a_slow_worker_is_found_within_fifty_steps_with_its_cause(workers, cause):
    rng = np.random.default_rng(7)
    for start in (120, 333):
        seconds = noisy(rng, start + 50, workers)
        slow = int(rng.integers(workers))
        seconds[start:, slow, CAUSES.index(cause)] += 0.4 * rng.uniform(0.9, 1.3, 50)
        (event,) = found(seconds)
        assert (event.rank, event.host, event.cause) == (slow, f"host{slow // 2}", cause)
        assert event.step - start < 50 and abs(event.since - start) <= 5
        assert 1.8 < event.ratio < 2.4


def test_one_that_was_slow_from_the_start_is_found_too_and_reported_once():
    seconds = noisy(np.random.default_rng(3), 500, 4)
    seconds[:, 2, 2] *= 1.5
    (event,) = found(seconds)
    assert (event.rank, event.since <= 1, event.step <= 40) == (2, True, True)
    assert line_of(event).startswith("rank 2 on host1 takes 1.5x as long as the others")
    assert line_of(event).endswith(f"since step {event.since}: compute")


def test_one_that_recovers_and_slows_down_again_is_reported_again():
    seconds = noisy(np.random.default_rng(4), 400, 4)
    for start in (50, 250):
        seconds[start : start + 100, 1, 0] += 1.0
    assert [
        (event.rank, abs(event.since - start) <= 5)
        for event, start in zip(found(seconds), (50, 250), strict=True)
    ] == [(1, True)] * 2


def test_two_slow_workers_of_many_are_both_named():
    seconds = noisy(np.random.default_rng(5), 200, 8)
    seconds[100:, [1, 6], 2] *= 1.6
    assert {event.rank for event in found(seconds)} == {1, 6}


@given(st.integers(1, 5), st.sampled_from([0.0, 0.3]))
def test_workers_that_are_equally_slow_are_not_reported(workers, seconds):
    assert found(np.full((100, workers, 3), seconds)) == []
