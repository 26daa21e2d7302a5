"""Figures are well-formed, and the numbers of a report agree with other implementations."""

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kineray.config import Choice, Integers, LogUniform
from kineray.reports import svg
from kineray.reports.html import page, paragraph, table
from kineray.reports.sweep_data import (
    by_value,
    importance,
    mean_interval,
    pareto_front,
    rank_agreement,
    shares,
)
from kineray.tracking.trials import Trial, Trials

SCORES = st.floats(0, 1)
TAGS = {"svg", "polyline", "circle", "path", "rect", "text", "title"}


def trials(values, scores):
    return Trials(
        [
            Trial(str(n), dict(v), "finished", 1, s)
            for n, (v, s) in enumerate(zip(values, scores, strict=True))
        ]
    )


def test_figures_are_well_formed_and_name_what_they_show():
    points = [(1.0, 0.5), (2.0, 0.25), (2.0, 0.75)]
    figures = [
        svg.curves([points, points[:1]], "step", "top-1 < 1 & more"),
        svg.points(points, "a", "b", points[:2]),
        svg.points(points[:1], "a", "b"),
        svg.bars({"optim.lr": 0.4, "<b>": 0.0}, "importance"),
        svg.parallel([{"a": 0.1, "b": 1.0}, {"b": 0.0}], ["a", "b"], {"a": (1, 2), "b": ("x", "<y>")}),
        svg.matrix([[0.5, 0.5], [0.0, 1.0]], ["cut", "<put>"]),
        svg.matrix(np.eye(97).tolist(), [f"verb {n}" for n in range(97)]),
    ]
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.get("aria-label") and {one.tag for one in root.iter()} <= TAGS
        assert "nan" not in figure
    assert svg.curves([], "x", "y") == svg.points([], "x", "y") == svg.bars({}, "b") == ""
    assert svg.parallel([{"a": 1.0}], ["a"], {"a": (0, 1)}) == ""


def test_text_in_pages_is_escaped():
    made = page("<script>", [paragraph("a & b"), table([{"<key>": "<value>", "n": 0.5}, {"m": None}])])
    assert "<script>" not in made and "<value>" not in made and "a &amp; b" in made and "0.5" in made


@given(st.lists(st.tuples(st.sampled_from("abc"), SCORES), min_size=5, max_size=40))
def test_importance_is_the_adjusted_share_of_variance(pairs):
    values, scores = zip(*pairs, strict=True)
    found = importance(trials([{"k": v} for v in values], scores), ["k"])
    groups = [np.array([s for v, s in pairs if v == one]) for one in sorted(set(values))]
    if len(groups) < 2 or np.ptp(scores) < 1e-6:
        return
    n, g = len(pairs), len(groups)
    f = stats.f_oneway(*groups).statistic
    eta = 1.0 if np.isinf(f) else f * (g - 1) / (f * (g - 1) + n - g)
    assert found["k"] == pytest.approx(max(0.0, 1 - (1 - eta) * (n - 1) / (n - g)), abs=1e-6)


def test_importance_finds_the_key_that_matters_also_inside_a_condition():
    rng = np.random.default_rng(0)
    values = [
        {"lr": float(lr), "type": kind} | ({"units": int(rng.integers(3))} if kind == "lstm" else {})
        for lr, kind in zip(rng.uniform(0, 1, 80), rng.choice(["lstm", "gru"], 80), strict=True)
    ]
    scores = [0.5 * v["lr"] + 0.01 * rng.normal() for v in values]
    found = importance(trials(values, scores), ["lr", "type", "units"])
    assert next(iter(found)) == "lr" and found["lr"] > 0.8 and max(found["type"], found["units"]) < 0.3


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=30))
def test_nothing_is_better_than_the_pareto_front(found):
    front = pareto_front(found)
    assert set(front) <= set(found) and front == sorted(front)
    for cost, score in found:
        assert any(c <= cost and s >= score for c, s in front)
    for (c1, s1), (c2, s2) in pairwise(front):
        assert c1 < c2 and s1 < s2


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 99)),
        min_size=2,
        max_size=12,
        unique_by=(lambda p: p[0], lambda p: p[1]),
    )
)
def test_the_agreement_of_rankings_is_kendalls_tau(pairs):
    left, right = zip(*pairs, strict=True)
    assert rank_agreement(left, right) == pytest.approx(stats.kendalltau(left, right).statistic)


def test_the_interval_of_a_mean_is_that_of_scipys_bootstrap():
    scores = list(np.random.default_rng(1).normal(0.5, 0.1, 30))
    wanted = stats.bootstrap((scores,), np.mean, method="percentile", random_state=0).confidence_interval
    assert mean_interval(scores) == pytest.approx((wanted.low, wanted.high), abs=0.01)
    assert mean_interval([0.5]) == (0.5, 0.5)


def test_choices_are_listed_best_mean_first():
    found = by_value(trials([{"t": "a"}, {"t": "b"}, {"t": "b"}, {}], [0.9, 0.2, 0.4, 1.0]), "t")
    assert [(row["t"], row["trials"], row["mean"], row["best"]) for row in found] == [
        ("a", 1, 0.9, 0.9),
        ("b", 2, pytest.approx(0.3), 0.4),
    ]


def test_places_on_axes():
    some = trials([{"lr": 0.01, "n": 8, "t": "b"}, {"lr": 0.1, "n": 24, "t": "a"}, {}], [0.3, 0.2, 0.1])
    assert shares(some, "lr", LogUniform(0.001, 0.1)) == [pytest.approx(0.5), pytest.approx(1), None]
    assert shares(some, "n", Integers(8, 24)) == [0, 1, None]
    assert shares(some, "t", Choice("a", "b", "c")) == [0.5, 0, None]
