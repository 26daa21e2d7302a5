"""A run with a range of workers: a host is lost and another one joins."""

import json
import os
import subprocess
import sys
import tempfile

import pytest

from kineray.config import apply_overrides, to_yaml
from kineray.data import load_manifest
from kineray.tracking import get_run
from kineray.training import CheckpointStore, StepEvent, train

SCRIPT = """
import json
import logging
import os
import sys

import kineray
from kineray.cluster import import_ray
from kineray.config import from_yaml
from kineray.training import StepEvent

import_ray()  # with the settings that hosts inherit
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
hosts = [cluster.add_node(num_cpus=1)]
os.environ["RAY_ADDRESS"] = cluster.address
steps, sizes = [], []


class Sizes(logging.Handler):
    def emit(self, record):
        if record.msg.startswith("training goes on with"):
            sizes.append((len(steps), record.getMessage()))


logging.getLogger("kineray").addHandler(Sizes())


def on_event(event):
    if isinstance(event, StepEvent):
        made = [step for step, _ in steps]
        if event.step == 5 and 5 not in made:
            cluster.remove_node(hosts.pop(), allow_graceful=False)
        if event.step == 10 and 10 not in made:
            cluster.add_node(num_cpus=1)
        steps.append((event.step, event.loss))
        if len(sizes) == 2 and len(steps) >= sizes[1][0] + 5:
            raise KeyboardInterrupt


try:
    kineray.train(
        from_yaml(open("tiny.yaml").read()),
        workers=(1, 2),
        name="run",
        storage=".",
        options=kineray.WorkerOptions(snapshot_every=1),
        on_event=on_event,
    )
except KeyboardInterrupt:
    print(json.dumps({"steps": steps, "sizes": [size for _, size in sizes]}), flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_host_is_lost_and_another_one_joins(tiny_experiment, tmp_path, one_thread):
    """Every step is made, few are made again, and losses are those of a run that nothing disturbs."""
    changes = ["train.epochs=500", "train.eval_every_epochs=500", "train.global_batch=8", "optim.lr=0.001"]
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
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")] or [done.stderr]
    result = json.loads(line)
    assert [size.partition("with ")[2] for size in result["sizes"]] == [
        "1 worker instead of 2",
        "2 workers instead of 1",
    ]
    losses, last = dict(result["steps"]), result["steps"][-1][0]
    assert {*losses} == {*range(1, last + 1)}
    assert len(result["steps"]) - last < 20
    assert get_run(str(tmp_path), "run").status == "KILLED"

    expected = losses_of(experiment, last, tmp_path / "undisturbed")
    for step, loss in losses.items():
        assert loss == pytest.approx(expected[step], rel=0.02), step


def losses_of(experiment, last, folder):
    """The loss of each of the first ``last`` steps of a single process."""
    losses = {}

    def on_event(event):
        if isinstance(event, StepEvent):
            losses[event.step] = event.loss
            if event.step == last:
                raise KeyboardInterrupt

    manifest = load_manifest(experiment.data.manifest)
    with pytest.raises(KeyboardInterrupt):
        train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=CheckpointStore(str(folder)),
            on_event=on_event,
        )
    return losses
