"""Sweeps in the background: a handle here or elsewhere, stop, resume, faults, history, conditions."""

import time

import pytest

from kineray.config import Choice, LogUniform, apply_overrides
from kineray.errors import ConfigError, KinerayError
from kineray.options import WorkerOptions
from kineray.orchestration import attach, sweep
from kineray.orchestration.rerun import rerun
from kineray.orchestration.search import check_sweep, run_sweep
from kineray.orchestration.settings import SearchSettings
from kineray.orchestration.sweep_view import page
from kineray.tracking import get_run, list_runs

pytestmark = pytest.mark.slow

TYPE = "model.type"
SPACE = {
    TYPE: Choice({"slowfast": {"model.alpha": Choice(4, 8)}, "resnet3d": {}}),
    "optim.lr": LogUniform(0.01, 0.3),
}


@pytest.fixture(autouse=True)
def _join(on_cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", on_cluster["RAY_ADDRESS"])


def until(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.fixture(scope="module")
def quick(tiny_experiment):
    return apply_overrides(tiny_experiment, ["train.epochs=2"])


def test_a_sweep_goes_on_without_its_handle_until_it_is_stopped(quick, tmp_path, kineray):
    storage = str(tmp_path)
    long = apply_overrides(quick, ["train.epochs=200"])
    started = sweep(long, {"model.alpha": Choice(4, 8)}, trials=2, concurrent=1, storage=storage)
    assert started.name == "tiny-sweep" and started.status in {"starting", "running"}
    with pytest.raises(KinerayError) as error:
        started.wait(timeout=0)
    assert error.value.code == "timeout"
    with pytest.raises(ConfigError) as error:
        until(lambda: started.status == "running")
        started.resume()
    assert error.value.code == "already_running"

    here = attach("tiny-sweep", storage=storage)
    until(lambda: here.best() is not None)
    (running,) = [trial for trial in here.trials if trial.state == "running"]
    assert running.params.keys() == {"model.alpha"} and running.epoch >= 1
    assert running.experiment.model.alpha == running.params["model.alpha"]
    assert "1 running" in here.progress() and "<svg" in page(here)
    code, out, _ = kineray("sweep", "stop", "tiny-sweep", "--storage", storage)
    assert code == 0 and "stopping" in out
    outcome = here.wait()
    assert outcome.ended and [trial.state for trial in outcome.trials] == ["interrupted"]
    assert get_run(storage, "tiny-sweep").status == "KILLED"

    with pytest.raises(ConfigError) as error:
        attach("tiny-sweeep", storage=storage)
    assert (error.value.code, error.value.key) == ("unknown_run", "name")


def run_here(experiment, space, storage, *, name=None, resume=False, overrides=(), **settings):
    """Run a sweep in this process."""
    checked = check_sweep(
        experiment,
        space,
        settings=SearchSettings(**settings),
        overrides=overrides,
        storage=storage,
        name=name,
        options=WorkerOptions(decoders=1),
    )
    return run_sweep(checked, name=name, resume=resume)


def test_a_grid_over_conditions_a_resume_with_more_trials_and_history(quick, tmp_path, kineray):
    storage = str(tmp_path)
    short = apply_overrides(quick, ["schedule.warmup_epochs=0", "train.epochs=1"])
    space = {TYPE: SPACE[TYPE], "model.width": Choice(8)}
    grid = {"searcher": "grid", "scheduler": "none"}
    first = run_here(short, space, storage, trials=2, **grid)
    assert [trial.state for trial in first.trials] == ["finished"] * 2
    whole = run_here(short, space, storage, name=first.name, resume=True, trials=3, **grid)
    assert [trial.params for trial in sorted(whole.trials, key=lambda t: t.name)] == [
        {"model.type": "resnet3d", "model.width": 8},
        {"model.type": "slowfast", "model.alpha": 4, "model.width": 8},
        {"model.type": "slowfast", "model.alpha": 8, "model.width": 8},
    ]
    frame = attach(first.name, storage=storage).frame()
    assert list(frame["run"]) == [trial.name for trial in whole.trials]
    assert frame["model.alpha"].isna().sum() == 1 and len(whole.best(2)) == 2

    # Nothing is trained twice: not by another sweep, nor by the reruns of a seed that is known.
    before = {run.name for run in list_runs(storage)}
    taken = run_here(short, space, storage, trials=3, searcher="grid", scheduler="halving")
    assert taken.name == "tiny-sweep-2"
    assert {(t.name, t.score) for t in taken.trials} == {(t.name, t.score) for t in whole.trials}
    assert {run.name for run in list_runs(storage)} - before == {"tiny-sweep-2"}
    code, out, _ = kineray("sweep", "attach", "tiny-sweep-2", "--storage", storage, "--json")
    assert code == 0 and out.count('"finished"') == 3

    (again,) = rerun(first.name, top=1, seeds=2, storage=storage)
    assert [trial.params["seed"] for trial in sorted(again.trials, key=lambda t: t.name)] == [1000, 1001]
    code, out, _ = kineray("sweep", "report", first.name, "--storage", storage, "--price", "2")
    page = (tmp_path / first.name / "report.html").read_text()
    assert code == 0 and "report.html" in out
    assert "corrected" in page and whole.best().name.rpartition("/")[2] in page
    assert f"{whole.best().score:.4g}" in page and "Kendall" not in page  # one trial has no ranking


def test_halving_and_a_budget(quick, tmp_path):
    space = {"optim.lr": LogUniform(0.01, 0.3)}
    three = apply_overrides(quick, ["train.epochs=3"])
    halved = run_here(three, space, str(tmp_path), trials=3, searcher="random", scheduler="halving")
    assert sorted((trial.state, trial.epoch) for trial in halved.trials) == [
        ("finished", 3),
        ("stopped", 1),
        ("stopped", 1),
    ]
    long = apply_overrides(quick, ["train.epochs=500"])
    spent = run_here(long, space, str(tmp_path), trials=20, budget="15s", name="spent")
    assert "15s" in spent.ended and len(spent.trials) < 20
    assert {trial.state for trial in spent.trials} <= {"interrupted"}
    assert get_run(str(tmp_path), "spent").tags["sweep.ended"] == spent.ended


def test_a_process_that_fails_says_why(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    failing = sweep(quick, {"model.alpha": Choice(4, 8)}, storage=str(tmp_path))
    with pytest.raises(KinerayError) as error:
        failing.wait()
    assert (error.value.code, error.value.key) == ("unreachable", "RAY_ADDRESS")
    assert failing.status == "failed"
