"""Runs are found, tagged and deleted, in a real MLflow on SQLite."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import kineray as package
from kineray.config import Experiment
from kineray.data import Manifest
from kineray.errors import ConfigError, TrackingError
from kineray.tracking import BEST_SCORE, SCORE, register, run_exists, start_run
from small_checkpoint import save_small_checkpoint

pytestmark = pytest.mark.slow

NONE = Manifest(name="none", samples=(), vocabularies={"action": ("left", "right")})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A storage folder with four runs, by age: a failed one, a sweep with its trial, a promoted one."""
    folder = tmp_path_factory.mktemp("runs")
    record(folder, "broken", status="FAILED")
    sweep = record(folder, "search", status=None)
    record(folder, "search/lr=0.1", score=0.25, parent=sweep.run_id)
    sweep.finish("KILLED")
    uri = save_small_checkpoint(folder / "good" / "checkpoints")
    record(folder, "good", score=0.75, tags={"checkpoint.best": str(uri), BEST_SCORE: "0.75"})
    return str(folder)


def record(folder, name, *, status="FINISHED", score=None, parent=None, tags=None):
    run = start_run(
        str(folder),
        name=name,
        experiment=Experiment(),
        fingerprint="f",
        manifest=NONE,
        command=["kineray"],
        parent=parent,
    )
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "experiment.yaml").write_text("")
    if score is not None:
        run.log_metrics({SCORE: score, "val/action/top1": 1 - score}, 1)
    run.set_tags(tags or {})
    if status is not None:
        run.finish(status)
    return run


def names(store, **conditions):
    return [run.name for run in package.list_runs(store, **conditions)]


def refused(kind, code, key):
    """A context in which exactly this error is raised."""
    return pytest.raises(kind, check=lambda error: (error.code, error.key) == (code, key))


def test_runs_are_filtered_sorted_and_limited(store):
    assert names(store) == ["good", "search/lr=0.1", "search", "broken"]
    assert names(store, name="search*") == ["search/lr=0.1", "search"]
    assert names(store, status="FAILED") == ["broken"]
    assert names(store, sort="best")[0] == "good" and names(store, sort="name")[0] == "broken"
    by_metric = names(store, sort="val/action/top1")
    assert by_metric == ["search/lr=0.1", "good", "search", "broken"]  # those without it come last
    assert names(store, sort="val/action/top1", limit=1) == by_metric[:1]
    with refused(ConfigError, "unknown_metric", "val/action/top9"):
        names(store, sort="val/action/top9")


def test_the_command_shows_metrics_as_columns(store, kineray):
    words = ("--name", "good", "--metric", "val/action/top1", "--sort", "best")
    code, out, _ = kineray("runs", "--storage", store, *words)
    header, row = out.splitlines()
    assert code == 0 and header.split()[-1] == "val/action/top1" and row.split()[-1] == "0.25"
    code, _, err = kineray("runs", "--storage", store, "--tag", "no-value")
    assert code == 2 and len(err.splitlines()) == 1
    assert json.loads(kineray("runs", "--storage", store, "--status", "killed", "--json")[1])["runs"]


def test_tags_are_set_found_and_removed(store, kineray):
    assert package.tag_run("good", {"paper": "table 2", "seen": "yes"}, storage=store) == {
        "paper": "table 2",
        "seen": "yes",
    }
    assert names(store, tags={"paper": "table 2"}) == ["good"] and not names(store, tags={"paper": "1"})
    code, out, _ = kineray("runs", "--storage", store, "tag", "good", "seen=", "by=me")
    assert code == 0 and out.split("\n")[:2] == ["by=me", "paper=table 2"]
    for name in ("checkpoint.best", "fingerprint", "mlflow.user", "worker.0", "lineage", "plan.x", ""):
        with refused(TrackingError, "reserved_tag", name):
            package.tag_run("good", {name: "x"}, storage=store)
    code, _, err = kineray("runs", "--storage", store, "tag", "good", "seen")
    assert code == 2 and len(err.splitlines()) == 1


def test_a_run_is_deleted_with_its_files_and_a_sweep_with_its_trials(tmp_path, store, kineray):
    folder = Path(store)
    sweep = record(folder, "another", status=None)
    record(folder, "another/lr=1", parent=sweep.run_id)
    with refused(TrackingError, "run_is_running", "another"):
        package.delete_run("another", storage=store)
    assert (folder / "another/lr=1/experiment.yaml").exists()
    sweep.finish("FINISHED")
    code, out, _ = kineray("runs", "--storage", store, "delete", "another")
    assert code == 0 and out.startswith("deleted another")
    assert not (folder / "another").exists() and "another/lr=1" not in names(store)
    assert not run_exists(store, "another")  # the name is free again


def test_a_run_that_was_killed_is_deleted_by_force(store):
    killed = record(Path(store), "killed", status=None)
    package.delete_run("killed", storage=store, force=True)
    assert "killed" not in names(store) and not Path(store, "killed").exists()
    killed.finish("KILLED")


def test_a_run_whose_checkpoint_is_registered_stays(store):
    register(store, "good")
    with refused(TrackingError, "run_is_registered", "good"):
        package.delete_run("good", storage=store)
    assert Path(store, "good/checkpoints").exists() and "good" in names(store)


def test_a_run_that_does_not_exist_is_named(store):
    for change in (
        package.delete_run,
        lambda run, storage: package.tag_run(run, {"a": "b"}, storage=storage),
    ):
        with refused(TrackingError, "unknown_run", "goood"):
            change("goood", storage=store)


def test_the_user_interface_shows_the_runs_until_ctrl_c(store):
    command = [sys.executable, "-m", "kineray", "runs", "--storage", store, "ui"]
    shown = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = shown.stdout.readline().strip()
    question = urllib.request.Request(
        f"{url}/api/2.0/mlflow/runs/search",
        data=json.dumps({"experiment_ids": ["1"]}).encode(),
        headers={"content-type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found = json.load(direct.open(question, timeout=60))["runs"]
    assert "broken" in {run["info"]["run_name"] for run in found}
    os.kill(shown.pid, signal.SIGINT)
    assert shown.wait(timeout=30) == 0
    with pytest.raises(OSError):
        direct.open(url, timeout=5)
