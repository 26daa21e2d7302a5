"""GhostBatchNorm against nn.BatchNorm3d."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kineray.models import GhostBatchNorm, commit_batch_norm, discard_batch_norm, set_batch_norm_group

CHANNELS = 5


def layers(group):
    torch.manual_seed(0)
    plain = nn.BatchNorm3d(CHANNELS)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    nn.init.normal_(plain.running_mean)
    ours = GhostBatchNorm(CHANNELS)
    ours.load_state_dict(plain.state_dict())
    set_batch_norm_group(ours, group)
    return plain, ours


def clips(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, count + 1).view(-1, 1, 1, 1, 1)
    return torch.randn(count, CHANNELS, 2, 3, 4, generator=generator) * scale + scale


@pytest.mark.parametrize("group", [None, 4])
def test_one_group_is_batch_norm(group):
    plain, ours = layers(group)
    assert list(ours.state_dict()) == list(plain.state_dict())
    for step in range(3):
        x = clips(4, step).requires_grad_()
        y = x.detach().clone().requires_grad_()
        expected, got = plain(x), ours(y)
        if group is not None:
            commit_batch_norm(ours)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        expected.square().sum().backward()
        got.square().sum().backward()
        torch.testing.assert_close(y.grad, x.grad, rtol=0, atol=0)
    for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    torch.testing.assert_close(ours.eval()(clips(3)), plain.eval()(clips(3)))


def test_several_groups_are_separate_batch_norms():
    plain, ours = layers(2)
    x = clips(6)
    separate = [copy.deepcopy(plain) for _ in range(3)]
    expected = torch.cat([layer(part) for layer, part in zip(separate, x.split(2), strict=True)])
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=0)
    commit_batch_norm(ours)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(layer, name) for layer in separate]).mean(0)
        torch.testing.assert_close(getattr(ours, name), mean)
    assert ours.num_batches_tracked == 1
    with pytest.raises(ValueError, match="5 clips are not a multiple of the batch-norm group 2"):
        ours(clips(5))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 3))
def test_running_statistics_do_not_depend_on_micro_batches_or_workers(cuts, group):
    """The same groups in one forward pass, in several, and on several workers with unequal shares."""
    x = clips(sum(cuts) * group)
    _, whole = layers(group)
    _, parts = layers(group)
    workers = [layers(group)[1] for _ in cuts]
    whole(x)
    commit_batch_norm(whole)
    for part, worker in zip(x.split([n * group for n in cuts]), workers, strict=True):
        parts(part)
        worker(part)
    commit_batch_norm(parts)

    local = []
    for worker in workers:
        commit_batch_norm(copy.deepcopy(worker), lambda total: local.append(total.clone()))
    commit_batch_norm(workers[0], lambda total: total.copy_(torch.stack(local).sum(0)))

    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
        torch.testing.assert_close(getattr(whole, name), getattr(workers[0], name))


def test_nothing_moves_before_the_commit_or_after_a_discard():
    _, ours = layers(2)
    before = copy.deepcopy(ours.state_dict())
    ours(clips(4))
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in before.items())
    discard_batch_norm(ours)
    ours(clips(2))
    commit_batch_norm(ours)
    _, alone = layers(2)
    alone(clips(2))
    commit_batch_norm(alone)
    assert torch.equal(ours.running_mean, alone.running_mean)
