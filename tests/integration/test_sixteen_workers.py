"""Sixteen Ray workers, on a Ray of their own that is told of as many CPUs."""

import os
import subprocess
import sys

import numpy as np
import pytest

from kineray.config import apply_overrides, to_yaml
from kineray.data import load_manifest
from kineray.options import WorkerOptions
from kineray.tracking import get_run
from kineray.training import CheckpointStore, load_checkpoint, train

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import kineray
from kineray.cluster import import_ray
from kineray.config import from_yaml

if __name__ == "__main__":
    experiment = from_yaml(open(sys.argv[1]).read())
    import_ray().init("local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    kineray.train(
        experiment, workers=16, storage=sys.argv[2], name="sixteen", options=kineray.WorkerOptions(decoders=1)
    )
"""


def test_sixteen_workers_train_what_one_process_trains(tiny_experiment, tmp_path, one_thread):
    """One batch-norm group of two clips each."""
    changes = {"train.epochs": 3, "train.eval_every_epochs": 3, "train.global_batch": 32, "train.bn_group": 2}
    experiment = apply_overrides(tiny_experiment, changes | {"optim.lr": 0.01})
    (tmp_path / "tiny.yaml").write_text(to_yaml(experiment))
    (tmp_path / "sixteen.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "sixteen.py", "tiny.yaml", "runs"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = get_run(str(tmp_path / "runs"), "sixteen")
    assert found.status == "FINISHED" and "worker.15" in found.tags

    manifest = load_manifest(experiment.data.manifest)
    alone = CheckpointStore(str(tmp_path / "alone"))
    train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=alone,
        options=WorkerOptions(decoders=1),
    )
    weights = [load_checkpoint(uri).model.state_dict() for uri in (found.last_checkpoint, alone.last())]
    for name, value in weights[1].items():
        np.testing.assert_allclose(
            weights[0][name].numpy(), value.numpy(), rtol=2e-3, atol=1e-4, err_msg=name
        )
