"""Snapshots in memory: whole after any kill, bounded, private, and what a run continues from."""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gloo import run_workers
from slow_cases import slow_after
from test_training_checkpoint import EXPERIMENT, new_model
from test_training_loop import content, run

from kineray.config import apply_overrides
from kineray.data import load_manifest
from kineray.options import WorkerOptions
from kineray.training import CheckpointStore, SnapshotEvent, StepEvent, train
from kineray.training.snapshot_files import delete_abandoned
from kineray.training.snapshots import Snapshots, decode
from kineray.training.state import TrainingState


def state_of(step, value=None):
    """A small state; ``value``: of all its tensors."""
    model, optimizer = new_model(step)
    pieces = {"ema": {"weight": torch.randn(3, 5, dtype=torch.bfloat16), "empty": torch.zeros(0)}}
    known = {"step": step, "scores": [0.25, float("inf")], "undecodable": [], "last_step": {"trained": None}}
    state = TrainingState.of(model, optimizer, EXPERIMENT, known, pieces)
    return state if value is None else state.mapped(lambda tensor: torch.full_like(tensor, value))


def assert_equal(left, right):
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key, value in left.items():
            assert_equal(value, right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_equal(one, other)
    else:
        assert left == right


def test_a_snapshot_comes_back_and_another_process_finds_it(tmp_path):
    states = {step: state_of(step) for step in (4, 5, 6)}
    for step, state in states.items():
        Snapshots(tmp_path / "run").save(state)
        found = Snapshots(tmp_path / "run")
        assert found.newest == step
        read = decode(found.read())
        assert read.experiment == EXPERIMENT
        for part in ("weights", "optimizer", "pieces", "state"):
            assert_equal(getattr(read, part), getattr(state, part))


def test_what_is_read_does_not_change_with_the_next_snapshots(tmp_path):
    snapshots = Snapshots(tmp_path / "run")
    assert snapshots.newest == 0
    snapshots.save(state_of(1, 1))
    read = decode(snapshots.read())
    for step in (2, 3):
        snapshots.save(state_of(step, step))
    assert all((tensor == 1).all() for tensor in read.weights.values())


def test_two_of_them_take_the_memory_of_two(tmp_path):
    snapshots = Snapshots(tmp_path / "run")
    state = state_of(1)
    for step in range(1, 6):
        state.state["step"] = step
        snapshots.save(state)
    tensors = []
    state.mapped(tensors.append)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    files = list((tmp_path / "run").iterdir())
    assert len(files) == 2 and sum(path.stat().st_size for path in files) < 2.5 * size
    snapshots.delete()
    assert not (tmp_path / "run").exists()


def test_without_room_the_process_lives_and_says_so(small_disk):
    snapshots = Snapshots(small_disk / "run")
    disk = os.statvfs(small_disk)
    (small_disk / "more").write_bytes(bytes(disk.f_bavail * disk.f_frsize - 10_000))
    with pytest.raises(OSError, match="No space"):
        snapshots.save(state_of(1))
    assert snapshots.newest == 0


def test_code_in_a_snapshot_is_not_executed(tmp_path):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    snapshots = Snapshots(tmp_path / "run")
    snapshots.save(state_of(1))
    bytes_n = snapshots.read().clone()
    begin, end = bytes_n[8:24].view(torch.int64).tolist()
    attack = pickle.dumps(Attack())
    bytes_n[begin : begin + len(attack)] = torch.frombuffer(bytearray(attack), dtype=torch.uint8)
    assert begin + len(attack) < end
    with pytest.raises(pickle.UnpicklingError):
        decode(bytes_n)
    assert not (tmp_path / "owned").exists()


def test_only_what_a_killed_run_left_long_ago_is_deleted(tmp_path):
    long_ago = time.time() - 7200
    for name in ("old", "recent", "held"):
        (tmp_path / name).mkdir()
    held = Snapshots(tmp_path / "held")
    for name in ("old", "held"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    delete_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"recent", "held"}
    assert held.newest == 0


SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
import torch
from kineray.config import Experiment
from kineray.training.snapshots import Snapshots
from kineray.training.state import TrainingState

torch.set_num_threads(1)
snapshots = Snapshots(Path(sys.argv[1]))
for step in itertools.count(snapshots.newest + 1):
    weights = {str(number): torch.full((50_000,), float(step)) for number in range(100)}
    snapshots.save(TrainingState(weights, {}, {}, {"step": step}, Experiment(name="x")))
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_a_whole_snapshot(tmp_path):
    chance = random.Random(0)
    command, known = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path / "run")], 0
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert int(process.stdout.readline()) == known + 1
        time.sleep(chance.random() / 2)
        process.kill()
        saved = int(process.communicate()[0].splitlines()[-1])
        snapshots = Snapshots(tmp_path / "run")
        known = snapshots.newest
        assert known >= saved
        read = decode(snapshots.read())
        assert read.state["step"] == known
        assert all((tensor == known).all() for tensor in read.weights.values())


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """2 epochs of 3 steps, each with a validation, of a model with dropout and averaged weights."""
    torch.set_num_threads(1)
    return apply_overrides(tiny_experiment, ["train.epochs=2", "model.dropout=0.5", "recipe.ema.decay=0.9"])


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(experiment, folder)[0]


@pytest.mark.parametrize("stop_after", slow_after(1, [6, 2, 4, 5]))
def test_a_run_that_continues_from_a_snapshot_is_the_same(experiment, whole, tmp_path, stop_after):
    """Stopped in the event of a step, before what follows it."""
    more = {"snapshots": Snapshots(tmp_path / "memory"), "snapshot_every": 1}
    _, events = run(experiment, tmp_path, stop_after=stop_after, **more)
    taken = [event.step for event in events if isinstance(event, SnapshotEvent)]
    assert not {3, 6} & set(taken)  # the state before a validation is not that after it
    result, events = run(experiment, tmp_path, resume=True, **more)
    steps = [event.step for event in events if isinstance(event, StepEvent)]
    assert steps == list(range(max([*taken, 3 if stop_after > 3 else 0]) + 1, 7))
    assert content(tmp_path) == content(whole[0])
    assert (result.best, result.last) == (whole[1].best, whole[1].last)
    assert Path(result.best_uri).name == Path(whole[1].best_uri).name


def test_a_checkpoint_that_is_newer_than_the_snapshot_is_used(experiment, tmp_path):
    more = {"snapshots": Snapshots(tmp_path / "memory"), "snapshot_every": 2}
    run(experiment, tmp_path, stop_after=4, **more)
    assert more["snapshots"].newest == 2
    _, events = run(experiment, tmp_path, resume=True, **more)
    assert events[0].step == 4


def test_a_new_run_does_not_continue_from_a_snapshot(experiment, tmp_path):
    more = {"snapshots": Snapshots(tmp_path / "memory"), "snapshot_every": 1}
    run(experiment, tmp_path / "a", stop_after=3, **more)
    _, events = run(experiment, tmp_path / "b", stop_after=1, **more)
    assert events[0].step == 1


def train_and_lose(rank, size, experiment, folder, die_in):
    """Each rank is a host with a memory of its own; the first one dies in step ``die_in``."""
    first = []

    def on_event(event):
        first.extend([event.step] if isinstance(event, StepEvent) and not first else [])
        if isinstance(event, StepEvent) and event.step == die_in:
            os.kill(os.getpid(), signal.SIGKILL)

    manifest = load_manifest(experiment.data.manifest)
    train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(str(folder / "checkpoints")),
        on_event=on_event,
        rank=rank,
        world_size=size,
        options=WorkerOptions(snapshot_every=1),
        resume=True,
        snapshots=Snapshots(folder.parent / f"{folder.name}-host{rank}"),
    )
    return first


@pytest.mark.slow
def test_the_snapshot_of_a_host_that_survives_is_enough(experiment, tmp_path):
    undisturbed, lost = tmp_path / "undisturbed", tmp_path / "lost"
    run_workers(train_and_lose, 2, tmp_path / "a", experiment, undisturbed, None)
    run_workers(train_and_lose, 2, tmp_path / "b", experiment, lost, 3)
    shutil.rmtree(tmp_path / "lost-host0")
    continued = run_workers(train_and_lose, 2, tmp_path / "c", experiment, lost, None)
    assert continued[0] == [3]
    assert content(lost) == content(undisturbed)
