"""The scores of evaluations reach the record of the run, in a real MLflow on SQLite."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kineray as package
from kineray.config import Experiment
from kineray.data import load_manifest
from kineray.data.derive.synth import synthesize
from kineray.tracking import SCORE, SCORE_NAME, mark_folder, start_run
from kineray.tracking.edit import is_own_tag
from small_checkpoint import save_small_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two data sets of the same name."""
    return [str(synthesize(tmp_path_factory.mktemp(n), train=0, val=4, seed=s)) for s, n in enumerate("ab")]


@pytest.fixture(scope="module")
def store(tmp_path_factory, sets):
    """A storage with the run ``good``, whose checkpoint has step 1, and the checkpoint ``bare`` of no run."""
    folder = tmp_path_factory.mktemp("runs")
    run = start_run(
        str(folder),
        name="good",
        experiment=Experiment(),
        fingerprint="f",
        manifest=load_manifest(sets[0]),
        command=["kineray"],
    )
    run.log_metrics({SCORE: 0.75, "val/action/top1": 0.75}, 1)
    run.set_tags({SCORE_NAME: "action/top1", "checkpoint.best_score": "0.75"})
    run.finish()
    mark_folder(str(folder), "good", run.run_id)
    for name in ("good", "bare"):
        save_small_checkpoint(f"{folder}/{name}/checkpoints")
    return str(folder)


def name_of(evaluation):
    protocol = evaluation.protocol
    dataset = f"{protocol['dataset']}-{protocol['manifest_hash'][:8]}"
    return f"{dataset}/val/{protocol['views']}x{protocol['crops']}"


def test_each_data_set_and_protocol_has_metrics_of_its_own(store, sets, kineray):
    made = [package.evaluate("good", manifest=uri, views=1, crops=1, storage=store) for uri in sets]
    made.append(package.evaluate("good", manifest=sets[0], views=2, crops=1, storage=store))
    detail = package.get_run("good", storage=store)
    expected = {f"eval/{name_of(one)}/{key}": value for one in made for key, value in one.metrics.items()}
    assert len(expected) == 3 * len(made[0].metrics)
    recorded = {key: value for key, value in detail.metrics.items() if key.startswith("eval/")}
    assert recorded == pytest.approx(expected)
    assert (detail.status, detail.score, detail.best, detail.last) == ("FINISHED", "action/top1", 0.75, 0.75)
    tag = json.loads(detail.tags[f"eval.{name_of(made[1])}"])
    assert (tag["protocol"], tag["step"]) == (json.loads(json.dumps(made[1].protocol)), 1)
    assert Path(store, tag["predictions"]) == Path(made[1].file)
    assert not is_own_tag(f"eval.{name_of(made[1])}")
    assert not list(Path(store, "pending").iterdir())
    out = kineray("runs", "show", "good", "--storage", store)[1]
    for key, value in expected.items():
        assert f"  {key}: {value}" in out.splitlines()
    assert {"score: action/top1", "best: 0.75", "last: 0.75"} <= set(out.splitlines())
    key = f"eval/{name_of(made[0])}/action/top1"
    listed = kineray("runs", "--storage", store, "--sort", key)[1]
    assert key in listed.splitlines()[0] and "action/top1" in listed.splitlines()[1]


def test_without_mlflow_the_scores_are_kept_and_sent_by_a_later_command(store, sets):
    """None in sys.modules makes Python's import fail as if the package were not installed."""
    code = (
        "import sys; sys.modules['mlflow'] = None\nimport kineray\n"
        f"made = kineray.evaluate('good', manifest={sets[0]!r}, views=3, crops=1, storage={store!r})\n"
        "print(made.metrics['action/top1'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (kept,) = Path(store, "pending").iterdir()
    assert str(kept) in done.stderr
    metrics = package.get_run("good", storage=store).metrics
    (sent,) = (value for key, value in metrics.items() if key.endswith("/val/3x1/action/top1"))
    assert sent == float(done.stdout)
    assert package.get_run("good", storage=store).status == "FINISHED"
    assert not list(Path(store, "pending").iterdir())


def test_a_checkpoint_of_no_run_is_evaluated_without_a_tracker_or_needless_imports(store, sets, tmp_path):
    code = (
        "import sys, kineray\n"
        f"options = dict(manifest={sets[0]!r}, views=1, crops=1)\n"
        f"kineray.evaluate('bare', storage={store!r}, **options)\n"
        f"kineray.evaluate({store + '/good'!r}, storage={str(tmp_path)!r}, **options)\n"
        f"video = kineray.load_manifest({sets[0]!r})[0].uri\n"
        f"kineray.predict('bare', video, storage={store!r})\n"
        "print({'mlflow', 'ray', 'pandas', 'torchvision', 'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert not (tmp_path / "mlflow.db").exists()
