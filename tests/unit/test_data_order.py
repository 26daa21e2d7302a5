"""The order and the randomness of samples are pure functions, the same on every machine."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kineray.data import global_order, sample_rng


@given(n=st.integers(0, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 500))
def test_an_order_is_a_permutation(n, seed, epoch):
    order = global_order(n, seed, epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, global_order(n, seed, epoch))


def test_seeds_and_epochs_give_other_orders():
    orders = [tuple(global_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_every_position_is_equally_likely():
    counts = np.zeros((6, 6))
    for epoch in range(3000):
        counts[np.arange(6), global_order(6, 1, epoch)] += 1
    # Binomial(3000, 1/6): five standard deviations are 102.
    assert np.abs(counts - 500).max() < 102


def test_values_are_pinned():
    """A resumed run on another machine or NumPy version must go on in the same order."""
    assert global_order(10, 0, 0).tolist() == [0, 9, 3, 4, 6, 1, 5, 8, 7, 2]
    assert sample_rng(7, 3, "abseiling/x").integers(0, 1000, 5).tolist() == [146, 675, 164, 216, 818]


def test_every_part_of_the_key_counts():
    draws = {
        sample_rng(*key).random()
        for key in [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    }
    assert len(draws) == 5
    assert sample_rng(0, 0, "a").random() == sample_rng(0, 0, "a", 0).random()
