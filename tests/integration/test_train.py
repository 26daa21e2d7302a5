"""Ray Train with two real workers: recovery, exact resume, the run's record, and clean failures."""

import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kineray.config import apply_overrides, load_plugins, to_yaml
from kineray.errors import (
    CheckpointError,
    ConfigError,
    KinerayError,
    NonFiniteLossError,
    StorageError,
)
from kineray.options import WorkerOptions
from kineray.orchestration import train
from kineray.tracking import get_run, list_runs
from kineray.training import CheckpointEvent, SnapshotEvent, StepEvent, ValidationEvent
from kineray.training.snapshot_files import snapshot_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def weights(checkpoint):
    return load_file(Path(checkpoint) / "model.safetensors")


def assert_bit_identical(left, right):
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    different = [key for key in a if not (a[key] == b[key]).all()]
    assert not different


def start(experiment, folder, on_event=None, *, workers=2, name=None, resume=False, command=(), **options):
    """Train with two workers, which save a checkpoint every second step."""
    return train(
        experiment,
        storage=str(folder),
        workers=workers,
        name=name,
        resume=resume,
        options=WorkerOptions(**{"checkpoint_every": 2, **options}),
        on_event=on_event,
        command=command,
    )


@pytest.fixture(scope="module")
def uninterrupted(tiny_experiment, tmp_path_factory):
    """A whole run with two workers: its outcome, its events, its storage."""
    events = []
    folder = tmp_path_factory.mktemp("runs")
    outcome = start(tiny_experiment, folder, events.append, command=["kineray", "train"])
    return outcome, events, folder


def test_a_run_reports_every_step_and_keeps_last_and_best(uninterrupted):
    outcome, events, folder = uninterrupted
    assert [event.step for event in events if isinstance(event, StepEvent)] == list(range(1, 10))
    assert len([event for event in events if isinstance(event, ValidationEvent)]) == 3
    assert outcome.step == 9
    kept = {path.name for path in (folder / outcome.name / "checkpoints").iterdir() if path.is_dir()}
    last_two = {"step-00000008", "step-00000009"}
    assert kept == last_two | {Path(outcome.best_checkpoint).name}
    assert Path(outcome.last_checkpoint).name == max(last_two)
    assert {path.name for path in Path(outcome.last_checkpoint).iterdir()} == {
        "model.safetensors",
        "optimizer.pt",
        "state.json",
        "experiment.yaml",
        "preprocessing.json",
    }


def test_the_record_in_mlflow_is_complete(uninterrupted, tiny_experiment):
    outcome, _, folder = uninterrupted
    detail = get_run(str(folder), outcome.name)
    assert detail.status == "FINISHED"
    assert detail.params["optim.lr"] == "0.1"
    assert detail.params["model.stage_blocks"]
    assert detail.best_checkpoint == outcome.best_checkpoint == str(folder / detail.tags["checkpoint.best"])
    assert detail.metrics["train/loss"] > 0
    assert "val/action/top1" in detail.metrics
    assert (detail.best, detail.last) == (outcome.best, detail.metrics["val/action/top1"])
    assert (detail.score, detail.last) == (outcome.score, outcome.last) == ("action/top1", outcome.last)
    assert 0 < detail.goodput == outcome.goodput < 1 and outcome.lost_steps == 0
    assert outcome.goodput + sum(outcome.badput.values()) == pytest.approx(1)
    assert detail.metrics["badput/start-up"] == outcome.badput["start-up"] > 0
    text = json.dumps(dataclasses.asdict(detail))
    for word in ("ray", "torch", tiny_experiment.data.manifest):
        assert word in text


def test_the_name_of_an_existing_run_and_resuming_a_finished_run_are_refused(uninterrupted, tiny_experiment):
    outcome, _, folder = uninterrupted
    with pytest.raises(ConfigError) as error:
        start(tiny_experiment, folder, name=outcome.name)
    assert (error.value.code, error.value.key) == ("name_taken", "name")
    with pytest.raises(ConfigError) as error:
        start(tiny_experiment, folder, resume=True)
    assert (error.value.code, error.value.key) == ("nothing_to_resume", "resume")


def test_a_killed_worker_costs_the_steps_since_the_last_snapshot(uninterrupted, tiny_experiment, tmp_path):
    steps, kept, killed, again = [], [0], [], []

    def kill_rank_1(event):
        if isinstance(event, StepEvent):
            if steps and event.step <= steps[-1]:
                again.append((max(kept), event.step))
            steps.append(event.step)
        if isinstance(event, SnapshotEvent | CheckpointEvent):
            kept.append(event.step)
        if isinstance(event, SnapshotEvent) and not killed:
            run = list_runs(str(tmp_path))[0]
            pid = int(re.search(r"pid (\d+)", get_run(str(tmp_path), run.name).tags["worker.1"])[1])
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    outcome = start(tiny_experiment, tmp_path, kill_rank_1, checkpoint_every=100, snapshot_every=1)
    assert killed and outcome.step == 9 and {*steps} == {*range(1, 10)}
    assert outcome.badput["restart"] > 0
    assert outcome.lost_steps == len(steps) - 9
    assert all(first > saved > 0 for saved, first in again)
    assert not snapshot_folder(outcome.run_id).exists()
    assert_bit_identical(outcome.last_checkpoint, uninterrupted[0].last_checkpoint)


@pytest.mark.timeout(600)
def test_resume_after_the_whole_run_was_killed_is_exact(uninterrupted, tiny_experiment, tmp_path, on_cluster):
    """Killed with the Ray that it had started."""
    (tmp_path / "tiny.yaml").write_text(to_yaml(tiny_experiment))
    command = [
        sys.executable,
        "-m",
        "kineray",
        "train",
        "tiny.yaml",
        "--workers",
        "2",
        "--checkpoint-every",
        "2",
    ]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    index = tmp_path / "runs/tiny/checkpoints/index.json"
    deadline = time.monotonic() + 400
    while not index.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stopped_at = json.loads(index.read_text())["last"]
    again = [*command, "--resume", "--json"]
    second = subprocess.run(again, cwd=tmp_path, env=on_cluster, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    outcome = json.loads(second.stdout)
    assert outcome["name"] == "tiny"
    assert Path(outcome["last_checkpoint"]).name != stopped_at
    assert_bit_identical(outcome["last_checkpoint"], uninterrupted[0].last_checkpoint)


TORCHRUN = """
import os
import signal
import sys

import kineray
from kineray.config import from_yaml
from kineray.training import CheckpointEvent


def on_event(event):
    if isinstance(event, CheckpointEvent) and event.step == 4:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    experiment = from_yaml(open("tiny.yaml").read())
    every_second = kineray.WorkerOptions(checkpoint_every=2)
    kineray.train(experiment, name="run", storage=".", resume=True, options=every_second, on_event=on_event)
"""


@pytest.mark.timeout(600)
def test_a_run_goes_on_under_torchrun_and_again_under_ray(uninterrupted, tiny_experiment, tmp_path):
    """Interrupted in both."""

    def stop(event):
        if isinstance(event, CheckpointEvent) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tiny_experiment, tmp_path, stop, name="run")
    (tmp_path / "tiny.yaml").write_text(to_yaml(tiny_experiment))
    (tmp_path / "script.py").write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert get_run(str(tmp_path), "run").status == "KILLED", done.stderr
    events = []
    outcome = start(tiny_experiment, tmp_path, events.append, name="run", resume=True)
    assert next(event.step for event in events if isinstance(event, StepEvent)) == 5
    assert_bit_identical(outcome.last_checkpoint, uninterrupted[0].last_checkpoint)


def test_resume_with_another_experiment_names_the_keys(uninterrupted, tiny_experiment):
    outcome, _, folder = uninterrupted
    changed = apply_overrides(tiny_experiment, ["train.epochs=4"])
    with pytest.raises(ConfigError) as error:
        start(changed, folder, name=outcome.name, resume=True)
    assert (error.value.code, error.value.key) == ("other_experiment", "resume")
    assert "train.epochs" in str(error.value)


def test_too_many_workers_for_the_batch_norm_groups(tiny_experiment, tmp_path):
    with pytest.raises(ConfigError) as error:
        start(tiny_experiment, tmp_path, workers=5)
    assert (error.value.code, error.value.key) == ("too_many_workers", "workers")
    assert list_runs(str(tmp_path)) == []


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tiny_experiment, tmp_path):
    checkpoints = []
    wild = apply_overrides(tiny_experiment, ["optim.lr=1e30", "schedule.warmup_start=1e-3"])
    with pytest.raises(NonFiniteLossError) as error:
        start(
            wild,
            tmp_path,
            lambda event: checkpoints.append(event.uri) if isinstance(event, CheckpointEvent) else None,
            workers=1,
            checkpoint_every=1,
        )
    assert re.search(r"step \d+", str(error.value))
    assert list_runs(str(tmp_path))[0].status == "FAILED"
    last = weights(checkpoints[-1])
    assert all(tensor.isfinite().all() for tensor in last.values())


def test_more_workers_than_the_machine_has_cores(tiny_experiment, tmp_path):
    many = apply_overrides(tiny_experiment, ["train.global_batch=48", "train.bn_group=1"])
    with pytest.raises(ConfigError) as error:
        start(many, tmp_path, workers=48)
    assert (error.value.code, error.value.key) == ("cluster_too_small", "workers")
    assert list_runs(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("number", "times", "send", "code"),
    [
        (signal.SIGINT, 1, os.kill, 130),
        (signal.SIGTERM, 2, os.kill, 143),
        (signal.SIGTERM, 1, os.killpg, 143),  # to all processes, as a scheduler sends it
    ],
)
def test_a_signal_ends_a_run_as_killed_and_the_message_explains_how_to_continue(
    number, times, send, code, tiny_experiment, tmp_path, on_cluster
):
    (tmp_path / "tiny.yaml").write_text(to_yaml(apply_overrides(tiny_experiment, ["train.epochs=200"])))
    command = [sys.executable, "-m", "kineray", "train", "tiny.yaml", "--workers", "1"]
    first = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=None if send is os.killpg else on_cluster,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    index = tmp_path / "runs/tiny/checkpoints/index.json"
    deadline = time.monotonic() + 240
    while not index.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    for _ in range(times):
        send(first.pid, number)
        time.sleep(0.3)
    _, err = first.communicate(timeout=60)
    assert first.returncode == code, err
    assert "--resume" in err.splitlines()[-1] and "Traceback" not in err and "***" not in err
    assert list_runs(str(tmp_path / "runs"))[0].status == "KILLED"


def test_an_error_of_on_event_ends_the_workers(tiny_experiment, tmp_path):
    def fail(event):
        if isinstance(event, StepEvent) and event.step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start(apply_overrides(tiny_experiment, {"train.epochs": 500}), tmp_path, fail, name="run")
    run = get_run(str(tmp_path), "run")
    pids = [int(run.tags[f"worker.{rank}"].split()[-1]) for rank in range(2)]
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert run.status == "FAILED"


def test_the_record_of_a_resumed_run_has_checkpoints_whose_events_were_missed(
    uninterrupted, tiny_experiment, tmp_path
):
    def stop(event):
        if isinstance(event, StepEvent):
            index = tmp_path / "run" / "checkpoints" / "index.json"
            while not index.exists() or json.loads(index.read_text())["last"] != "step-00000009":
                time.sleep(0.1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tiny_experiment, tmp_path, stop, name="run")
    assert get_run(str(tmp_path), "run").last_checkpoint is None
    outcome = start(tiny_experiment, tmp_path, name="run", resume=True)
    assert_bit_identical(outcome.best_checkpoint, uninterrupted[0].best_checkpoint)
    detail = get_run(str(tmp_path), "run")
    assert (detail.best_checkpoint, detail.best) == (outcome.best_checkpoint, outcome.best)
    assert detail.last_checkpoint == outcome.last_checkpoint


def failures_of(caplog):
    """Every failure that a worker reported: ``(rank, traceback)``."""
    records = [record for record in caplog.records if record.msg.startswith("worker %d on %s")]
    return [(record.args[0], record.args[2]) for record in records]


def copied(uninterrupted, folder):
    """A copy of the uninterrupted run's storage: the run's name and its checkpoints, the last one first."""
    outcome, _, storage = uninterrupted
    shutil.copytree(storage, folder, dirs_exist_ok=True)
    return outcome.name, sorted((folder / outcome.name / "checkpoints").glob("step-*"), reverse=True)


def test_damaged_checkpoints_end_the_run_at_once(uninterrupted, tiny_experiment, tmp_path, caplog):
    name, checkpoints = copied(uninterrupted, tmp_path)
    for checkpoint in checkpoints:
        path = checkpoint / "model.safetensors"
        path.write_bytes(path.read_bytes()[:50])
    caplog.set_level(logging.DEBUG, logger="kineray.orchestration")
    with pytest.raises(CheckpointError) as error:
        start(tiny_experiment, tmp_path, name=name, resume=True)
    assert error.value.key == str(checkpoints[0] / "model.safetensors")
    assert [rank for rank, _ in failures_of(caplog)] == [0]  # the only one that looks for them
    assert error.value.key in get_run(str(tmp_path), name).tags["problem"]


def test_a_full_disk_ends_the_run(tiny_experiment, small_disk, tmp_path, monkeypatch, caplog):
    """With what the user has to do; nothing is left of the checkpoint that did not fit."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (small_disk / "filler").write_bytes(bytes(4 * 2**20 - 100_000))
    caplog.set_level(logging.DEBUG, logger="kineray.orchestration")
    with pytest.raises(StorageError) as error:
        start(tiny_experiment, small_disk, name="run", storage_patience="1s")
    assert (error.value.code, error.value.remedy) == ("disk_full", "free some space there")
    assert error.value.key.startswith(str(small_disk / "run" / "checkpoints"))
    assert [rank for rank, _ in failures_of(caplog)] == [0]
    assert list((small_disk / "run" / "checkpoints").iterdir()) == []
    assert error.value.key in get_run(str(small_disk), "run").tags["problem"]


def test_after_an_error_that_may_pass_workers_start_again(uninterrupted, tiny_experiment, tmp_path, caplog):
    """The storage cannot be read at the moment."""
    outcome, _, folder = uninterrupted
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    index = tmp_path / outcome.name / "checkpoints/index.json"
    index.unlink()
    index.mkdir()
    caplog.set_level(logging.DEBUG, logger="kineray.orchestration")
    with pytest.raises(StorageError):
        start(tiny_experiment, tmp_path, name=outcome.name, resume=True, max_failures=1)
    assert [rank for rank, _ in failures_of(caplog)] == [0, 0]


MODEL = """
import torch
import torch.distributed as dist
from torch import nn

from kineray.config import ModelSection


class FaultyConfig(ModelSection, type="faulty"):
    def build(self, heads, in_channels=3):
        return Faulty(heads, in_channels)


class Faulty(nn.Module):
    def __init__(self, heads, in_channels):
        super().__init__()
        self.head = nn.Linear(in_channels, heads["action"])

    def forward(self, clips_bcthw):
        features_bc = clips_bcthw.mean((2, 3, 4))
        if self.training and dist.get_rank() == 1:
            features_bc = torch.cat([features_bc, features_bc], 1)
        return {"action": self.head(features_bc)}
"""


def test_an_error_in_a_users_model_is_reported_at_once_with_its_type_and_line(
    tiny_experiment, tmp_path, caplog, own_plugins
):
    """Training is deterministic, so the model would raise it again."""
    file = tmp_path / "faulty.py"
    file.write_text(MODEL)
    line = 1 + MODEL.splitlines().index('        return {"action": self.head(features_bc)}')
    load_plugins(file)
    own = apply_overrides(tiny_experiment, ["model.type=faulty"])
    caplog.set_level(logging.DEBUG, logger="kineray.orchestration")
    with pytest.raises(KinerayError) as error:
        start(own, tmp_path)
    assert error.value.code == "worker_exception"
    assert str(error.value).startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert str(error.value).endswith(f"({file}:{line} in forward)")
    assert "Traceback" in error.value.__notes__[0]
    assert sorted(rank for rank, _ in failures_of(caplog)) == [1]
    assert all(f'"{file}", line {line}' in text for _, text in failures_of(caplog))
