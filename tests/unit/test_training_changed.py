"""Going on from a checkpoint with other values: more epochs, a fork, and what does not fit."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_training_loop import run
from test_training_plan import assert_equal_state, last_state

from kineray.config import apply_overrides, to_yaml
from kineray.data import load_manifest
from kineray.data.derive.synth import synthesize
from kineray.data.manifest.manifest import save_manifest
from kineray.errors import CheckpointError, ConfigError
from kineray.options import WorkerOptions
from kineray.orchestration.preparing import prepare
from kineray.training import CheckpointStore, StepEvent
from kineray.training.checkpoint import load_training_state
from kineray.training.kept import copy_checkpoint, kept, kept_steps, last_kept
from kineray.training.probe import probe


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """3 steps an epoch at a constant learning rate, with dropout and a moving average of the weights."""
    torch.set_num_threads(1)
    changes = ["train.epochs=2", "model.dropout=0.5", "recipe.ema=on"]
    constant = ["schedule.type=steps", "schedule.warmup_epochs=0"]
    return apply_overrides(tiny_experiment, changes + constant)


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    """The folder of a run of two epochs, with checkpoints of the steps 3 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    run(experiment, folder)
    (folder / "experiment.yaml").write_text(to_yaml(experiment))
    return folder


def store(folder):
    return CheckpointStore(str(folder / "checkpoints"))


def fork(finished, folder, step):
    copy_checkpoint(kept_steps(str(finished / "checkpoints"))[step], str(folder / "checkpoints"))
    return folder


def test_a_run_of_two_epochs_extended_to_four_is_one_of_four(experiment, finished, tmp_path):
    longer = apply_overrides(experiment, ["train.epochs=4"])
    run(longer, tmp_path / "whole")
    extended = shutil.copytree(finished, tmp_path / "extended")
    _, events = run(longer, extended, resume=True, changed=["train.epochs"])
    assert [event.step for event in events if isinstance(event, StepEvent)] == list(range(7, 13))
    assert_equal_state(last_state(tmp_path / "whole"), last_state(extended))
    assert (
        store(extended).load_last()[1].state["scores"]
        == store(tmp_path / "whole").load_last()[1].state["scores"]
    )


def test_a_fork_without_changes_is_the_run_resumed(experiment, finished, tmp_path):
    folder = fork(finished, tmp_path, 3)
    assert last_kept(str(folder / "checkpoints")) == store(folder).last() == store(folder).best()
    _, events = run(experiment, folder, resume=True)
    assert [event.step for event in events if isinstance(event, StepEvent)] == [4, 5, 6]
    assert_equal_state(last_state(finished), last_state(folder))


def test_a_fork_has_the_hyperparameters_of_its_own_experiment(experiment, finished, tmp_path):
    changes = {"optim.momentum": 0.5, "optim.weight_decay": 0.01, "optim.lr": 0.02}
    folder = fork(finished, tmp_path, 3)
    _, events = run(apply_overrides(experiment, changes), folder, resume=True, changed=list(changes))
    assert {event.lr for event in events if isinstance(event, StepEvent)} == {0.02}
    groups = load_training_state(store(folder).last()).optimizer["param_groups"]
    assert {group["momentum"] for group in groups} == {0.5}
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}


def test_a_piece_that_a_fork_adds_begins_at_the_checkpoint_and_one_that_it_drops_is_gone(
    experiment, finished, tmp_path
):
    """After step 7 the average has gone 9/16 of the way from there to the weights."""
    without = fork(finished, tmp_path / "without", 3)
    dropped = apply_overrides(experiment, ["recipe.ema=off"])
    run(dropped, without, resume=True, changed=["recipe.ema.decay"])
    assert load_training_state(store(without).last()).pieces == {}
    again = fork(without, tmp_path / "again", 6)
    longer = apply_overrides(experiment, ["train.epochs=3"])
    changed = ["recipe.ema.decay", "train.epochs"]
    run(longer, again, resume=True, changed=changed, checkpoint_every=1, stop_after=8)
    start, now = (load_training_state(store(folder).last()) for folder in (without, again))
    assert now.state["step"] == 7 and now.state["weights"] == "ema"
    for name, value in now.weights.items():
        if value.is_floating_point():
            torch.testing.assert_close(now.pieces["ema"][name], start.weights[name].lerp(value, 9 / 16))


def test_only_the_keys_that_are_named_may_differ(experiment, finished, tmp_path):
    folder = fork(finished, tmp_path, 6)
    other = apply_overrides(experiment, ["train.epochs=4", "optim.lr=0.5"])
    with pytest.raises(CheckpointError) as error:
        run(other, folder, resume=True, changed=["train.epochs"])
    assert error.value.code == "other_experiment"
    assert "optim.lr" in error.value.problem and "train.epochs" not in error.value.problem


@pytest.mark.parametrize("change", ["model.width=16", "recipe.layer_decay=on", "data.modality=flow"])
def test_tensors_that_do_not_fit_are_found_without_training(experiment, finished, change):
    two = ["data.mean=0.5,0.5", "data.std=0.2,0.2"] if change == "data.modality=flow" else []
    uri = store(finished).last()
    labels = kept(uri).preprocessing.labels
    probe(apply_overrides(experiment, ["optim.lr=7", "model.dropout=0"]), labels, uri)
    with pytest.raises(ConfigError) as error:
        probe(apply_overrides(experiment, [change, *two]), labels, uri)
    assert (error.value.code, error.value.key) == ("not_carried", "fork")


def test_a_copy_is_whole_or_not_there(finished, tmp_path):
    """A folder that is not complete has no state.json, and is not one of the checkpoints."""
    assert list(kept_steps(str(finished / "checkpoints"))) == [3, 6]
    copied = fork(finished, tmp_path, 6) / "checkpoints"
    for file in Path(store(finished).last()).iterdir():
        assert (copied / "step-00000006" / file.name).read_bytes() == file.read_bytes()
    (copied / "step-00000006" / "state.json").unlink()
    assert kept_steps(str(copied)) == {} and kept_steps(str(tmp_path / "none")) == {}
    assert last_kept(str(tmp_path / "none")) is None


def prepared(experiment, finished, *changes, **more):
    """What is known of a run in the storage of ``finished`` before anything is started."""
    arguments = {"workers": None, "name": None, "resume": False, "extend": False, "fork": None} | more
    return prepare(
        apply_overrides(experiment, changes),
        storage=str(finished.parent),
        options=WorkerOptions(),
        **arguments,
    )


@pytest.mark.parametrize(
    ("changes", "arguments", "code", "key"),
    [
        (["train.epochs=3"], {"extend": True}, "not_set", "extend"),
        (["train.epochs=3"], {"extend": True, "name": "none"}, "nothing_to_extend", "name"),
        ([], {"extend": True, "name": "NAME"}, "out_of_range", "train.epochs"),
        (["train.epochs=3", "optim.lr=1"], {"extend": True, "name": "NAME"}, "other_experiment", "extend"),
        (["train.epochs=3"], {"fork": "none"}, "unknown_checkpoint", "none"),
        (["train.epochs=3"], {"fork": "NAME@5"}, "unknown_step", "fork"),
        ([], {"fork": "NAME@6"}, "out_of_range", "train.epochs"),
        (["optim.type=adam"], {"fork": "NAME@3"}, "not_carried", "optim.type"),
        (
            ["recipe.early_stopping.patience=1", "recipe.early_stopping.improvement=1", "train.epochs=3"],
            {"fork": "NAME"},
            "stopped_early",
            "recipe.early_stopping",
        ),
        ([], {"fork": "NAME", "resume": True}, "contradiction", "resume"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_before_anything_starts(
    experiment, finished, changes, arguments, code, key
):
    named = {
        name: value.replace("NAME", finished.name) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    with pytest.raises((ConfigError, CheckpointError)) as error:
        prepared(experiment, finished, *changes, **named)
    assert (error.value.code, error.value.key) == (code, key)
    if code == "unknown_step":
        assert "3, 6" in error.value.remedy


def test_a_fork_on_other_classes_is_refused_and_one_on_other_videos_is_not(experiment, finished, tmp_path):
    other = synthesize(tmp_path / "other", train=16, val=4, size=40)
    start = prepared(
        experiment, finished, f"data.manifest={other}", "train.epochs=9", fork=f"{finished.name}@3"
    ).start
    assert list(start.changes) == ["train.epochs", "data.manifest"]
    manifest = load_manifest(other)
    first, *rest = manifest.vocabularies["action"]
    renamed = tmp_path / "renamed.parquet"
    save_manifest(replace(manifest, vocabularies={"action": (f"{first}_too", *rest)}), renamed)
    with pytest.raises(ConfigError) as error:
        prepared(experiment, finished, f"data.manifest={renamed}", fork=finished.name)
    assert (error.value.code, error.value.key) == ("not_carried", "data.manifest")


def test_an_extension_may_change_the_schedule_and_says_what_becomes_of_the_rate(experiment, finished):
    changes = ["train.epochs=4", "schedule.decay_epochs=2"]
    start = prepared(experiment, finished, *changes, extend=True, name=finished.name).start
    assert set(start.changes) == {"train.epochs", "schedule.decay_epochs"}
    assert start.lr == pytest.approx((0.1, 0.01)) and "0.01 at step 7" in start.line
