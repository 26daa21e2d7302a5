"""Ray Tune around the training loop: child runs named by their keys, ASHA, resume without repetition."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kineray.config import Choice, FrameConfig, GruConfig, LogUniform, apply_overrides, load_plugins, to_yaml
from kineray.errors import ConfigError, KinerayError
from kineray.options import WorkerOptions
from kineray.orchestration import attach
from kineray.orchestration.search import check_sweep, run_sweep
from kineray.orchestration.settings import SearchSettings
from kineray.tracking import get_run, list_runs
from kineray.training import CheckpointEvent, CheckpointStore, FeaturesEvent

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

SPACE = {"optim.lr": LogUniform(0.01, 0.3), "model.alpha": Choice(4, 8)}


def sweep(
    experiment, space, *, storage, name=None, overrides=(), on_event=None, options=WorkerOptions(), **settings
):
    """Run a sweep in this process."""
    checked = check_sweep(
        experiment,
        space,
        settings=SearchSettings(**settings),
        overrides=overrides,
        storage=storage,
        name=name,
        options=options,
    )
    return run_sweep(checked, name=name, on_event=on_event)


@pytest.fixture(scope="module")
def swept(tiny_experiment, tmp_path_factory, ray_cluster):
    """A sweep of three trials, and its storage."""
    folder = tmp_path_factory.mktemp("swept")
    return sweep(tiny_experiment, SPACE, trials=3, storage=str(folder)), folder


def test_every_trial_is_a_child_run_named_by_its_keys(swept):
    outcome, folder = swept
    assert len(outcome.trials) == 3
    scores = [trial.score for trial in outcome.trials]
    assert scores == sorted(scores, reverse=True)
    children = {run.name for run in list_runs(str(folder)) if run.parent == outcome.name}
    assert children == {trial.name for trial in outcome.trials}
    for trial in outcome.trials:
        assert trial.name.startswith(f"{outcome.name}/model.alpha=")
        assert f"optim.lr={trial.params['optim.lr']:.4g}" in trial.name
        detail = get_run(str(folder), trial.name)
        assert float(detail.params["optim.lr"]) == pytest.approx(trial.params["optim.lr"])
        assert detail.metrics["val/action/top1"] >= 0
        assert detail.tags["checkpoint.best"]
    assert outcome.best() == outcome.trials[0]
    assert set(outcome.trials.rows()[0]) == {"best", "epoch", "state", "optim.lr", "model.alpha", "run"}
    assert outcome.score == detail.score == "action/top1"
    parent = get_run(str(folder), outcome.name)
    assert parent.best == parent.last == outcome.best().score and parent.score == outcome.score
    assert parent.tags["sweep.best"] == outcome.best().name
    assert parent.tags["sweep.best.optim.lr"] == str(outcome.best().params["optim.lr"])


def test_a_bad_space_is_refused_before_anything_starts(tiny_experiment, tmp_path):
    with pytest.raises(ConfigError) as error:
        sweep(tiny_experiment, {"optim.lrr": LogUniform(0.1, 1)}, trials=1, storage=str(tmp_path))
    assert (error.value.code, error.value.key) == ("unknown_key", "optim.lrr")
    assert list_runs(str(tmp_path)) == []


def test_a_diverged_trial_does_not_end_the_sweep(tiny_experiment, tmp_path):
    wild = apply_overrides(tiny_experiment, ["schedule.warmup_epochs=0"])
    outcome = sweep(wild, {"optim.lr": Choice(1e30, 0.05)}, trials=3, storage=str(tmp_path))
    states = {trial.state for trial in outcome.trials}
    assert "diverged" in states
    assert outcome.best() is not None
    assert outcome.best().params["optim.lr"] == 0.05


def test_an_interrupted_sweep_resumes_without_repeating_finished_trials(
    tiny_experiment, tmp_path, on_cluster
):
    (tmp_path / "tiny.yaml").write_text(to_yaml(tiny_experiment))
    command = [sys.executable, "-m", "kineray", "sweep", "tiny.yaml", "--trials", "3", "--concurrent", "1"]
    command += ["--search", "optim.lr=log:0.01:0.3"]
    storage = tmp_path / "runs"
    first = subprocess.Popen(
        command, cwd=tmp_path, env=on_cluster, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and len(list(storage.glob("tiny-sweep/optim*"))) < 2:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    begun = {path.name for path in storage.glob("tiny-sweep/optim*")}
    assert attach("tiny-sweep", storage=str(storage)).status == "interrupted"
    second = subprocess.run(
        [*command, "--resume", "--json"],
        cwd=tmp_path,
        env=on_cluster,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 0, second.stderr
    result = json.loads(second.stdout)
    names = {trial["name"].partition("/")[2] for trial in result["trials"]}
    assert result["sweep"] == "tiny-sweep"
    assert len(names) == 3, second.stderr
    assert begun <= names
    assert attach("tiny-sweep", storage=str(storage)).status == "ended"


def test_a_score_has_its_checkpoint_and_some_trial_runs_to_the_end(swept):
    outcome, folder = swept
    assert "finished" in {trial.state for trial in outcome.trials}
    for trial in outcome.trials:
        store = CheckpointStore(f"{folder}/{trial.name}/checkpoints")
        assert store.best_score() == trial.score
        if trial.state == "finished":
            assert store.last().endswith("step-00000009")
            assert trial.epoch == 3


def test_trials_of_many_keys_and_of_any_value_have_folders_and_records(tiny_experiment, tmp_path):
    keys = ("fps", "crop", "eval_short_side", "eval_crop", "flip", "frames", "stride", "sampling")
    space = {f"data.{key}": Choice(getattr(tiny_experiment.data, key)) for key in keys}
    space |= {"train.epochs": Choice(1), "schedule.warmup_epochs": Choice(0)}
    space |= {"optim.lr": Choice(0.1), "recipe.parameter_groups.lr": Choice("*head.*:10")}
    assert len(space) == 12
    outcome = sweep(tiny_experiment, space, trials=1, storage=str(tmp_path))
    (trial,) = outcome.trials
    assert trial.state == "finished" and len(trial.name) <= len("tiny-sweep/") + 120
    assert get_run(str(tmp_path), trial.name).status == "FINISHED"
    assert CheckpointStore(f"{tmp_path}/{trial.name}/checkpoints").best_score() == trial.score


def test_a_name_that_leaves_no_room_for_those_of_trials_is_refused_before_anything_starts(
    tiny_experiment, tmp_path
):
    for given in ({"name": "n" * 130}, {"overrides": {"name": "n" * 120}}):
        with pytest.raises(ConfigError) as error:
            sweep(tiny_experiment, SPACE, trials=1, storage=str(tmp_path / "runs"), **given)
        assert (error.value.code, error.value.key) == ("bad_name", "name")
    assert not (tmp_path / "runs").exists()


def test_a_trial_has_its_own_epochs_and_continues_after_its_process_is_killed(tiny_experiment, tmp_path):
    """Five epochs where the base has three; the trial saves every step, so little is lost."""
    killed, resumed_at, unvalidated = [], [], []

    def kill_once(trial, event):
        if not isinstance(event, CheckpointEvent):
            return
        if killed and not resumed_at:
            resumed_at.append(event.step)
        if event.score is None:
            unvalidated.append(event.step)
        if not killed and event.step >= 4:
            deadline = time.monotonic() + 30
            while "worker.0" not in (tags := get_run(str(tmp_path), f"tiny-sweep/{trial}").tags):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            killed.append(int(tags["worker.0"].rpartition(" ")[2]))
            os.kill(killed[0], signal.SIGKILL)

    outcome = sweep(
        tiny_experiment,
        {"train.epochs": Choice(5)},
        trials=1,
        storage=str(tmp_path),
        options=WorkerOptions(checkpoint_every=1, micro_batch=8),
        on_event=kill_once,
    )
    (trial,) = outcome.trials
    assert (trial.state, trial.epoch) == ("finished", 5)
    assert len(killed) == 1 and 1 < resumed_at[0] < 15
    # Of ten; the process may have been killed before it reported one.
    assert len(set(unvalidated)) >= 8 and 4 in unvalidated
    assert CheckpointStore(f"{tmp_path}/{trial.name}/checkpoints").last().endswith("step-00000015")


def test_if_the_model_raises_in_every_trial_its_line_is_named(tiny_experiment, tmp_path, own_plugins):
    file = tmp_path / "faulty.py"
    file.write_text(
        "from kineray.config import ModelSection\n\n"
        "class FaultyConfig(ModelSection, type='faulty'):\n"
        "    shift: int = 1\n\n"
        "    def build(self, heads, in_channels=3):\n"
        "        return heads['no such head']\n"
    )
    load_plugins(file)
    own = apply_overrides(tiny_experiment, ["model.type=faulty"])
    with pytest.raises(KinerayError) as error:
        sweep(own, {"model.shift": Choice(1, 2)}, trials=2, storage=str(tmp_path / "runs"))
    assert error.value.code == "every_trial_failed"
    assert f"KeyError: 'no such head' ({file}:7 in build)" in str(error.value)
    trials = [run for run in list_runs(str(tmp_path / "runs")) if run.parent]
    assert [run.status for run in trials] == ["FAILED", "FAILED"]


def test_trials_share_the_features_that_the_first_one_computes(tiny_experiment, tmp_path):
    model = FrameConfig(backbone="mobilenet_v2", cut="features.3", frozen=True, temporal=GruConfig(units=4))
    frozen = tiny_experiment.model_copy(update={"model": model, "name": "frozen"})
    short = {"data.frames": 4, "data.drawn_views": 1, "train.epochs": 1, "schedule.warmup_epochs": 0}
    frozen = apply_overrides(frozen, short)
    lines = []
    outcome = sweep(
        frozen,
        {"optim.lr": LogUniform(0.01, 0.3)},
        trials=3,
        concurrent=1,
        storage=str(tmp_path),
        options=WorkerOptions(cache_features=True),
        on_event=lambda trial, event: lines.append((trial, event)),
    )
    assert {trial.state for trial in outcome.trials} == {"finished"}
    built = [
        trial for trial, event in lines if isinstance(event, FeaturesEvent) and "compared" in event.message
    ]
    assert len(built) == 1
    with pytest.raises(ConfigError) as error:
        anew = apply_overrides(frozen, {"data.drawn_views": "none"})
        sweep(
            anew,
            {"optim.lr": LogUniform(0.01, 0.3)},
            storage=str(tmp_path),
            options=WorkerOptions(cache_features=True),
        )
    assert (error.value.code, error.value.key) == ("not_cacheable", "data.drawn_views")
