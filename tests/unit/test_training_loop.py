"""The whole loop on real videos: events, exact resume, bad clips, bad numbers, bad arguments."""

import contextlib
import os
import signal
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from gloo import run_workers
from slow_cases import slow_after

from kineray.config import apply_overrides
from kineray.data import load_manifest
from kineray.errors import (
    CheckpointError,
    ConfigError,
    ErrorBudgetError,
    ManifestError,
    NonFiniteLossError,
)
from kineray.options import WorkerOptions
from kineray.training import (
    CheckpointEvent,
    CheckpointStore,
    ReplacedEvent,
    StepEvent,
    ValidationEvent,
    load_checkpoint,
    train,
)


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """2 epochs of 3 steps of 4 batch-norm groups, with dropout."""
    torch.set_num_threads(1)
    return apply_overrides(tiny_experiment, {"train.epochs": 2, "model.dropout": 0.5})


class Stop(Exception):  # noqa: N818 - what a test raises to stop a run
    pass


KNOBS = {field.name for field in fields(WorkerOptions)}


def run(experiment, folder, *, stop_after=None, manifest=None, **more):
    """Train on the manifest of the experiment; returns result and events. ``more`` may hold knobs."""
    more = {"decoders": 1} | more  # another process takes longer to start than these few clips
    options = WorkerOptions(**{name: more.pop(name) for name in KNOBS & more.keys()})
    manifest = manifest or load_manifest(experiment.data.manifest)
    events = []

    def on_event(event):
        events.append(event)
        if isinstance(event, StepEvent) and event.step == stop_after:
            raise Stop

    result = None
    with contextlib.suppress(Stop):
        result = train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=CheckpointStore(str(folder / "checkpoints")),
            on_event=on_event,
            options=options,
            **more,
        )
    return result, events


def content(folder):
    """Bytes of the last checkpoint: weights and optimizer."""
    last = Path(CheckpointStore(str(folder / "checkpoints")).last())
    return {name: (last / name).read_bytes() for name in ("model.safetensors", "optimizer.pt")}


@pytest.fixture(scope="module")
def uninterrupted(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    result, events = run(experiment, folder, decoders=2)
    return folder, result, events


def test_a_run_reports_every_step_validation_and_checkpoint(uninterrupted, experiment):
    folder, result, events = uninterrupted
    kinds = [type(event).__name__.removesuffix("Event") for event in events]
    assert [kind for kind in kinds if kind != "Checkpoint"] == (["Step"] * 3 + ["Validation"]) * 2
    assert kinds.index("Checkpoint") in (4, 5, 6, 7) and kinds[-1] == "Checkpoint"  # written meanwhile
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6]
    assert [event.epoch for event in steps] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert [steps[0].lr, steps[3].lr] == pytest.approx([0.01, 0.05])  # warm-up over one of two epochs
    assert {event.total_steps for event in steps} == {6} and steps[-1].seconds_left == 0
    for event in steps:
        assert 0 <= event.data_wait <= 1 and event.clips_per_s > 0 and 0 < event.loss < 10
    validations = [event for event in events if isinstance(event, ValidationEvent)]
    assert [event.epoch for event in validations] == [1, 2]
    for event in validations:
        names = ("action/top1", "action/mean_class", "loss")  # no top-3 or top-5 of four classes
        assert set(event.metrics) == {f"val/{name}" for name in names}
        assert event.score == event.metrics["val/action/top1"]
        assert (event.score_name, event.precision) == ("action/top1", "float32")
    assert result.step == 6
    scores = [event.score for event in validations]
    assert (result.score, result.best, result.last) == ("action/top1", max(scores), scores[-1])
    checkpoints = [event for event in events if isinstance(event, CheckpointEvent)]
    assert checkpoints[0].best and checkpoints[-1].uri == result.last_uri
    assert load_checkpoint(str(folder)).uri == result.best_uri
    state = load_checkpoint(result.last_uri).state
    assert state["step"] == 6 and state["epoch"] == 2 and state["undecodable"] == []
    assert state["manifest"] == load_manifest(experiment.data.manifest).split("train").content_hash


@pytest.mark.slow
def test_the_same_run_elsewhere_is_the_same_to_the_bit(uninterrupted, experiment, tmp_path):
    run(experiment, tmp_path, decoders=1, activation_checkpointing=True)
    assert content(tmp_path) == content(uninterrupted[0])


@pytest.mark.parametrize("stop_after", slow_after(1, [5, 1, 4]))
def test_stop_and_resume_equals_uninterrupted(uninterrupted, experiment, tmp_path, stop_after):
    """Stopped before the first checkpoint, and in the middle of the second epoch."""
    run(experiment, tmp_path, stop_after=stop_after, checkpoint_every=2)
    _, events = run(experiment, tmp_path, checkpoint_every=2, resume=True)
    steps = [event.step for event in events if isinstance(event, StepEvent)]
    assert steps == list(range({1: 1, 4: 4, 5: 5}[stop_after], 7))
    assert content(tmp_path) == content(uninterrupted[0])
    by_step = {event.step: event for event in uninterrupted[2] if isinstance(event, StepEvent)}
    for event in events:
        if isinstance(event, StepEvent):
            assert (event.loss, event.lr) == (by_step[event.step].loss, by_step[event.step].lr)


def test_a_finished_run_resumes_to_its_end(uninterrupted, experiment):
    folder, result, _ = uninterrupted
    again, events = run(experiment, folder, resume=True)
    assert again == result and events == []


def train_and_die(rank, size, experiment, folder, die_after, resume):
    """``die_after``: the step whose checkpoint is the last complete one."""

    def on_event(event):
        if isinstance(event, CheckpointEvent) and event.step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    manifest = load_manifest(experiment.data.manifest)
    result = train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(str(folder / "checkpoints")),
        on_event=on_event,
        rank=rank,
        world_size=size,
        options=WorkerOptions(checkpoint_every=2),
        resume=resume,
    )
    return result.step, result.best, result.last_uri


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_killed_and_resumed_equals_uninterrupted(experiment, tmp_path, size):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = run_workers(train_and_die, size, tmp_path / "a", experiment, whole, None, False)
    died = run_workers(train_and_die, size, tmp_path / "b", experiment, killed, 4, False)
    assert died[0] is None
    assert CheckpointStore(str(killed / "checkpoints")).last().endswith("step-00000004")
    resumed = run_workers(train_and_die, size, tmp_path / "c", experiment, killed, None, True)
    assert [r[:2] for r in resumed] == [e[:2] for e in expected] == [(6, expected[0][1])] * size
    assert len({last for _, _, last in resumed}) == 1
    assert content(killed) == content(whole)


@pytest.mark.slow
def test_validation_does_not_depend_on_the_workers(uninterrupted, experiment, tmp_path):
    """The weights of one and three workers agree to rounding, their validation counts the same videos."""
    results = run_workers(train_and_die, 3, tmp_path, experiment, tmp_path, None, False)
    assert {score for _, score, _ in results} == {uninterrupted[1].best}
    ours = load_checkpoint(results[0][2]).model.state_dict()
    for name, value in load_checkpoint(uninterrupted[1].last_uri).model.state_dict().items():
        assert torch.allclose(ours[name].double(), value.double(), rtol=0.02, atol=2e-3), name


def with_broken(manifest, ids, folder):
    """The manifest with videos that are cut off, empty or absent in place of those named."""
    broken = []
    for number in range(len(ids)):
        path = folder / f"broken{number}.mp4"
        if number % 3 == 0:
            path.write_bytes(b"this is no video")
        elif number % 3 == 1:
            path.write_bytes(b"")
        broken.append(str(path))
    uris = dict(zip(ids, broken, strict=True))
    return replace(manifest, samples=tuple(replace(s, uri=uris.get(s.id, s.uri)) for s in manifest.samples))


def test_undecodable_clips_are_replaced_named_and_counted(experiment, tmp_path):
    manifest = load_manifest(experiment.data.manifest)
    bad = [sample.id for sample in manifest.split("train")][:2]
    manifest = with_broken(manifest, bad, tmp_path)
    lenient = apply_overrides(experiment, {"data.error_budget": 0.05})  # 2.4 of 48 clips
    result, events = run(lenient, tmp_path / "a", manifest=manifest)
    replaced = [event for event in events if isinstance(event, ReplacedEvent)]
    seen = Counter(failure.id for event in replaced for failure in event.failures)
    assert set(seen) == set(bad)  # every epoch sees every clip
    assert sum(seen.values()) >= 4
    assert {f.code for e in replaced for f in e.failures} == {"not_a_video", "empty"}
    state = load_checkpoint(result.last_uri).state
    assert sorted(failure["id"] for failure in state["undecodable"]) == sorted(bad)

    run(lenient, tmp_path / "b", manifest=manifest, stop_after=4, checkpoint_every=4)
    run(lenient, tmp_path / "b", manifest=manifest, resume=True)
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.slow
def test_undecodable_validation_videos_count_as_wrong(uninterrupted, experiment, tmp_path):
    manifest = load_manifest(experiment.data.manifest)
    bad = [sample.id for sample in manifest.split("val")]
    _, events = run(experiment, tmp_path, manifest=with_broken(manifest, bad[:4], tmp_path))
    validations = [event for event in events if isinstance(event, ValidationEvent)]
    for event in validations:
        assert event.metrics["val/undecodable"] == 4
        assert event.score <= 12 / 16


def over_budget(rank, size, experiment, manifest, folder):
    with pytest.raises(ErrorBudgetError) as caught:
        train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=CheckpointStore(str(folder / "checkpoints")),
            on_event=lambda event: None,
            rank=rank,
            world_size=size,
        )
    return caught.value


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_the_error_budget_stops_every_worker_with_the_files(experiment, tmp_path, size):
    """Two clips are over 1 % of 48; which worker meets them does not matter."""
    manifest = load_manifest(experiment.data.manifest)
    bad = [sample.id for sample in manifest.split("train")][:24]
    manifest = with_broken(manifest, bad, tmp_path)
    errors = run_workers(over_budget, size, tmp_path, experiment, manifest, tmp_path)
    assert len({str(error) for error in errors}) == 1
    assert (errors[0].code, errors[0].key) == ("error_budget", "data.error_budget")
    assert str(tmp_path / "broken") in str(errors[0])


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(experiment, tmp_path):
    """An absurd learning rate from the second epoch on: the weights explode after the first checkpoint."""
    absurd = apply_overrides(
        experiment,
        {"optim.lr": 1e30, "schedule.warmup_start": 1e-3, "schedule.warmup_epochs": 1, "train.epochs": 2},
    )
    # The first step is made at 1e-3, the next at 1e29.
    with pytest.raises(NonFiniteLossError) as error:
        run(absurd, tmp_path, checkpoint_every=1)
    assert error.value.code == "loss_not_finite" and error.value.key in ("step 2", "step 3")
    assert "for samples train/" in error.value.problem
    folder = tmp_path / "checkpoints"
    last = CheckpointStore(str(folder)).last()
    for name, value in load_checkpoint(last).model.state_dict().items():
        assert torch.isfinite(value).all(), name


def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(experiment, tmp_path):
    whole, _ = run(experiment, tmp_path / "whole")
    run(experiment, tmp_path / "run", stop_after=5, checkpoint_every=2)
    store = CheckpointStore(str(tmp_path / "run" / "checkpoints"))
    path = Path(store.last()) / "optimizer.pt"
    assert path.parent.name == "step-00000004"
    path.write_bytes(path.read_bytes()[:-100])
    result, events = run(experiment, tmp_path / "run", resume=True)
    assert next(event.step for event in events if isinstance(event, StepEvent)) == 4
    states = [load_checkpoint(uri).model.state_dict() for uri in (result.last_uri, whole.last_uri)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_resume_refuses_another_experiment_or_manifest(experiment, tmp_path):
    run(experiment, tmp_path, stop_after=3, checkpoint_every=2)
    other = apply_overrides(experiment, ["optim.lr=0.3", "train.epochs=5"])
    manifest = load_manifest(experiment.data.manifest)
    fewer = replace(manifest, samples=manifest.samples[1:])
    for asked, samples, differing in (
        (other, manifest, "optim.lr, train.epochs"),
        (experiment, fewer, "the content of data.manifest"),
    ):
        with pytest.raises(CheckpointError) as error:
            run(asked, tmp_path, manifest=samples, resume=True)
        assert error.value.code == "other_experiment" and differing in error.value.problem
    with pytest.raises(CheckpointError) as error:
        run(experiment, tmp_path)
    assert (error.value.code, error.value.key) == ("run_exists", str(tmp_path / "checkpoints"))
    renamed = apply_overrides(experiment, ["name=other"])
    assert run(renamed, tmp_path, stop_after=3, resume=True)[1]


@pytest.mark.slow
def test_an_epoch_with_more_clips_of_each_video_is_longer(experiment, tmp_path):
    result, events = run(apply_overrides(experiment, ["data.clips_per_sample=2"]), tmp_path)
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert len(steps) == steps[-1].total_steps == 12 and steps[5].epoch == 1
    assert result is not None


@pytest.mark.slow
def test_the_learning_rate_follows_validation_in_a_resumed_run_too(experiment, tmp_path):
    """No score improves on the first by 1: a decay after the second validation."""
    changes = ["schedule.type=plateau", "schedule.patience=1", "schedule.improvement=1", "train.epochs=3"]
    patient = apply_overrides(experiment, changes)
    events = run(patient, tmp_path / "whole")[1]
    rates = [event.lr for event in events if isinstance(event, StepEvent)]
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 3)
    run(patient, tmp_path / "parts", stop_after=7)
    events = run(patient, tmp_path / "parts", resume=True)[1]
    assert [event.lr for event in events if isinstance(event, StepEvent)] == rates[6:]
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_bad_arguments_are_refused_before_anything_is_written(experiment, tmp_path):
    for options, code, key in (
        ({"micro_batch": 6}, "not_whole_groups", "micro_batch"),
        ({"rank": 0, "world_size": 5}, "too_many_workers", "workers"),
    ):
        with pytest.raises(ConfigError) as error:
            run(experiment, tmp_path, **options)
        assert (error.value.code, error.value.key) == (code, key)
    with pytest.raises(ConfigError) as error:
        run(apply_overrides(experiment, {"train.global_batch": 64}), tmp_path)
    assert (error.value.code, error.value.key) == ("batch_larger_than_epoch", "train.global_batch")
    both = ["data.modality=rgb_flow", "data.mean=0.5,0.5,0.5,0.5,0.5", "data.std=0.2,0.2,0.2,0.2,0.2"]
    manifest = load_manifest(experiment.data.manifest)
    flow = "/flow/{u,v}/%d.png#fps=15&bound=20"
    of_train = [replace(s, flow=flow if s.split == "train" else "") for s in manifest]
    for given, split in ((manifest, "train"), (replace(manifest, samples=of_train), "val")):
        with pytest.raises(ManifestError) as error:
            run(apply_overrides(experiment, both), tmp_path, manifest=given)
        assert error.value.code == "no_flow" and f"in {split}" in error.value.problem
    assert not (tmp_path / "checkpoints").exists()
