"""Accuracies against independent implementations and by their properties."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kineray.evaluation import metrics
from kineray.evaluation.metrics import mean_class_accuracy, per_class_accuracy, top_k_accuracy


@st.composite
def predictions(draw):
    """Scores with many ties, some clips without a prediction, and labels."""
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    rows = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=classes, max_size=classes)
    scores = np.array([draw(rows) for _ in range(clips)])
    missing = draw(st.lists(st.booleans(), min_size=clips, max_size=clips))
    scores[missing] = np.nan
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=clips, max_size=clips)))
    return scores, labels


def test_the_examples_in_the_docstrings():
    outcome = doctest.testmod(metrics)
    assert outcome.attempted >= 5
    assert outcome.failed == 0


@given(predictions(), st.integers(1, 10))
def test_top_k_is_membership_in_a_stable_ranking(case, k):
    scores, labels = case
    right = 0
    for row, label in zip(scores, labels, strict=True):
        ranking = sorted(range(len(row)), key=lambda index: (-row[index], index))
        right += not np.isnan(row).any() and label in ranking[:k]
    assert top_k_accuracy(scores, labels, k) == pytest.approx(right / len(labels))


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_equals_torch_where_no_scores_are_equal(k):
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.linspace(0, 1, 20), (200, 1)), axis=1)
    labels = rng.integers(0, 20, 200)
    best = torch.from_numpy(scores).topk(k, dim=1).indices
    expected = (best == torch.from_numpy(labels)[:, None]).any(dim=1).double().mean().item()
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_more_places_than_classes():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [np.nan, np.nan]])
    assert top_k_accuracy(scores, np.array([1, 0, 0]), 5) == pytest.approx(2 / 3)


@given(predictions())
def test_class_accuracies_weighted_by_their_clips_are_the_top_1(case):
    scores, labels = case
    of_class = np.bincount(labels, minlength=scores.shape[1])
    accuracies = per_class_accuracy(scores, labels)
    assert np.isnan(accuracies).tolist() == (of_class == 0).tolist()
    assert np.nansum(accuracies * of_class) / len(labels) == pytest.approx(top_k_accuracy(scores, labels, 1))
    assert mean_class_accuracy(scores, labels) == pytest.approx(np.mean(accuracies[of_class > 0]))


@pytest.mark.parametrize(
    ("scores", "labels", "k"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), 1),
        (np.zeros((2, 3)), np.array([0, -1]), 1),
        (np.zeros((2, 3)), np.array([0]), 1),
        (np.zeros((0, 3)), np.array([], int), 1),
        (np.zeros(3), np.array([0, 1, 2]), 1),
        (np.zeros((2, 3)), np.array([0, 1]), 0),
    ],
)
def test_what_cannot_be_scored_is_refused(scores, labels, k):
    with pytest.raises(ValueError):
        top_k_accuracy(scores, labels, k)
