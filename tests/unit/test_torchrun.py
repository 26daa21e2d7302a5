"""Runs in processes that torchrun has started, without Ray: their record, going on, and failures."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from gloo import run_workers

from kineray.config import apply_overrides, to_yaml
from kineray.data.clips.decoding import usable_cores
from kineray.errors import ConfigError
from kineray.orchestration import dry_run, train
from kineray.tracking import get_run, list_runs
from kineray.training import ContinuedEvent, StepEvent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """2 epochs of 3 steps at a constant learning rate."""
    return apply_overrides(
        tiny_experiment, ["train.epochs=2", "schedule.type=steps", "schedule.warmup_epochs=0"]
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def start(monkeypatch, one_thread):
    """Train in this process, as the only one that torchrun has started; returns outcome and events."""

    def start(experiment, folder, **more):
        values = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        values["LOCAL_WORLD_SIZE"] = usable_cores()  # so that it has one thread
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        events = []
        outcome = train(experiment, storage=str(folder), on_event=events.append, **more)
        return outcome, events

    return start


def steps(events):
    return [event.step for event in events if isinstance(event, StepEvent)]


def content(folder):
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.suffix != ".db"
    }


def test_a_run_is_extended_and_forked_and_its_record_says_so(experiment, tmp_path, start):
    whole, events = start(experiment, tmp_path)
    assert (whole.name, whole.step, steps(events)) == ("tiny", 6, [1, 2, 3, 4, 5, 6])
    first = get_run(str(tmp_path), "tiny")
    assert (first.status, first.best, first.params["train.epochs"]) == ("FINISHED", whole.best, "2")
    assert first.tags["worker.0"] and first.tags["plan.steps"].startswith("6 in 2 epochs")
    artifacts = [path for path in tmp_path.rglob("shape.json") if first.run_id in str(path)]
    assert json.loads(artifacts[0].read_text())["total_steps"] == 6

    longer = apply_overrides(experiment, ["train.epochs=3"])
    other = apply_overrides(experiment, ["train.epochs=3", "optim.lr=0.01"])
    before = content(tmp_path)
    for asked, way_out in ((longer, "`extend`"), (other, "`fork`")):
        with pytest.raises(ConfigError) as error:
            dry_run(asked, storage=str(tmp_path), name="tiny", resume=True)
        assert (error.value.code, error.value.key) == ("other_experiment", "resume")
        assert way_out in error.value.remedy
    preview = dry_run(longer, storage=str(tmp_path), name="tiny", extend=True)
    assert (preview.name, preview.step, preview.shape.total_steps) == ("tiny", 6, 9)
    preview = dry_run(other, storage=str(tmp_path), fork="tiny@3", workers=2)
    assert (preview.name, preview.step, preview.workers) == ("tiny-2", 3, 2)
    assert "optim.lr 0.1 -> 0.01" in preview.continuation and "0.01 at step 4" in preview.continuation
    assert content(tmp_path) == before and len(list_runs(str(tmp_path))) == 1

    extended, events = start(longer, tmp_path, name="tiny", extend=True)
    assert (extended.name, extended.run_id, steps(events)) == ("tiny", whole.run_id, [7, 8, 9])
    assert [event for event in events if isinstance(event, ContinuedEvent)]
    detail = get_run(str(tmp_path), "tiny")
    assert detail.fingerprint == preview_fingerprint(longer, tmp_path) != first.fingerprint
    assert (detail.params["train.epochs"], detail.status) == ("3", "FINISHED")
    assert detail.tags["lineage"] == "extended at step 6: train.epochs 2 -> 3"
    assert steps(start(longer, tmp_path, name="tiny", resume=True)[1]) == []

    forked, events = start(other, tmp_path, fork="tiny@6")
    assert (forked.name, steps(events)) == ("tiny-2", [7, 8, 9])
    detail = get_run(str(tmp_path), "tiny-2")
    assert (
        detail.tags["lineage"] == "forked from tiny at step 6 with optim.lr 0.1 -> 0.01, train.epochs 2 -> 3"
    )
    assert (detail.tags["forked.run_id"], detail.params["optim.lr"]) == (whole.run_id, "0.01")


def preview_fingerprint(experiment, folder):
    return dry_run(experiment, storage=str(folder)).fingerprint


SCRIPT = """
import atexit
import os
import sys

import torch
from torch import nn

import kineray
from kineray.config import ModelSection, from_yaml

experiment = from_yaml(open(os.environ["TINY"]).read())


class FaultyConfig(ModelSection, type="faulty"):
    def build(self, heads, in_channels=3):
        return Faulty(heads, in_channels)


class Faulty(nn.Module):
    def __init__(self, heads, in_channels):
        super().__init__()
        self.head = nn.Linear(in_channels, heads["action"])

    def forward(self, clips_bcthw):
        if self.training and os.environ.get("RANK") == "1":
            raise ZeroDivisionError("of rank 1")
        return {"action": self.head(clips_bcthw.mean((2, 3, 4)))}


if __name__ == "__main__":
    atexit.register(lambda: print("ray imported:", "ray" in sys.modules, file=sys.stderr))
    kineray.main(experiment)
"""


@pytest.fixture
def script(experiment, tmp_path):
    """An experiment script, and the environment to start it in."""
    (tmp_path / "tiny.yaml").write_text(to_yaml(experiment))
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py", os.environ | {"TINY": str(tmp_path / "tiny.yaml")}


def one_rank(rank, size, experiment, folder):
    from kineray.data import load_manifest
    from kineray.training import CheckpointStore
    from kineray.training import train as loop

    manifest = load_manifest(experiment.data.manifest)
    return loop(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(str(folder)),
        on_event=lambda event: None,
        rank=rank,
        world_size=size,
    ).last_uri


def test_two_processes_of_torchrun_give_the_weights_of_the_loop(experiment, script, tmp_path):
    file, environment = script
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(file), "--json"]
    done = subprocess.run(
        [*command, "--name", "two"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)  # of one process alone
    assert done.stderr.count("ray imported: False") == 2 and done.stderr.count("step 6/6") == 1
    wanted = run_workers(one_rank, 2, tmp_path / "group", experiment, tmp_path / "loop")[0]
    for name in ("model.safetensors", "optimizer.pt"):
        assert (Path(outcome["last_checkpoint"]) / name).read_bytes() == (Path(wanted) / name).read_bytes()
    detail = get_run(str(tmp_path / "runs"), "two")
    assert detail.status == "FINISHED" and {"worker.0", "worker.1"} < detail.tags.keys()


def test_an_error_of_one_process_ends_all_with_one_line(script, tmp_path):
    """Started without torchrun, as Slurm does it."""
    file, environment = script
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, str(file), "model.type=faulty"],
            cwd=tmp_path,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], errors
    assert "kineray: ZeroDivisionError: of rank 1" in errors[0] and "kineray:" not in errors[1]
    assert f"({file}:" in errors[0] and "Traceback" not in errors[0] + errors[1]
    run = list_runs(str(tmp_path / "runs"))[0]
    assert run.status == "FAILED" and "of rank 1" in run.tags["problem"]
