"""Initial weights: loaded once, the same on every worker, from a folder, a file or a bucket."""

import shutil

import pytest
import torch
from gloo import run_workers

from kineray import storage
from kineray.config import SlowFastConfig, TwoStreamConfig, apply_overrides
from kineray.data import load_manifest
from kineray.errors import ConfigError
from kineray.models import build_model
from kineray.training import (
    CheckpointStore,
    InitialisedEvent,
    StepEvent,
    absolute_inits,
    load_checkpoint,
    train,
)
from kineray.training.initial import initialise
from kineray.training.synchronise import Workers
from small_checkpoint import save_small_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_small_checkpoint(str(tmp_path_factory.mktemp("run") / "checkpoints"), seed=5)


def fresh(checkpoint):
    return build_model(load_checkpoint(checkpoint).experiment.model, {"action": 4})


def has_weights_of(checkpoint, model):
    theirs = load_checkpoint(checkpoint).model.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def run(experiment, folder, **options):
    manifest = load_manifest(experiment.data.manifest)
    events = []
    train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(str(folder)),
        on_event=events.append,
        **options,
    )
    return events


def test_a_run_starts_from_weights_and_resumes_without_them(tiny_experiment, checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "init")
    # The steps are so small that the weights hardly change.
    experiment = apply_overrides(
        tiny_experiment,
        {"model.init": str(copy), "train.epochs": 1, "schedule.warmup_epochs": 0, "optim.lr": 1e-9},
    )
    events = run(experiment, tmp_path / "run")
    assert isinstance(events[0], InitialisedEvent)
    assert events[0].message.startswith(f"230 tensors of {copy} (kineray)")
    assert not any(isinstance(event, InitialisedEvent) for event in events[1:])
    started, trained = (load_checkpoint(uri).model for uri in (checkpoint, str(tmp_path / "run")))
    for name, value in trained.named_parameters():
        torch.testing.assert_close(value, started.get_parameter(name), rtol=0, atol=1e-6)

    shutil.rmtree(copy)
    assert run(experiment, tmp_path / "run", resume=True) == []
    with pytest.raises(ConfigError) as error:
        run(experiment, tmp_path / "another run")
    assert (error.value.code, error.value.key) == ("weights_not_usable", "model.init")
    assert str(copy) in str(error.value)


def test_without_init_nothing_is_reported(tiny_experiment, tmp_path):
    events = run(apply_overrides(tiny_experiment, {"train.epochs": 1, "schedule.warmup_epochs": 0}), tmp_path)
    assert isinstance(events[0], StepEvent)


def test_weights_are_read_from_a_bucket(checkpoint, s3):
    storage.put_folder(checkpoint, f"{s3}/init")
    for init in (f"{s3}/init", f"{s3}/init/model.safetensors"):
        model = fresh(checkpoint)
        assert init in initialise(model, "", init, Workers())
        assert has_weights_of(checkpoint, model)


def test_each_stream_starts_from_a_network_that_was_trained_alone(checkpoint):
    alone = load_checkpoint(checkpoint).experiment.model
    streams = TwoStreamConfig(
        rgb=alone.model_copy(update={"init": checkpoint}), flow=alone.model_copy(update={"init": checkpoint})
    )
    assert absolute_inits(streams) == {"model.rgb.init": checkpoint, "model.flow.init": checkpoint}
    model = build_model(streams, {"action": 4}, 5)
    for part, init in streams.inits().items():
        initialise(model, part, init, Workers())
    assert has_weights_of(checkpoint, model.rgb)
    mean = model.rgb.slow.stem.conv.weight.mean(1, keepdim=True)
    torch.testing.assert_close(model.flow.slow.stem.conv.weight, mean.expand(-1, 2, -1, -1, -1))
    with pytest.raises(ConfigError) as error:
        initialise(model, "flow", "absent.pyth", Workers())
    assert (error.value.code, error.value.key) == ("weights_not_usable", "model.flow.init")


def test_what_is_not_in_the_bucket_is_named(checkpoint, s3):
    with pytest.raises(ConfigError) as error:
        initialise(fresh(checkpoint), "", f"{s3}/absent.pyth", Workers())
    assert (error.value.code, error.value.key) == ("weights_not_usable", "model.init")
    assert f"{s3}/absent.pyth" in str(error.value)


def load_on_a_worker(rank, size, checkpoint, init):
    torch.manual_seed(rank)
    model = fresh(checkpoint)
    initialise(model, "", init if rank == 0 else "what the other workers do not read", Workers(rank, size))
    return has_weights_of(checkpoint, model)


@pytest.mark.slow
def test_every_worker_gets_the_weights_or_the_error(checkpoint, tmp_path):
    assert run_workers(load_on_a_worker, 2, tmp_path / "a", checkpoint, checkpoint) == [True, True]
    errors = run_workers(load_on_a_worker, 2, tmp_path / "b", checkpoint, "absent.pyth")
    assert len({str(error) for error in errors}) == 1 and type(errors[1]) is ConfigError


def test_local_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.pyth").touch()
    absolute = {
        init: absolute_inits(SlowFastConfig(init=init)) for init in ("", "a/x.pyth", "torchvision:s3d")
    }
    assert absolute[""] == {}
    assert absolute["a/x.pyth"] == {"model.init": str(tmp_path / "a/x.pyth")}
    assert absolute["torchvision:s3d"] == {"model.init": "torchvision:s3d"}


def test_a_run_reports_a_backbone_that_is_frozen_at_random(tiny_experiment, tmp_path):
    experiment = apply_overrides(
        tiny_experiment,
        {
            **{"model.type": "frame", "model.backbone": "mobilenet_v2", "model.cut": "features.0"},
            **{"model.frozen": True, "train.epochs": 1, "schedule.warmup_epochs": 0},
        },
    )
    first, *others = run(experiment, tmp_path / "run")
    assert isinstance(first, InitialisedEvent) and first.part == "backbone"
    assert "model.init=" in first.message
    assert not any(isinstance(event, InitialisedEvent) for event in others)
