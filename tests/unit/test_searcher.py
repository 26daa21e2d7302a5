"""What a sweep's searcher proposes, and what it tells Optuna about the ends of trials."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from ray.tune.search import Searcher

from kineray.config import Choice, Integers, LogUniform, Uniform, all_points
from kineray.errors import ConfigError
from kineray.options import SEARCHERS
from kineray.orchestration.evolution import Evolution, EvolutionSampler
from kineray.orchestration.samplers import check_searcher, make_sampler, numbers_of
from kineray.orchestration.searcher import POINT, StudySearch
from kineray.orchestration.settings import SearchSettings

TYPE = "model.temporal.type"
UNITS = "model.temporal.units"
SPACE = {
    TYPE: Choice({"lstm": {UNITS: Choice(16, 32, 64, ordered=True)}, "average": {}}),
    "optim.lr": LogUniform(1e-4, 1e-1),
}
GRID = {TYPE: SPACE[TYPE], "data.frames": Integers(8, 16, step=8)}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def searching(space, *, trials, searcher="tpe", study=None, tried=(), known=None, is_cut_off=False, seed=0):
    """A searcher, its study, and the points whose trials have ended."""
    study = study or optuna.create_study(direction="maximize")
    study.sampler = make_sampler(searcher, space, seed)
    ended = []
    found = StudySearch(
        study,
        space,
        trials=trials,
        name_of=str,
        tried=tried,
        is_finite=searcher == "grid",
        known=known or (lambda point: None),
        is_cut_off=lambda: is_cut_off,
        on_end=lambda point, has_crashed: ended.append((point, has_crashed)),
    )
    return found, study, ended


def result(score, epoch=3):
    return {"score": score, "epoch": epoch, "epochs": 3}


def points_of(searcher, score=lambda point: 0.5):
    """All that it proposes, each tried to its end."""
    points = []
    while (point := searcher.suggest(str(len(points)))) != Searcher.FINISHED:
        points.append(point)
        searcher.on_trial_complete(str(len(points) - 1), result(score(point)))
    return points


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name not in {"grid", "cmaes"}])
def test_points_are_those_of_the_space_and_units_are_drawn_where_there_are_units(name):
    points = points_of(searching(SPACE, trials=12, searcher=name)[0])
    assert len(points) == 12
    for point in points:
        assert set(point) == {TYPE, "optim.lr"} | ({UNITS} if point[TYPE] == "lstm" else set())
        assert point.get(UNITS) in {16, 32, 64, None} and 1e-4 <= point["optim.lr"] <= 1e-1
    again = points_of(searching(SPACE, trials=12, searcher=name)[0])
    other = points_of(searching(SPACE, trials=12, searcher=name, seed=1)[0])
    assert points == again != other


def test_cma_es_takes_numbers_and_ordered_choices_only():
    space = {"optim.lr": LogUniform(1e-4, 1e-1), "model.alpha": Choice(2, 4, 8, ordered=True)}
    assert len(points_of(searching(space, trials=6, searcher="cmaes")[0])) == 6
    for key, domain in ((TYPE, SPACE[TYPE]), ("model.alpha", Choice(2, 4))):
        with pytest.raises(ConfigError) as error:
            check_searcher("cmaes", {key: domain})
        assert (error.value.code, error.value.key) == ("not_searchable", key)
    with pytest.raises(ConfigError) as error:
        check_searcher("tpr", SPACE)
    assert (error.value.code, error.value.key) == ("unknown_value", "searcher")


def test_a_grid_is_all_points_once_and_goes_on_where_it_was_left():
    study = optuna.create_study(direction="maximize")
    for point in all_points(GRID):
        study.enqueue_trial(numbers_of(GRID, point))
    first = searching(GRID, trials=3, searcher="grid", study=study)[0]
    second = searching(GRID, trials=99, searcher="grid", study=study)[0]
    points = points_of(first) + points_of(second)
    assert points == list(all_points(GRID)) and len(points) == 8


def test_no_point_is_proposed_twice_and_the_search_ends_if_there_is_no_other():
    space = {"model.alpha": Choice(4, 8, 16)}
    searcher, study, _ = searching(space, trials=9, tried=[str({"model.alpha": 8})])
    assert sorted(point["model.alpha"] for point in points_of(searcher)) == [4, 16]
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_trials_that_a_scheduler_stops_are_pruned_with_their_scores():
    searcher, study, ended = searching(SPACE, trials=3)
    points = [searcher.suggest(name) for name in "abc"]
    searcher.on_trial_result("a", result(0.1, 1))
    searcher.on_trial_result("a", result(0.2, 2))
    searcher.on_trial_complete("a", result(0.2, 2))
    searcher.on_trial_result("b", result(0.3, 1))
    searcher.on_trial_complete("b", result(0.4, 3))
    searcher.on_trial_result("c", result(0.3, 1))
    searcher.on_trial_complete("c")  # stopped while it was paused
    a, b, c = study.trials
    assert (a.state, a.value, a.intermediate_values) == (TrialState.PRUNED, 0.2, {1: 0.1, 2: 0.2})
    assert (b.state, b.value, b.intermediate_values) == (TrialState.COMPLETE, 0.4, {1: 0.3, 3: 0.4})
    assert (c.state, c.value) == (TrialState.PRUNED, 0.3)
    assert ended == [(point, False) for point in points]
    assert points == [t.user_attrs[POINT] for t in study.trials]


def test_trials_without_a_score_have_failed_and_those_that_are_cut_off_are_still_running():
    searcher, study, ended = searching(SPACE, trials=2)
    searcher.suggest("a"), searcher.suggest("b")
    searcher.on_trial_complete("a", {})
    searcher.on_trial_complete("b", result(0.5, 1), error=True)
    assert [has_crashed for _, has_crashed in ended] == [False, True]
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 2
    searcher, study, _ = searching(SPACE, trials=1, is_cut_off=True)
    searcher.suggest("a")
    searcher.on_trial_complete("a", result(0.5, 1))
    assert [t.state for t in study.trials] == [TrialState.RUNNING]


def test_points_that_are_known_are_told_to_the_study_and_count():
    def known(point):
        return ("earlier", 0.9) if point["model.alpha"] == 8 else None

    searcher, study, _ = searching({"model.alpha": Choice(4, 8)}, trials=2, known=known)
    assert [point["model.alpha"] for point in points_of(searcher)] == [4]
    assert {t.value for t in study.trials if t.state is TrialState.COMPLETE} == {0.5, 0.9}


def test_evolution_finds_a_better_point_than_chance():
    """Eight choices of ten: a random point is right in 0.8 places, and one of 10^8 in all."""
    space = {f"layer{n}": Choice(*range(10)) for n in range(8)}

    def score(point):
        return sum(value == 3 for value in point.values()) / 8

    def best(sampler):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(
            lambda t: score({k: t.suggest_categorical(k, d.values) for k, d in space.items()}), 300
        )
        return study.best_value

    by_chance = [best(optuna.samplers.RandomSampler(seed=seed)) for seed in range(3)]
    for drop in ("least_fit", "oldest"):
        evolved = [best(EvolutionSampler(Evolution(drop=drop), seed)) for seed in range(3)]
        assert min(evolved) > max(by_chance)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 20))
def test_the_population_is_that_of_adding_and_dropping_one_by_one(scores, size):
    """Also with equal scores: of these the newest leaves."""
    trials = [optuna.trial.create_trial(value=score, params={}, distributions={}) for score in scores]
    for number, trial in enumerate(trials):
        trial.number = number
    for drop in ("least_fit", "oldest"):
        members = []
        for trial in trials:
            members.append(trial)
            if len(members) > size:
                members.remove(
                    members[0] if drop == "oldest" else min(members, key=lambda t: (t.value, -t.number))
                )
        assert Evolution(population=size, drop=drop).members(trials) == members


def test_mutations_become_fewer():
    options = Evolution(mutations=3, slowdown=20)
    assert [options.number_of_mutations(i) for i in (0, 19, 20, 39, 40, 60, 999)] == [3, 3, 2, 2, 1, 1, 1]


@given(st.sampled_from([Uniform(0, 1), Integers(1, 9), Integers(1, 64, log=True), Choice(1, 2)]))
def test_a_value_of_any_domain_is_in_it(domain):
    (point,) = points_of(searching({"x": domain}, trials=1)[0])
    values = domain.values if isinstance(domain, Choice) else None
    assert point["x"] in values if values else domain.low <= point["x"] <= domain.high


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"trials": 0}, "trials"),
        ({"concurrent": 0}, "concurrent"),
        ({"max_failed": 1.5}, "max_failed"),
        ({"scheduler": "ashaa"}, "scheduler"),
        ({"budget": "2"}, "budget"),
        ({"budget": "gpuh"}, "budget"),
    ],
)
def test_settings_out_of_range_are_refused(settings, key):
    with pytest.raises(ConfigError) as error:
        SearchSettings(**settings)
    assert error.value.key == key


def test_settings():
    assert SearchSettings(budget="1h30m").seconds == 5400 and SearchSettings().seconds is None
    hours = SearchSettings(budget="1.5gpuh")
    assert (hours.gpu_seconds, hours.seconds) == (5400, None)
    assert SearchSettings(searcher="grid").trials_of(GRID) == 8
    assert (SearchSettings().trials_of(GRID), SearchSettings(trials=9).trials_of(GRID)) == (6, 9)
    assert SearchSettings.from_json(hours.to_json()) == hours
    assert [SearchSettings(max_failed=0.25).too_many(n, 20) for n in (2, 5, 6)] == [False, False, True]
    assert not SearchSettings(max_failed=0).too_many(2, 3) and not math.isnan(SearchSettings().max_failed)
