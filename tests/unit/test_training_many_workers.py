"""Sixteen workers, and seven for 128 groups, make the update of one process on the whole batch."""

import hashlib

import pytest
import torch
from gloo import run_workers
from test_training_step import ROUNDING, VOCABULARIES, assert_same, new_stepper, step_of

from kineray.config import SgdConfig
from kineray.data import Batch
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


@pytest.mark.parametrize(("size", "groups"), [(16, 16), (7, 128)])
def test_the_update_is_that_of_one_process(size, groups, tmp_path):
    alone = updated(0, 1, groups)
    found = run_workers(updated, size, tmp_path, groups)
    assert sum(result[3] for result in found) == 2 * groups
    assert max(result[3] for result in found) - min(result[3] for result in found) <= 2
    assert len({result[:2] for result in found}) == 1  # all have the same weights, to the bit
    assert_same((found[0][2], [found[0][1]]), (alone[2], [alone[1]]), **ROUNDING)
