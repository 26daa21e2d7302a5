"""The plan of steps: that of an experiment, and one whose steps differ in every field."""

from dataclasses import dataclass, replace

import pytest
import torch
from gloo import run_workers
from test_training_loop import run

from kineray.config import apply_overrides
from kineray.data import ClipShape
from kineray.errors import CheckpointError, ConfigError
from kineray.training import (
    CheckpointStore,
    ExperimentPlan,
    Step,
    StepEvent,
    ValidationEvent,
    learning_rate,
    load_checkpoint,
)
from kineray.training.checkpoint import load_training_state


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """With dropout, and batch-norm groups of 4 clips unless a plan has others."""
    torch.set_num_threads(1)
    return apply_overrides(tiny_experiment, {"train.epochs": 2, "model.dropout": 0.5})


def last_state(folder):
    """Weights, optimizer and pieces of the recipe of the last checkpoint, by name."""
    saved = load_training_state(CheckpointStore(str(folder / "checkpoints")).last())
    moments = {
        f"{parameter}.{name}": value
        for parameter, state in saved.optimizer["state"].items()
        for name, value in state.items()
    }
    of_pieces = {
        f"{piece}.{name}": value for piece, state in saved.pieces.items() for name, value in state.items()
    }
    return saved.weights | moments | of_pieces


def assert_equal_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("changes", [{}, {"train.eval_every_epochs": 2, "train.epochs": 5}])
def test_the_steps_of_an_experiment(experiment, changes):
    experiment = apply_overrides(experiment, changes)
    epochs = experiment.train.epochs
    plan = ExperimentPlan(experiment, 50)  # 3 batches of 16
    assert plan.total_steps == 3 * epochs
    steps = [plan.at(index) for index in range(plan.total_steps)]
    assert [step.index for step in steps] == list(range(3 * epochs))
    assert [(step.epoch, step.first) for step in steps[2:5]] == [(0, 32), (1, 0), (1, 16)]
    assert {(step.global_batch, step.bn_group, step.trained) for step in steps} == {(16, 4, None)}
    assert {step.clip for step in steps} == {ClipShape(frames=8, stride=2, short_side=(36, 40), crop=32)}
    assert [step.lr for step in steps] == [learning_rate(i / 3, experiment) for i in range(3 * epochs)]
    validated = [step.epochs_done for step in steps if step.is_validated]
    assert validated == {2: [1, 2], 5: [2, 4, 5]}[epochs]


def test_several_clips_of_a_sample_make_an_epoch_longer(experiment):
    plan = ExperimentPlan(apply_overrides(experiment, ["data.clips_per_sample=2"]), 50)
    assert plan.total_steps == 6 * 2


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_shares_are_whole_groups_of_the_whole_batch(experiment, workers):
    step = replace(ExperimentPlan(experiment, 50).at(4), global_batch=20)
    shares = [step.share(rank, workers) for rank in range(workers)]
    assert [position for share in shares for position in share] == list(range(20))
    assert all(len(share) % 4 == 0 for share in shares)
    batches = [step.batch(rank, workers, micro_batch=9) for rank in range(workers)]
    assert [batch.positions for batch in batches] == [range(s.start + 16, s.stop + 16) for s in shares]
    assert {batch.micro_batch for batch in batches} == {8}, "whole groups alone"
    with pytest.raises(ConfigError) as error:
        step.share(0, 6)
    assert (error.value.code, error.value.key) == ("too_many_workers", "workers")


def test_a_step_is_whole_groups(experiment):
    with pytest.raises(ValueError, match="18 clips are not whole groups of 4"):
        replace(ExperimentPlan(experiment, 50).at(0), global_batch=18)


@dataclass(frozen=True)
class Varied:
    """Eight steps in two epochs of unequal batches: multigrid, unfreezing, any learning rate."""

    lr_of_step_3: float = 0.005

    total_steps = 8

    def at(self, index):
        small = ClipShape(frames=4, stride=2, short_side=(36, 40), crop=32)
        wide = ClipShape(frames=8, stride=1, short_side=(48, 56), crop=48)
        usual = ClipShape(frames=8, stride=2, short_side=(36, 40), crop=32)
        head = ("head.*",)
        #   epoch, first, batch, group, clip, trained, validated
        epoch, first, batch, group, clip, trained, validated = [
            (0, 0, 16, 4, small, head, False),
            (0, 16, 8, 4, usual, head, False),
            (0, 24, 12, 6, wide, ("head.*", "*.res5.*"), False),
            (0, 36, 8, 2, usual, None, True),
            (1, 0, 16, 8, small, None, False),
            (1, 16, 20, 4, wide, ("slow.*",), False),
            (1, 36, 6, 3, usual, None, False),
            (1, 42, 6, 2, usual, None, True),
        ][index]
        return Step(
            index=index,
            epoch=epoch,
            first=first,
            global_batch=batch,
            bn_group=group,
            clip=clip,
            lr=self.lr_of_step_3 if index == 3 else 0.002 * (index + 1),
            epochs_done=epoch + (first + batch) / (44 if epoch == 0 else 48),
            is_validated=validated,
            trained=trained,
        )


@pytest.fixture(scope="module")
def varied(experiment, tmp_path_factory):
    """A run of all eight steps."""
    folder = tmp_path_factory.mktemp("varied")
    _, events = run(experiment, folder, plan=Varied(), micro_batch=8, checkpoint_every=1)
    return folder, events


def test_a_run_follows_its_plan(varied):
    steps = [event for event in varied[1] if isinstance(event, StepEvent)]
    assert [event.lr for event in steps] == pytest.approx([Varied().at(i).lr for i in range(8)])
    assert [event.epoch for event in steps] == pytest.approx([Varied().at(i).epochs_done for i in range(8)])
    validations = [(e.step, e.epoch) for e in varied[1] if isinstance(e, ValidationEvent)]
    assert validations == [(4, 1), (8, 2)]


def test_a_run_interrupted_and_resumed_is_the_same_to_the_bit(varied, experiment, tmp_path):
    """Twice, at steps between which everything changes."""
    options = {"plan": Varied(), "micro_batch": 8, "checkpoint_every": 1}
    run(experiment, tmp_path, stop_after=4, **options)
    run(experiment, tmp_path, stop_after=7, resume=True, **options)
    run(experiment, tmp_path, resume=True, **options)
    assert_equal_state(last_state(tmp_path), last_state(varied[0]))


def weights(folder):
    uri = CheckpointStore(str(folder / "checkpoints")).last()
    return load_checkpoint(uri).model.state_dict()


def test_what_a_step_does_not_train_does_not_change(experiment, tmp_path):
    """The first two steps train the head alone."""
    run(experiment, tmp_path / "1", plan=Varied(), stop_after=2, checkpoint_every=1)
    run(experiment, tmp_path / "2", plan=Varied(), stop_after=3, checkpoint_every=1)
    first, second = weights(tmp_path / "1"), weights(tmp_path / "2")
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert {name for name in changed if "running" not in name and "num_batches" not in name} == {
        "head.linear.action.weight",
        "head.linear.action.bias",
    }


def test_resume_refuses_a_step_that_was_made_otherwise(experiment, tmp_path):
    run(experiment, tmp_path, plan=Varied(), stop_after=5, checkpoint_every=4)
    with pytest.raises(CheckpointError) as error:
        run(experiment, tmp_path, plan=Varied(lr_of_step_3=0.006), resume=True)
    assert error.value.code == "other_experiment" and "the step's lr" in error.value.problem


def part_of_a_run(rank, size, experiment, folder, stop_after, resume):
    options = {"plan": Varied(), "checkpoint_every": 1, "stop_after": stop_after, "resume": resume}
    run(experiment, folder, rank=rank, world_size=size, **options)


@pytest.mark.slow
def test_workers_may_come_and_go(varied, experiment, tmp_path):
    """One worker, then two, then one: the samples are the same, and the weights up to rounding."""
    for number, (size, stop_after) in enumerate([(1, 3), (2, 6), (1, None)]):
        folder = tmp_path / "run"
        args = (experiment, folder, stop_after, number > 0)
        run_workers(part_of_a_run, size, tmp_path / str(number), *args)
    ours = weights(tmp_path / "run")
    for name, value in weights(varied[0]).items():
        assert torch.allclose(ours[name].double(), value.double(), rtol=0.02, atol=2e-3), name
