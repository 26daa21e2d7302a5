"""Activation checkpointing: less is kept for the backward pass, and nothing else changes."""

from contextlib import contextmanager

import pytest
import torch
from small_models import SMALL, every_architecture

from kineray.models import (
    build_model,
    checkpoint_activations,
    commit_batch_norm,
    set_batch_norm_group,
    set_clip_seeds,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def kept_bytes():
    """Bytes that the backward pass finds stored, each storage once; parameters do not count."""
    storages = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield storages


def step(small, group, checkpointed):
    """A training step of 4 clips: logits, gradients, state, and the bytes kept in between."""
    torch.manual_seed(0)
    model = build_model(small.config, {"action": 5}, small.channels).train()
    if checkpointed:
        assert checkpoint_activations(model) > 0
    set_batch_norm_group(model, group)
    set_clip_seeds(model, [1, 2, 3, 4])
    clips = torch.randn(4, small.channels, small.frames, small.side, small.side)
    with kept_bytes() as storages:
        logits = model(clips)
        loss = torch.stack([values.square().sum() for values in logits.values()]).sum()
    loss.backward()
    commit_batch_norm(model)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logits, gradients, model.state_dict(), sum(storages.values())


@every_architecture
def test_a_step_is_the_same_with_less_memory(small):
    *plain, plain_bytes = step(small, 2, checkpointed=False)
    *checkpointed, checkpointed_bytes = step(small, 2, checkpointed=True)
    for one, other in zip(plain, checkpointed, strict=True):
        assert list(one) == list(other)
        for name, values in one.items():
            assert torch.equal(values, other[name]), name
    frozen = getattr(small.config, "frozen", False)  # nothing is kept of a frozen backbone anyway
    assert checkpointed_bytes <= plain_bytes if frozen else checkpointed_bytes < plain_bytes


def test_running_statistics_move_once_without_groups():
    plain, checkpointed = (step(SMALL["slowfast"], None, choice)[2] for choice in (False, True))
    for name, values in plain.items():
        assert torch.equal(values, checkpointed[name]), name


def test_evaluation_is_as_before():
    small = SMALL["s3d"]
    model = build_model(small.config, {"action": 5}, 3).eval()
    clips = torch.randn(1, 3, small.frames, small.side, small.side)
    with torch.no_grad():
        before = model(clips)["action"]
        checkpoint_activations(model)
        assert torch.equal(model(clips)["action"], before)
