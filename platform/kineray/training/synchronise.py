"""Talking to the other workers: summed gradients, and the few values that a step needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")

BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True)
class Workers:
    """The group of processes that train together; alone, every operation is a no-op.

    With ``size`` > 1 torch.distributed must be initialised. Every worker must call the same operations
    in the same order.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.size > 1 and not (dist.is_initialized() and dist.get_world_size() == self.size):
            raise ValueError(f"{self.size} workers need a torch.distributed group of that size")

    def sum_(self, tensor: Tensor) -> None:
        """Sum ``tensor`` in place over the workers."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def gather(self, value: Value) -> list[Value]:
        """The ``value`` of every worker, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Value] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast_(self, model: nn.Module) -> None:
        """Give every worker the parameters and buffers of rank 0."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)


class GradientSynchroniser:
    """Sums gradients over the workers while the backward pass still runs.

    Gradients are put into buckets of a fixed size, in the reverse order of the parameters. Once
    ``arm`` is called, each bucket is reduced as soon as its gradients and all earlier buckets are
    ready. Content and order of the buckets never change (DistributedDataParallel re-orders them after
    its first iteration), so the sums are the same, bit for bit, in every run and after every resume
    with the same number of workers.
    """

    def __init__(
        self, parameters: Sequence[Tensor], workers: Workers, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._active = workers.size > 1
        self._armed = False
        self._next = 0
        self._missing: list[int] = []
        self._works: list[tuple[dist.Work, Tensor]] = []
        self._buckets = _fixed_buckets(parameters, bucket_bytes) if self._active else []
        for index, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._ready, index))  # type: ignore[no-untyped-call]

    def arm(self) -> None:
        """The next backward pass is the last one of this step: start to reduce."""
        self._armed = self._active
        self._next = 0
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Wait until every ``grad`` holds the sum over the workers."""
        if not self._armed:
            return
        self._armed = False
        while self._next < len(self._buckets):  # parameters that the backward pass did not reach
            self._launch()
        for bucket, (work, flat) in zip(self._buckets, self._works, strict=True):
            work.wait()
            pieces = torch.split(flat, [parameter.numel() for parameter in bucket])
            for parameter, piece in zip(bucket, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
        self._works.clear()

    def _ready(self, index: int, _: Tensor) -> None:
        if not self._armed:
            return
        self._missing[index] -= 1
        while self._next < len(self._buckets) and self._missing[self._next] == 0:
            self._launch()

    def _launch(self) -> None:
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self._buckets[self._next]
        ]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None  # None only outside the group
        self._works.append((work, flat))
        self._next += 1


def _fixed_buckets(parameters: Sequence[Tensor], bucket_bytes: int) -> list[list[Tensor]]:
    """Trainable parameters, last first: about the order in which their gradients become ready."""
    buckets: list[list[Tensor]] = []
    room = 0
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        size = parameter.numel() * parameter.element_size()
        if not buckets or size > room or parameter.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(parameter)
        room -= size
    return buckets
