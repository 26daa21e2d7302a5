"""The order and the randomness of samples are pure functions, the same on every machine."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kineray.data.batches.order import balanced_order, global_order, repeats
from kineray.data.clips.seeds import sample_rng


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


def test_a_repeated_sample_is_drawn_anew():
    assert sample_rng(0, 0, "a", 0, 0).random() == sample_rng(0, 0, "a", 0).random()
    assert (
        len({sample_rng(0, 0, "a", attempt, repeat).random() for attempt in (0, 1) for repeat in (0, 1)}) == 4
    )


@given(st.lists(st.integers(0, 9), max_size=60))
def test_repeats_count_what_came_before(values):
    wanted = [values[:position].count(value) for position, value in enumerate(values)]
    assert repeats(np.array(values, np.int64)).tolist() == wanted


# -- balanced ---------------------------------------------------------------------------------------

some_labels = st.lists(st.integers(-1, 7), min_size=1, max_size=120).map(lambda x: np.array(x, np.int64))
a_power = st.sampled_from([0.0, 0.5, 0.7, 1.0])


@given(labels=some_labels, seed=st.integers(0, 2**40), epochs=st.integers(1, 6), power=a_power)
def test_classes_take_their_shares_and_samples_take_turns(labels, seed, epochs, power):
    assume((labels >= 0).any())
    orders = [balanced_order(labels, seed, epoch, power) for epoch in range(epochs)]
    for epoch, order in enumerate(orders):
        assert order.dtype == np.int64 and len(order) == len(labels)
        np.testing.assert_array_equal(order, balanced_order(labels, seed, epoch, power))
    seen = np.bincount(np.concatenate(orders), minlength=len(labels))
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    shares = counts**power / (counts**power).sum()
    assert seen[labels < 0].sum() == 0
    for label, share in zip(classes, shares, strict=True):
        of_class = seen[labels == label]
        assert abs(of_class.sum() - share * len(labels) * epochs) < 1 + 1e-6
        assert of_class.max() - of_class.min() <= 1
        if power < 1:
            assert all((labels[order] == label).any() for order in orders)


@given(labels=some_labels, seed=st.integers(0, 99), epoch=st.integers(0, 50))
def test_power_one_without_gaps_is_a_permutation(labels, seed, epoch):
    labels = labels.clip(0)
    order = balanced_order(labels, seed, epoch, 1.0)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))


def test_the_shares_of_an_uneven_set():
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    counts = {power: np.bincount(labels[balanced_order(labels, 0, 0, power)]) for power in (0.0, 0.5, 1.0)}
    assert counts[1.0].tolist() == [900, 90, 10]
    assert counts[0.5].tolist() == [703, 223, 74]  # 30 : 9.487 : 3.162
    assert counts[0.0].tolist() == [334, 333, 333]
    thirds = [np.bincount(labels[balanced_order(labels, 0, epoch, 0.0)]).tolist() for epoch in range(3)]
    assert np.sum(thirds, axis=0).tolist() == [1000, 1000, 1000]  # nobody is always rounded up


def test_a_balanced_epoch_is_mixed():
    """Every position is as likely to hold each class as any other; seeds and epochs differ."""
    labels = np.repeat([0, 1], [30, 3])
    orders = [balanced_order(labels, seed, epoch, 0.0) for seed in range(20) for epoch in range(20)]
    assert len({tuple(order) for order in orders}) == 400
    by_position = (labels[np.stack(orders)] == 1).mean(axis=0)
    assert np.abs(by_position - 0.5).max() < 0.125  # five deviations of a mean of 400
    first_seen = np.bincount([order[labels[order] == 0][0] for order in orders], minlength=30)[:30]
    assert first_seen.max() < 32  # Poisson of mean 13.3, five deviations


def test_nothing_to_balance():
    with pytest.raises(ValueError, match="no sample has a label"):
        balanced_order(np.array([-1, -1]), 0, 0, 0.5)
    for labels, power in ((np.zeros((2, 2), int), 0.5), (np.zeros(2, int), -0.1), (np.zeros(2, int), np.nan)):
        with pytest.raises(ValueError, match=r"labels must be \[N\] and power from 0 to 1"):
            balanced_order(labels, 0, 0, power)


def test_balanced_values_are_pinned():
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, -1])
    assert balanced_order(labels, 0, 0, 0.5).tolist() == [7, 0, 8, 2, 3, 6, 8, 1, 6, 4]
    assert balanced_order(labels, 7, 3, 0.0).tolist() == [0, 6, 8, 1, 7, 8, 3, 8, 6, 0]
