"""Every metric against an independent implementation, and by its properties."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score

import kineray.metrics
from kineray.metrics import (
    average_precision,
    label_ranks,
    mean_class_accuracy,
    pair_ranks,
    per_class_accuracy,
    share_within,
    shares_within,
    top_k_accuracy,
)

FEW = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])  # so that many scores are equal


def score_rows(draw, clips, classes):
    rows = st.lists(FEW, min_size=classes, max_size=classes)
    return np.array([draw(rows) for _ in range(clips)])


@st.composite
def single_labels(draw):
    """Scores with many ties, some clips without a prediction, and a label each."""
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    scores = score_rows(draw, clips, classes)
    scores[draw(st.lists(st.booleans(), min_size=clips, max_size=clips))] = np.nan
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=clips, max_size=clips)))
    return scores, labels


@st.composite
def several_labels(draw):
    """Scores with many ties, and which classes each clip has."""
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    scores = score_rows(draw, clips, classes)
    rows = st.lists(st.integers(0, 1), min_size=classes, max_size=classes)
    return scores, np.array([draw(rows) for _ in range(clips)])


def test_the_examples_in_the_docstrings():
    names = [module.name for module in pkgutil.iter_modules(kineray.metrics.__path__)]
    outcomes = [doctest.testmod(importlib.import_module(f"kineray.metrics.{name}")) for name in names]
    assert sum(outcome.attempted for outcome in outcomes) >= 9
    assert sum(outcome.failed for outcome in outcomes) == 0


@settings(deadline=None)
@given(single_labels(), st.integers(1, 10))
def test_top_k_is_membership_in_a_stable_ranking(case, k):
    scores, labels = case
    right = 0
    for row, label in zip(scores, labels, strict=True):
        ranking = sorted(range(len(row)), key=lambda index: (-row[index], index))
        right += not np.isnan(row).any() and label in ranking[:k]
    assert top_k_accuracy(scores, labels, k) == pytest.approx(right / len(labels))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_equals_torch_where_no_scores_are_equal(k):
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.linspace(0, 1, 20), (200, 1)), axis=1)
    labels = rng.integers(0, 20, 200)
    best = torch.from_numpy(scores).topk(k, dim=1).indices
    expected = (best == torch.from_numpy(labels)[:, None]).any(dim=1).double().mean().item()
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


@given(single_labels(), st.lists(st.integers(1, 10), unique=True))
def test_no_share_is_given_that_guessing_would_bring_to_half(case, ks):
    scores, labels = case
    classes = scores.shape[1]
    ranks = label_ranks(scores, labels)
    shares = shares_within(ranks, ks, classes)
    assert list(shares) == [f"top{k}" for k in ks if k == 1 or k / classes <= 0.5]
    assert all(shares[f"top{k}"] == top_k_accuracy(scores, labels, k) for k in ks if f"top{k}" in shares)


def test_k_may_exceed_the_number_of_classes():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [np.nan, np.nan]])
    assert top_k_accuracy(scores, np.array([1, 0, 0]), 5) == pytest.approx(2 / 3)


@settings(deadline=None)
@given(single_labels())
def test_class_accuracies_weighted_by_their_clips_are_the_top_1(case):
    scores, labels = case
    of_class = np.bincount(labels, minlength=scores.shape[1])
    accuracies = per_class_accuracy(scores, labels)
    assert np.isnan(accuracies).tolist() == (of_class == 0).tolist()
    assert np.nansum(accuracies * of_class) / len(labels) == pytest.approx(top_k_accuracy(scores, labels, 1))
    assert mean_class_accuracy(scores, labels) == pytest.approx(np.mean(accuracies[of_class > 0]))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_mean_class_accuracy_is_balanced_accuracy():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((300, 7)), rng.integers(0, 6, 300)  # no clip of the seventh
    expected = balanced_accuracy_score(labels, scores.argmax(axis=1))
    assert mean_class_accuracy(scores, labels) == pytest.approx(expected)


@settings(deadline=None)
@given(several_labels())
def test_average_precision_equals_scikit_learn_ties_included(case):
    scores, present = case
    for index, value in enumerate(average_precision(scores, present)):
        if present[:, index].any():
            assert value == pytest.approx(average_precision_score(present[:, index], scores[:, index]))
        else:
            assert np.isnan(value)


def charades_average_precision(scores, present):
    """As the official evaluation of Charades computes it: down the ranking, one clip at a time."""
    averages = []
    for scores_n, present_n in zip(scores.T, present.T, strict=True):
        right = wrong = total = 0
        for clip in np.argsort(-scores_n):
            right, wrong = right + present_n[clip], wrong + 1 - present_n[clip]
            total += present_n[clip] * right / (right + wrong)
        averages.append(total / present_n.sum())
    return averages


def test_average_precision_is_that_of_charades_where_no_scores_are_equal():
    rng = np.random.default_rng(2)
    scores, present = rng.random((150, 12)), (rng.random((150, 12)) < 0.1).astype(np.float32)
    assert present.any(axis=0).all()
    assert average_precision(scores, present) == pytest.approx(charades_average_precision(scores, present))


@settings(deadline=None)
@given(several_labels(), st.randoms(use_true_random=False))
def test_average_precision_does_not_depend_on_the_order_of_the_clips(case, random):
    scores, present = case
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = average_precision(scores[order], present[order])
    assert shuffled == pytest.approx(average_precision(scores, present), nan_ok=True)


def test_a_clip_without_a_prediction_is_never_retrieved():
    scores = np.array([[0.9], [0.8], [0.7]])
    present = np.array([[1], [0], [1]])
    assert average_precision(scores, present) == pytest.approx((1 + 2 / 3) / 2)
    scores[0] = np.nan
    assert average_precision(scores, present) == pytest.approx((0 + 1 / 2) / 2)
    assert average_precision(np.full((3, 1), np.nan), present).tolist() == [0]


@settings(deadline=None)
@given(st.data())
def test_the_rank_of_a_pair_is_its_place_among_all_products(data):
    clips, verbs, nouns = (data.draw(st.integers(1, top)) for top in (6, 4, 5))
    of_verbs, of_nouns = (score_rows(data.draw, clips, classes) for classes in (verbs, nouns))
    verb, noun = (
        data.draw(st.lists(st.integers(0, n - 1), min_size=clips, max_size=clips)) for n in (verbs, nouns)
    )
    ranks = pair_ranks(of_verbs, np.array(verb), of_nouns, np.array(noun))
    for row in range(clips):
        products = {(v, n): of_verbs[row, v] * of_nouns[row, n] for v in range(verbs) for n in range(nouns)}
        ranking = sorted(products, key=lambda pair: (-products[pair], pair))
        assert ranks[row] == ranking.index((verb[row], noun[row]))


def test_a_pair_without_a_prediction_is_wrong_at_every_k():
    of_verbs, of_nouns = np.array([[0.5, 0.5], [np.nan, np.nan]]), np.array([[1.0], [1.0]])
    ranks = pair_ranks(of_verbs, np.array([0, 0]), of_nouns, np.array([0, 0]))
    assert share_within(ranks, 1) == share_within(ranks, 1000) == 0.5


def test_pairs_of_many_clips_are_ranked_in_parts():
    """1,000 clips of EPIC-KITCHENS-100 have 29 million pairs."""
    rng = np.random.default_rng(3)
    of_verbs, of_nouns = rng.random((1000, 97), np.float32), rng.random((1000, 300), np.float32)
    verb, noun = rng.integers(0, 97, 1000), rng.integers(0, 300, 1000)
    ranks = pair_ranks(of_verbs, verb, of_nouns, noun)
    for row in (0, 71, 72, 999):
        joint = np.outer(of_verbs[row].astype(float), of_nouns[row])
        assert ranks[row] == (joint > joint[verb[row], noun[row]]).sum()


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (np.zeros((2, 3)), np.array([0, 3])),
        (np.zeros((2, 3)), np.array([0, -1])),
        (np.zeros((2, 3)), np.array([0])),
        (np.zeros((0, 3)), np.array([], int)),
        (np.zeros(3), np.array([0, 1, 2])),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, labels):
    with pytest.raises(ValueError):
        label_ranks(scores, labels)
    with pytest.raises(ValueError):
        pair_ranks(scores, labels, np.zeros((len(labels), 2)), np.zeros(len(labels), int))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError):
        top_k_accuracy(np.zeros((2, 3)), np.array([0, 1]), 0)
    with pytest.raises(ValueError):
        pair_ranks(np.zeros((2, 3)), np.array([0, 1]), np.zeros((1, 3)), np.array([0]))
    for scores, present in [
        (np.zeros((2, 3)), np.zeros((2, 2))),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (np.zeros((2, 3)), np.full((2, 3), np.nan)),
        (np.zeros((2, 3)), np.full((2, 3), 0.5)),
    ]:
        with pytest.raises(ValueError):
            average_precision(scores, present)
