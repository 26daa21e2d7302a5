"""Activation checkpointing: less is stored for the backward pass, and nothing else changes."""

import copy
from contextlib import contextmanager

import pytest
import torch
from small_models import SMALL, every_architecture
from torch import nn

from kineray.models import (
    build_model,
    checkpoint_activations,
    commit_batch_norm,
    set_batch_norm_group,
    set_clip_seeds,
    summarise,
)
from kineray.models.blocks import ClipDropout

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def kept_bytes():
    """Bytes stored for the backward pass, each storage counted once, without parameters."""
    storages = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield storages


def step(small, group, checkpointed):
    """A training step of 4 clips: logits, gradients, state, and the bytes stored in between."""
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
    frozen = getattr(small.config, "frozen", False)  # a frozen backbone stores nothing in any case
    assert checkpointed_bytes <= plain_bytes if frozen else checkpointed_bytes < plain_bytes


def test_running_statistics_move_once_without_groups():
    plain, checkpointed = (step(SMALL["slowfast"], None, choice)[2] for choice in (False, True))
    for name, values in plain.items():
        assert torch.equal(values, checkpointed[name]), name


def test_evaluation_does_not_change():
    small = SMALL["s3d"]
    model = build_model(small.config, {"action": 5}, 3).eval()
    clips = torch.randn(1, 3, small.frames, small.side, small.side)
    with torch.no_grad():
        before = model(clips)["action"]
        checkpoint_activations(model)
        assert torch.equal(model(clips)["action"], before)


@every_architecture
def test_a_deep_copy_computes_with_its_own_weights(small):
    torch.manual_seed(0)
    model = build_model(small.config, {"action": 5}, small.channels).train()
    names = [name for name, _ in model.named_modules()]
    checkpoint_activations(model)
    assert [name for name, _ in model.named_modules()] == names
    clone = copy.deepcopy(model)
    with torch.no_grad():
        for weight in (*model.parameters(), *model.buffers()):
            weight.fill_(float("nan") if weight.is_floating_point() else 0)
    set_clip_seeds(clone, [1, 2])
    logits = clone(torch.randn(2, small.channels, small.frames, small.side, small.side))
    assert all(torch.isfinite(values).all() for values in logits.values())
    torch.stack([values.square().sum() for values in logits.values()]).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(parameter.grad is not None for parameter in clone.parameters())
    assert kinds(clone) == kinds(model)  # it is checkpointed too


def kinds(model):
    return [type(module) for module in model.modules()]


@every_architecture
def test_a_summary_is_that_of_the_plain_network(small):
    clip = (small.channels, small.frames, small.side, small.side)
    with torch.device("meta"):
        model = build_model(small.config, {"action": 5}, small.channels)
        plain = summarise(model, clip)
        checkpoint_activations(model)
    assert summarise(model, clip) == plain


def test_checkpointing_twice_is_checkpointing_once():
    small = SMALL["s3d"]
    with torch.device("meta"):
        model = build_model(small.config, {"action": 5}, 3)
    blocks, after_one = checkpoint_activations(model), kinds(model)
    assert checkpoint_activations(model) == blocks
    assert kinds(model) == after_one


def test_dropout_inside_a_block_keeps_its_mask():
    """The name of the layer is in its seed, and the second pass must drop what the first one dropped."""

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Sequential(nn.Linear(8, 8), ClipDropout(0.5)), nn.Linear(8, 1)).train()

    gradients = []
    for checkpointed in (False, True):
        model = network()
        assert not checkpointed or checkpoint_activations(model) == 1
        set_clip_seeds(model, [3, 4])
        model(torch.ones(2, 8)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
