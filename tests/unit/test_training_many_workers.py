"""Sixteen, seven and 128 real workers make the update of one process on the whole batch."""

import hashlib

import numpy as np
import pytest
import torch
from gloo import run_workers
from test_training_loop import run
from test_training_step import ROUNDING, VOCABULARIES, assert_same, new_stepper, step_of

from kineray.config import SgdConfig, apply_overrides
from kineray.data import Batch
from kineray.training import StepEvent, load_checkpoint
from kineray.training.checkpoint import CheckpointStore
from kineray.training.synchronise import Workers

pytestmark = pytest.mark.slow


def batches_of(positions):
    """Batch-norm groups of two clips, made from their place in the batch alone."""
    for first in positions[::2]:
        generator = torch.Generator().manual_seed(first)
        clips = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8, generator=generator)
        labels = {
            head: torch.randint(len(names), (2,), generator=generator) for head, names in VOCABULARIES.items()
        }
        yield Batch(0, clips, labels, (f"clip{first}", f"clip{first + 1}"), ())


def updated(rank, size, groups):
    """The hash of all weights after one step of ``groups`` groups, the loss, and rank 0's weights."""
    torch.set_num_threads(1)
    model, stepper = new_stepper(Workers(rank, size), optim=SgdConfig(lr=0.1, reference_batch=2 * groups))
    step = step_of(0, global_batch=2 * groups)
    positions = step.share(rank, size)
    loss = stepper.run(step, positions, batches_of(positions)).loss
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    digest = hashlib.sha256(b"".join(value.tobytes() for value in state.values())).hexdigest()
    return digest, loss, (state if rank == 0 else None), len(positions)


@pytest.mark.parametrize(("size", "groups"), [(16, 16), (7, 128), (128, 128)])
def test_the_update_is_that_of_one_process(size, groups, tmp_path):
    alone = updated(0, 1, groups)
    found = run_workers(updated, size, tmp_path, groups)
    assert sum(result[3] for result in found) == 2 * groups
    assert max(result[3] for result in found) - min(result[3] for result in found) <= 2
    assert len({result[:2] for result in found}) == 1  # all have the same weights, to the bit
    assert_same((found[0][2], [found[0][1]]), (alone[2], [alone[1]]), **ROUNDING)


def trained(rank, size, experiment, folder):
    """Losses and weights of a run of seven epochs of three steps, in micro-batches of one group of two."""
    from pathlib import Path

    folder = Path(folder)
    _, events = run(experiment, folder, micro_batch=2, rank=rank, world_size=size)
    last = CheckpointStore(str(folder / "checkpoints")).last()
    weights = {name: value.numpy() for name, value in load_checkpoint(last).model.state_dict().items()}
    return [event.loss for event in events if isinstance(event, StepEvent)], weights


def test_after_twenty_steps_one_two_and_four_workers_have_the_same_weights(tiny_experiment, tmp_path):
    """1 x 16, 2 x 8 and 4 x 4 clips. The bound: a thousandth of how far the weights have come."""
    changes = {"train.epochs": 7, "train.eval_every_epochs": 7, "train.bn_group": 2, "optim.lr": 0.01}
    experiment = apply_overrides(tiny_experiment, changes)
    begun, _ = new_run_weights(experiment, tmp_path)
    losses, weights = run_workers(trained, 1, tmp_path / "a", experiment, str(tmp_path / "1"))[0]
    assert len(losses) == 21
    for size in (2, 4):
        found = run_workers(trained, size, tmp_path / "a", experiment, str(tmp_path / f"{size}"))
        assert found[0][0] == pytest.approx(losses, rel=1e-3)
        for name, value in weights.items():
            come = np.linalg.norm(value - begun[name])
            assert np.linalg.norm(found[0][1][name] - value) <= 1e-3 * come + 1e-7, name


def new_run_weights(experiment, folder):
    """The weights before the first step."""
    from kineray.models import build_model

    torch.manual_seed(experiment.seed)
    classes = {"action": 4}
    model = build_model(experiment.model, classes)
    return {name: value.numpy() for name, value in model.state_dict().items()}, folder
