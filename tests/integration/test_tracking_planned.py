"""A prediction beside what a run achieved."""

import json

import pytest
from mlflow import MlflowClient

import kineray as package
from kineray.config import apply_overrides, fingerprint, to_yaml
from kineray.data import load_manifest
from kineray.errors import TrackingError
from kineray.tracking import get_run, start_run, tracking_uri
from kineray.tracking.planned import compare_with_run

RATES = [1.0, 2.0, 40.0, 60.0, 50.0]


@pytest.fixture(scope="module")
def store(tiny_experiment, tmp_path_factory):
    """Runs with two workers: `run`, which was slow at first, and `short`."""
    folder = str(tmp_path_factory.mktemp("runs"))
    for name, rates in (("run", RATES), ("short", RATES[:2])):
        run = start_run(
            folder,
            name=name,
            experiment=tiny_experiment,
            fingerprint=fingerprint(tiny_experiment),
            manifest=load_manifest(tiny_experiment.data.manifest),
            command=[],
        )
        run.set_tags({"worker.0": "here pid 1", "worker.1": "there pid 2"})
        for step, rate in enumerate(rates, 1):
            run.log_metrics({"train/clips_per_s": rate}, step)
        run.finish()
    return folder


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    return apply_overrides(tiny_experiment, {"train.epochs": 1, "schedule.warmup_epochs": 0})


def test_the_command_compares_and_records_both(store, experiment, kineray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(to_yaml(experiment))
    words = ("plan", "tiny.yaml", "--run", "run", "--storage", store, "--device", "l4", "--seconds", "0.2")
    code, out, err = kineray(*words, "--json")
    assert code == 0, err
    planned = json.loads(out)
    (prediction,) = planned["predictions"]
    compared = planned["run"]
    assert prediction["gpus"] == compared["workers"] == 2
    assert (compared["predicted"], compared["measured"]) == (prediction["clips_per_s"], 50.0)
    metrics = get_run(store, "run").metrics
    assert metrics["plan/clips_per_s"] == compared["predicted"]
    assert metrics["plan/measured_clips_per_s"] == 50.0
    assert MlflowClient(tracking_uri(store)).get_run(get_run(store, "run").run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("run", "code"), [("run", "not_planned"), ("short", "too_few_steps"), ("x", "unknown_run")]
)
def test_what_cannot_be_compared_is_refused(store, experiment, run, code):
    counts = (1,) if run == "run" else (2,)
    planned = package.plan(experiment, gpus=counts, device="l4", seconds=0.1)
    with pytest.raises(TrackingError) as error:
        compare_with_run(planned, run, storage=store)
    assert (error.value.code, error.value.key) == (code, run)
