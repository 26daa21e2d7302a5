"""Checkpoint folders: what is in them, what survives a crash, what is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from kineray import storage
from kineray.config import DataConfig, Experiment, SlowFastConfig, from_yaml
from kineray.data import Preprocessing
from kineray.errors import CheckpointError, StorageError
from kineray.models import build_model
from kineray.training import CheckpointStore, build_optimizer, load_checkpoint
from kineray.training.checkpoint import load_training_state
from kineray.training.state import TrainingState

EXPERIMENT = Experiment(
    name="small",
    data=DataConfig(frames=4, short_side=(32, 32), crop=32, eval_short_side=32, eval_crop=32),
    model=SlowFastConfig(stage_blocks=(1, 1, 1, 1), width=8, alpha=2, beta_inv=4, head_pool=1),
)
PREPROCESSING = Preprocessing.from_config(EXPERIMENT.data, {"action": ("run", "walk", "sit")})
FILES = {"experiment.yaml", "model.safetensors", "optimizer.pt", "preprocessing.json", "state.json"}


def new_model(seed=0):
    torch.manual_seed(seed)
    model = build_model(EXPERIMENT.model, {"action": 3})
    optimizer = build_optimizer(model, EXPERIMENT.optim)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def save(store, step, score=None, seed=None, **state):
    model, optimizer = new_model(step if seed is None else seed)
    saved = TrainingState.of(model, optimizer, EXPERIMENT, {"step": step, **state})
    return store.save(saved, PREPROCESSING, score=score)


@pytest.fixture(params=["local", "s3"])
def run(request, tmp_path):
    """URI of a run's folder."""
    return f"{request.getfixturevalue('s3')}/run" if request.param == "s3" else str(tmp_path / "run")


def test_a_checkpoint_comes_back(run):
    store = CheckpointStore(storage.join(run, "checkpoints"))
    assert store.last() is store.best() is store.best_score() is None
    uri, best = save(store, 7, score=0.5, note="x")
    assert best and store.last() == store.best() == uri and store.best_score() == 0.5
    assert set(storage.list_names(uri)) == FILES

    model, optimizer = new_model(7)
    checkpoint = load_checkpoint(uri)
    assert checkpoint.uri == uri and not checkpoint.model.training
    for name, value in model.state_dict().items():
        assert torch.equal(checkpoint.model.state_dict()[name], value)
    assert checkpoint.experiment == EXPERIMENT and checkpoint.preprocessing == PREPROCESSING
    assert checkpoint.state["step"] == 7 and checkpoint.state["note"] == "x"
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(checkpoint.model(clips)["action"], model.eval()(clips)["action"])

    saved = load_training_state(uri)
    for index, buffers in optimizer.state_dict()["state"].items():
        assert torch.equal(saved.optimizer["state"][index]["momentum_buffer"], buffers["momentum_buffer"])


def test_last_previous_and_best_are_kept_and_found(run):
    store = CheckpointStore(storage.join(run, "checkpoints"))
    scores = [(1, 0.2), (2, 0.6), (3, None), (4, 0.5), (5, 0.6)]
    bests = [save(store, step, score)[1] for step, score in scores]
    assert bests == [True, True, False, False, False]
    kept = ["index.json", "step-00000002", "step-00000004", "step-00000005"]
    assert storage.list_names(store.uri) == kept
    assert load_checkpoint(run).state["step"] == 2
    assert load_checkpoint(store.uri).state["step"] == 2
    assert load_checkpoint(store.last()).state["step"] == 5
    index = json.loads(storage.read_bytes(storage.join(store.uri, "index.json")))
    assert index == {
        "last": "step-00000005",
        "previous": "step-00000004",
        "best": "step-00000002",
        "best_score": 0.6,
    }


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("kineray")]


def damage_step(store, step, name="model.safetensors"):
    storage.write_bytes(storage.join(store.uri, f"step-{step:08d}", name), b"damaged")


def test_if_the_last_checkpoint_is_damaged_the_one_before_is_the_last(run, caplog):
    store = CheckpointStore(storage.join(run, "checkpoints"))
    assert store.load_last() is None
    for step, score in [(1, 0.2), (2, 0.1), (3, 0.3), (4, 0.4)]:
        save(store, step, score)
    assert store.load_last()[0] == store.last() and not warnings_of(caplog)
    damage_step(store, 4)
    for name in ("optimizer.pt", "experiment.yaml"):  # found damaged as well as the weights are
        uri, state = store.load_last()
        assert uri == store.last() == store.best() == storage.join(store.uri, "step-00000003")
        assert (state.state["step"], store.best_score()) == (3, 0.3)
        assert ["step-00000004" in text for text in warnings_of(caplog)] == [True]
        caplog.clear()
        save(store, 4, 0.4)
        damage_step(store, 4, name)
    assert save(store, 5, 0.35)[0] == store.last()


def test_if_all_checkpoints_are_damaged_the_last_is_named(run):
    store = CheckpointStore(storage.join(run, "checkpoints"))
    for step in (1, 2):
        save(store, step, 0.1 * step)
        damage_step(store, step)
    with pytest.raises(CheckpointError) as error:
        store.load_last()
    path = storage.join(store.last(), "model.safetensors")
    assert (error.value.code, error.value.key) == ("damaged", path)


@pytest.mark.parametrize("content", [b"", b"\0" * 60, b"[]"], ids=["empty", "zeros", "list"])
def test_a_damaged_index_is_made_anew_from_the_checkpoints(run, caplog, content):
    store = CheckpointStore(storage.join(run, "checkpoints"))
    for step, score in [(1, 0.5), (2, 0.1), (3, None)]:
        save(store, step, score)
    path = storage.join(store.uri, "index.json")
    before = storage.read_bytes(path)
    storage.write_bytes(path, content)
    storage.write_bytes(storage.join(store.uri, "step-00000004", "model.safetensors"), b"incomplete")
    assert store.load_last()[0] == storage.join(store.uri, "step-00000003")
    assert json.loads(storage.read_bytes(path)) == json.loads(before)
    assert [path in text for text in warnings_of(caplog)] == [True]


def test_a_storage_that_does_not_answer_is_not_a_damaged_checkpoint(s3, s3_server):
    store = CheckpointStore(f"{s3}/run/checkpoints")
    uri, _ = save(store, 1)
    s3_server.kill()
    for read in (store.load_last, lambda: load_checkpoint(uri), lambda: load_training_state(uri)):
        with storage.retry_for(0.1), pytest.raises(StorageError) as error:
            read()
        assert error.value.is_transient
    s3_server.restart()
    assert store.load_last()[0] == uri


def test_without_a_score_the_last_is_loaded(run):
    save(CheckpointStore(storage.join(run, "checkpoints")), 3)
    assert load_checkpoint(run).state["step"] == 3


def test_the_folder_opens_without_kineray_and_without_pickle(tmp_path):
    uri = Path(save(CheckpointStore(str(tmp_path)), 1)[0])
    model, _ = new_model(1)
    arrays = safetensors.numpy.load_file(uri / "model.safetensors")
    assert set(arrays) == set(model.state_dict())
    name = "slow.res4.block0.conv_a.weight"
    assert np.array_equal(arrays[name], model.state_dict()[name].numpy())
    assert json.loads((uri / "state.json").read_text())["step"] == 1
    assert json.loads((uri / "preprocessing.json").read_text())["labels"]["action"] == ["run", "walk", "sit"]
    assert from_yaml((uri / "experiment.yaml").read_text()) == EXPERIMENT
    assert len(torch.load(uri / "optimizer.pt", weights_only=True)["param_groups"]) == 2


def test_tied_weights_are_saved_under_each_name(tmp_path):
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    optimizer = build_optimizer(model, EXPERIMENT.optim)
    store = CheckpointStore(str(tmp_path))
    uri, _ = store.save(TrainingState.of(model, optimizer, EXPERIMENT, {"step": 1}), PREPROCESSING)
    saved = load_training_state(uri).weights
    assert saved.keys() == model.state_dict().keys()
    assert torch.equal(saved["a.weight"], model["a"].weight) and torch.equal(
        saved["b.weight"], saved["a.weight"]
    )


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    uri = Path(save(CheckpointStore(str(tmp_path)), 1)[0])

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"state": Attack()}, uri / "optimizer.pt")
    with pytest.raises(CheckpointError) as error:
        load_training_state(str(uri))
    assert (error.value.code, error.value.key) == ("damaged", str(uri / "optimizer.pt"))
    assert not (tmp_path / "owned").exists()


def test_equal_weights_have_equal_hashes(tmp_path):
    first = load_checkpoint(save(CheckpointStore(str(tmp_path / "a")), 1, seed=5)[0])
    again = load_checkpoint(save(CheckpointStore(str(tmp_path / "b")), 9, seed=5)[0])
    other = load_checkpoint(save(CheckpointStore(str(tmp_path / "c")), 1, seed=6)[0])
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_a_save_that_fails_leaves_everything_as_it_was(run):
    store = CheckpointStore(storage.join(run, "checkpoints"))
    uri, _ = save(store, 1, 0.5)
    before = {name: storage.read_bytes(storage.join(uri, name)) for name in FILES}
    with pytest.raises(TypeError):
        save(store, 2, 0.9, cannot_be_json=object())  # fails when four of the five files are written
    assert store.last() == store.best() == uri
    assert storage.list_names(store.uri) == ["index.json", "step-00000001"]
    assert {name: storage.read_bytes(storage.join(uri, name)) for name in FILES} == before


def test_a_full_disk_is_named_and_leaves_the_checkpoint_before(small_disk):
    store = CheckpointStore(str(small_disk / "run" / "checkpoints"))
    uri, _ = save(store, 1, 0.5)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    sizes = sorted(path.stat().st_size for path in Path(uri).iterdir())
    for room in (0, sizes[0], sizes[-2] // 2, sum(sizes[:-1]) + sizes[-1] // 2):  # for some of the files only
        (small_disk / "more").write_bytes(bytes(max(free - room, 0)))
        with pytest.raises(StorageError) as error:
            save(store, 2, 0.9)
        assert (error.value.code, error.value.remedy) == ("disk_full", "free some space there")
        assert error.value.key.startswith(store.uri)
        assert storage.list_names(store.uri) == ["index.json", "step-00000001"]
        (small_disk / "more").unlink()
    assert load_checkpoint(str(small_disk / "run")).state["step"] == 1
    (small_disk / "filler").unlink()
    save(store, 2, 0.9)


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o077, 0o600)])
def test_files_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        uri = Path(save(CheckpointStore(str(tmp_path / "run")), 1)[0])
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in [*uri.iterdir(), uri.parent / "index.json"]} == {mode}


SAVE_FOREVER = """
import sys, itertools
sys.path.insert(0, sys.argv[2])
import torch; torch.set_num_threads(1)
from test_training_checkpoint import *
store = CheckpointStore(sys.argv[1])
model, optimizer = new_model(0)
for step in itertools.count(1):
    saved = TrainingState.of(model, optimizer, EXPERIMENT, {"step": step})
    store.save(saved, PREPROCESSING, score=(step % 3) / 3)
"""


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_whole_checkpoints(tmp_path):
    store = CheckpointStore(str(tmp_path / "checkpoints"))
    chance = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, store.uri, str(Path(__file__).parent)]
        )
        try:
            deadline, known = time.monotonic() + 60, store.last()
            while store.last() == known and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.2))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for uri in {store.last(), store.best()}:
            assert set(storage.list_names(uri)) == FILES
            load_checkpoint(uri)
            load_training_state(uri)
        for name in storage.list_names(store.uri):
            if name.startswith("step-"):
                assert set(storage.list_names(storage.join(store.uri, name))) <= FILES
    uri, _ = save(store, 10_000_000)
    index = json.loads(storage.read_bytes(storage.join(store.uri, "index.json")))
    kept = {"index.json", Path(uri).name, Path(store.best()).name, index["previous"]}
    assert set(storage.list_names(store.uri)) == kept  # nothing is left of the killed processes


def damage_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def damage_other_model(folder):
    path = folder / "experiment.yaml"
    path.write_text(path.read_text().replace("width: 8", "width: 16"))


def damage_state(folder):
    (folder / "state.json").write_text("{")


def damage_format(folder):
    (folder / "state.json").write_text(json.dumps({"format": 99}))


def damage_missing(folder):
    (folder / "preprocessing.json").unlink()


def damage_preprocessing(folder):
    (folder / "preprocessing.json").write_text('{"frames": 3}')


@pytest.mark.parametrize(
    ("damage", "code", "file"),
    [
        (damage_truncated_weights, "damaged", "model.safetensors"),
        (damage_other_model, "other_model", ""),
        (damage_state, "damaged", "state.json"),
        (damage_format, "other_format", "state.json"),
        (damage_missing, "not_found", "preprocessing.json"),
        (damage_preprocessing, "damaged", "preprocessing.json"),
    ],
)
def test_damage_is_one_line_that_names_the_file(tmp_path, damage, code, file):
    uri = save(CheckpointStore(str(tmp_path)), 1)[0]
    damage(Path(uri))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(uri)
    assert caught.value.code == code
    assert str(caught.value).startswith(str(Path(uri, file))) and "\n" not in str(caught.value)


def test_what_is_not_a_checkpoint_is_refused(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(str(folder))
        assert (error.value.code, error.value.key) == ("not_a_checkpoint", str(folder))
    uri = Path(save(CheckpointStore(str(tmp_path / "run")), 1)[0])
    (uri / "optimizer.pt").write_bytes(b"not a zip")
    assert not zipfile.is_zipfile(uri / "optimizer.pt")
    with pytest.raises(CheckpointError) as error:
        load_training_state(str(uri))
    assert (error.value.code, error.value.key) == ("damaged", str(uri / "optimizer.pt"))
