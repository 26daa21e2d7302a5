"""The model registry against a real MLflow, with checkpoints in folders and in a real S3 server."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kineray.config import Experiment, fingerprint, to_yaml
from kineray.data import Manifest
from kineray.errors import CheckpointError, TrackingError
from kineray.tracking import (
    DEFAULT_MODEL,
    ModelVersion,
    fetch,
    get_run,
    get_version,
    mark_folder,
    previous_version,
    register,
    registered,
    rollback,
    set_champion,
    start_run,
)
from kineray.tracking.client import open_client

MANIFEST = Manifest(name="none", samples=(), vocabularies={"action": ("left", "right")})


def refused(kind, code, key):
    """A context in which exactly this error is raised."""
    return pytest.raises(kind, check=lambda error: (error.code, error.key) == (code, str(key)))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("KINERAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def in_store(store, tmp_path):
    """A folder of the storage for the runs of one test."""
    return Path(store, tmp_path.name)


def write_checkpoint(folder, value):
    """Write the five files of a checkpoint, whose weights all have this value."""
    folder.mkdir(parents=True)
    save_file({"weight": torch.full((3,), float(value))}, folder / "model.safetensors")
    torch.save({"state": {}}, folder / "optimizer.pt")
    (folder / "state.json").write_text('{"step": 1}')
    (folder / "experiment.yaml").write_text(to_yaml(Experiment()))
    (folder / "preprocessing.json").write_text("{}")
    return str(folder)


def trained(storage_uri, name, **checkpoints):
    run = start_run(
        storage_uri,
        name=name,
        experiment=Experiment(),
        fingerprint=fingerprint(Experiment()),
        manifest=MANIFEST,
        command=[],
    )
    run.set_tags({f"checkpoint.{which}": uri for which, uri in checkpoints.items()})
    run.finish()
    return name


def weight(folder):
    return load_file(Path(folder) / "model.safetensors")["weight"][0].item()


def test_the_hash_of_a_version_is_of_the_weights_that_evaluate(store, in_store):
    """The averaged weights, if the state of the checkpoint names them."""
    uri = Path(write_checkpoint(in_store / "average", 1))
    save_file({"weight": torch.full((3,), 2.0)}, uri / "ema.safetensors")
    (uri / "state.json").write_text('{"step": 1, "weights": "ema"}')
    version = register(store, trained(store, "average", best=str(uri)), "of-an-average")
    assert version.sha256 == hashlib.sha256((uri / "ema.safetensors").read_bytes()).hexdigest()
    folder = fetch(store, version)
    assert load_file(folder / "ema.safetensors")["weight"][0] == 2
    save_file({"weight": torch.full((3,), 3.0)}, folder / "ema.safetensors")
    with pytest.raises(CheckpointError):
        fetch(store, version)


@pytest.mark.slow
def test_a_version_is_a_copy_of_the_best_checkpoint(store, in_store):
    best, last = write_checkpoint(in_store / "best", 1), write_checkpoint(in_store / "last", 2)
    version = register(store, trained(store, "copy", best=best, last=last), "copied")
    digest = hashlib.sha256((in_store / "best" / "model.safetensors").read_bytes()).hexdigest()
    source = f"runs:/{get_run(store, 'copy').run_id}/checkpoint/{version.content[:12]}"
    assert version == ModelVersion("copied", 1, source, digest, version.content, "copy")
    files = {path.name: path.read_bytes() for path in Path(best).iterdir()}
    shutil.rmtree(best)  # as a run does that continues
    folder = fetch(store, get_version(store, "copied", 1))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert fetch(store, version) == folder


def test_a_later_version_of_a_run_leaves_the_earlier_one_alone(store, in_store):
    name = trained(store, "twice", last=write_checkpoint(in_store / "one", 1))
    first = register(store, name, "two-of-one")
    shutil.rmtree(in_store / "one")
    write_checkpoint(in_store / "one", 2)
    second = register(store, name, "two-of-one")
    assert (first.version, second.version) == (1, 2)
    assert [weight(fetch(store, version)) for version in (first, second)] == [1, 2]


def test_the_same_files_are_registered_once(store, in_store):
    write_checkpoint(in_store / "one", 1)
    shutil.copytree(in_store / "one", in_store / "copy")
    first = register(store, trained(store, "once", best=str(in_store / "one")), "one-of-two")
    again = register(store, trained(store, "as-once", best=str(in_store / "copy")), "one-of-two")
    assert first == again
    assert register(store, "once", "another-model").version == 1


def test_a_version_whose_promotion_fails_is_not_left_behind(store, in_store):
    run = trained(store, "in-vain", best=write_checkpoint(in_store / "one", 1))
    with pytest.raises(ZeroDivisionError), registered(store, run, "vain") as version:
        assert get_version(store, "vain", 1) == version
        raise ZeroDivisionError
    with refused(TrackingError, "unknown_version", "vain"):
        get_version(store, "vain", 1)
    kept = register(store, run, "vain")
    with pytest.raises(ZeroDivisionError), registered(store, run, "vain") as version:
        raise ZeroDivisionError
    assert get_version(store, "vain", kept.version) == kept == version


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_a_storage_that_was_moved_or_copied_has_its_own_checkpoints(tmp_path, move):
    """Even if another storage is now where it was before, with runs of the same names."""
    before, after = tmp_path / "before%5", tmp_path / "after"
    name = trained(str(before), "run", best=write_checkpoint(before / "run" / "checkpoints" / "step-1", 1))
    first = register(str(before), name)
    move(before, after)
    shutil.rmtree(before, ignore_errors=True)
    write_checkpoint(before / "run" / "checkpoints" / "step-1", 2)
    assert get_run(str(after), "run").best_checkpoint == str(after / "run" / "checkpoints" / "step-1")
    assert weight(fetch(str(after), get_version(str(after), alias_or_number=1))) == 1
    shutil.rmtree(tmp_path / "cache")
    second = register(str(after), name, "other")
    assert weight(fetch(str(after), second)) == 1 and second.content == first.content
    new = trained(str(after), "new", best=write_checkpoint(after / "new" / "checkpoints" / "step-1", 3))
    assert weight(fetch(str(after), register(str(after), new))) == 3
    assert (after / "artifacts" / get_run(str(after), new).run_id).exists()
    assert weight(before / "run" / "checkpoints" / "step-1") == 2


def test_runs_of_several_storages_in_one_tracker_keep_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracker.db")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    place = "run/checkpoints/step-1"
    trained(a, "run", best=place)
    write_checkpoint(Path(a, place), 1)
    write_checkpoint(Path(b, place), 2)  # of a run in another tracker
    mark_folder(a, "run", get_run(a, "run").run_id)
    assert get_run(b, "run").best_checkpoint == str(Path(a, place))
    with refused(CheckpointError, "outside_storage", Path(a, place)):
        register(b, "run")
    shutil.move(a, tmp_path / "moved")
    assert get_run(str(tmp_path / "moved"), "run").best_checkpoint == str(tmp_path / "moved" / place)
    assert weight(fetch(str(tmp_path / "moved"), register(str(tmp_path / "moved"), "run"))) == 1


def test_a_checkpoint_outside_the_storage_is_refused(store, tmp_path):
    run = trained(store, "outside", best=write_checkpoint(tmp_path / "elsewhere", 1))
    with refused(CheckpointError, "outside_storage", tmp_path / "elsewhere"):
        register(store, run)


def test_the_same_weights_with_another_preprocessing_are_another_model(store, in_store):
    one, two = Path(write_checkpoint(in_store / "one", 1)), Path(write_checkpoint(in_store / "two", 1))
    (two / "preprocessing.json").write_text('{"frames": 8}')
    first = register(store, trained(store, "plain", best=str(one)), "same-weights")
    second = register(store, trained(store, "other", best=str(two)), "same-weights")
    assert first.sha256 == second.sha256
    fetched = [(fetch(store, version) / "preprocessing.json").read_text() for version in (first, second)]
    assert fetched == ["{}", '{"frames": 8}']


def test_a_version_that_kineray_did_not_register_is_refused(store):
    client = open_client(store)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "/somewhere")
    with refused(TrackingError, "foreign_version", "foreign"):
        get_version(store, "foreign", 1)


def test_champion_previous_and_rollback(store, in_store):
    for value in (1, 2, 3):
        register(
            store,
            trained(store, f"champ{value}", best=write_checkpoint(in_store / str(value), value)),
            "clips",
        )

    def aliases():
        return [get_version(store, "clips", alias).version for alias in ("champion", "previous")]

    with refused(TrackingError, "unknown_version", "clips"):
        get_version(store, "clips")
    assert set_champion(store, "clips", 1).run_name == "champ1"
    with refused(TrackingError, "unknown_version", "clips"):
        rollback(store, "clips")
    assert get_version(store, "clips").version == 1
    set_champion(store, "clips", 2)
    assert aliases() == [2, 1]
    set_champion(store, "clips", 2)  # once more: previous stays
    assert aliases() == [2, 1]
    set_champion(store, "clips", 3)
    assert aliases() == [3, 2]
    assert previous_version(store, "clips").version == 2
    assert rollback(store, "clips").version == 2
    assert aliases() == [2, 3]
    assert rollback(store, "clips").version == 3
    assert weight(fetch(store, get_version(store, "clips"))) == 3
    assert get_version(store, "clips", "2") == get_version(store, "clips", 2)


@pytest.mark.parametrize("wanted", [9, "9", "champion", "no such alias"])
def test_an_unknown_version_is_refused(store, wanted):
    with refused(TrackingError, "unknown_version", "unheard-of"):
        get_version(store, "unheard-of", wanted)


def test_a_run_without_a_checkpoint_cannot_be_registered(store, in_store):
    with refused(CheckpointError, "no_checkpoint", "empty"):
        register(store, trained(store, "empty"))
    with refused(CheckpointError, "not_a_checkpoint", in_store / "gone/experiment.yaml"):
        register(store, trained(store, "gone", best=str(in_store / "gone")))
    with refused(TrackingError, "unknown_run", "nobody"):
        register(store, "nobody")
    with refused(TrackingError, "unknown_version", DEFAULT_MODEL):
        get_version(store)


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessing.json"])
def test_files_that_have_changed_are_refused_by_their_hash(store, in_store, tmp_path, name):
    run = trained(store, f"tampered-{name}", best=write_checkpoint(in_store / "a", 1))
    version = register(store, run, f"tampered-{name}")
    (kept,) = Path(store, "artifacts", get_run(store, run).run_id).rglob(name)
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError) as error:
        fetch(store, version)
    assert error.value.code == "other_files"
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_checkpoint_in_a_bucket_stays_in_the_bucket(s3, tmp_path, monkeypatch):
    from kineray import storage

    bucket = f"{s3}/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracker.db")
    write_checkpoint(tmp_path / "local", 7)
    uri = f"{bucket}/far/checkpoints/step-1"
    storage.put_folder(tmp_path / "local", uri, commit_last="state.json")
    version = register(bucket, trained(bucket, "far", best=uri))
    assert version.source == f"{bucket}/models/video-classifier/{version.content[:12]}"
    storage.delete_folder(uri)  # as a run does that continues
    folder = fetch(bucket, get_version(bucket, alias_or_number=1))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        p.name for p in (tmp_path / "local").iterdir()
    )
    assert weight(folder) == 7
