"""A run with a range of workers: a host is lost and another one joins."""

import json
import os
import subprocess
import sys
import tempfile

import pytest

from kineray.config import apply_overrides, to_yaml
from kineray.data import load_manifest
from kineray.options import WorkerOptions
from kineray.tracking import get_run
from kineray.training import CheckpointStore, load_checkpoint, train

SCRIPT = """
import json
import logging
import os
import sys

import kineray
from kineray.cluster import import_ray
from kineray.config import from_yaml
from kineray.training import StepEvent

logging.basicConfig(level=logging.WARNING)
import_ray()  # with the settings that hosts inherit
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
hosts = [cluster.add_node(num_cpus=1)]
os.environ["RAY_ADDRESS"] = cluster.address
steps = []


def on_event(event):
    if isinstance(event, StepEvent):
        if event.step == 5 and 5 not in steps:
            cluster.remove_node(hosts.pop(), allow_graceful=False)
        if event.step == 10 and 10 not in steps:
            cluster.add_node(num_cpus=1)
        steps.append(event.step)


outcome = kineray.train(
    from_yaml(open("tiny.yaml").read()),
    workers=(1, 2),
    name="run",
    storage=".",
    options=kineray.WorkerOptions(snapshot_every=1),
    on_event=on_event,
)
print(json.dumps({"steps": steps, "lost": outcome.lost_steps, "last": outcome.last_checkpoint}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_host_is_lost_and_another_one_joins(tiny_experiment, tmp_path, one_thread):
    """All steps are made, none is lost for good, and the weights are those of a run that nothing disturbs."""
    changes = ["train.epochs=34", "train.eval_every_epochs=34", "train.global_batch=8", "optim.lr=0.001"]
    experiment = apply_overrides(tiny_experiment, changes)
    (tmp_path / "tiny.yaml").write_text(to_yaml(experiment))
    (tmp_path / "script.py").write_text(SCRIPT)
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # else others would join this cluster
        done = subprocess.run(
            [sys.executable, "script.py"],
            cwd=tmp_path,
            env=os.environ | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {*result["steps"]} == {*range(1, 205)}
    assert result["lost"] == len(result["steps"]) - 204 < 20
    sizes = [line.partition("with ")[2] for line in done.stderr.splitlines() if "training goes on" in line]
    assert sizes == ["1 worker instead of 2", "2 workers instead of 1"]
    assert get_run(str(tmp_path), "run").status == "FINISHED"

    manifest = load_manifest(experiment.data.manifest)
    undisturbed = train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(str(tmp_path / "undisturbed")),
        on_event=lambda _: None,
        options=WorkerOptions(),
    )
    wanted, given = (
        load_checkpoint(uri).model.state_dict() for uri in (undisturbed.last_uri, result["last"])
    )
    for name, value in wanted.items():
        difference = (value.double() - given[name].double()).norm() / value.double().norm().clamp(min=1e-6)
        assert difference < 1e-3, name
