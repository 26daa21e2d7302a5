"""Communication between workers: summed gradients, and the few values that a step needs."""

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

    def share(self, data_n: Tensor | None, source: int) -> Tensor:
        """Bytes that the worker ``source`` has, [N] uint8 on the CPU; the others give None."""
        size = self.gather(0 if data_n is None else len(data_n))[source]
        if self.size > 1:
            device = "cuda" if dist.get_backend() == "nccl" else "cpu"
            data_n = (torch.empty(size, dtype=torch.uint8) if data_n is None else data_n).to(device)
            dist.broadcast(data_n, src=source)
        assert data_n is not None
        return data_n.cpu()

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

    A parameter that the backward pass of no worker has reached ends without a gradient on all of them, as
    it would with a single worker, so that no optimizer decays it or moves it by its momentum.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], workers: Workers, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._active = workers.size > 1
        self._armed = False
        self._next = 0
        self._missing: list[int] = []
        self._works: list[tuple[dist.Work, Tensor]] = []
        self._all_buckets = fixed_buckets(parameters, bucket_bytes) if self._active else []
        self._buckets: list[list[nn.Parameter]] = []  # of the parameters that this step trains
        for index, bucket in enumerate(self._all_buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._ready, index))  # type: ignore[no-untyped-call]

    def arm(self) -> None:
        """Start to reduce: the next backward pass is the last one of this step.

        Parameters that do not require a gradient now, the same on every worker, are left out.
        """
        self._armed = self._active
        self._next = 0
        self._buckets = [[p for p in bucket if p.requires_grad] for bucket in self._all_buckets]
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Wait until every ``grad`` holds the sum over the workers."""
        if not self._armed:
            return
        self._armed = False
        while self._next < len(self._buckets):  # parameters that the backward pass did not reach
            self._launch()
        for work, _ in self._works:
            work.wait()
        parameters, gradients, reached = [], [], []
        for bucket, (_, flat) in zip(filter(None, self._buckets), self._works, strict=True):
            sizes = [parameter.numel() for parameter in bucket]
            *pieces, flags = torch.split(flat, [*sizes, len(bucket)])
            parameters += bucket
            gradients += pieces
            reached.append(flags.float())
        self._works.clear()
        by_anyone = torch.cat(reached).tolist() if reached else []
        for parameter, gradient, workers in zip(parameters, gradients, by_anyone, strict=True):
            parameter.grad = gradient.view_as(parameter) if workers else None

    def _ready(self, index: int, _: Tensor) -> None:
        if not self._armed:
            return
        self._missing[index] -= 1
        while self._next < len(self._buckets) and self._missing[self._next] == 0:
            self._launch()

    def _launch(self) -> None:
        """Reduce the next bucket: its gradients, and for each whether it was reached here (1 or 0)."""
        bucket = self._buckets[self._next]
        self._next += 1
        if not bucket:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        reached = bucket[0].new_ones(len(bucket))  # filled on the device: a copy would wait for it
        for index, parameter in enumerate(bucket):
            if parameter.grad is None:
                reached[index] = 0
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), reached])
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None  # None only outside the group
        self._works.append((work, flat))


def fixed_buckets(
    parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES
) -> list[list[nn.Parameter]]:
    """The trainable parameters that are reduced together.

    Last first: about the order in which their gradients become ready.
    """
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        size = parameter.numel() * parameter.element_size()
        if not buckets or size > room or parameter.dtype != buckets[-1][-1].dtype:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(parameter)
        room -= size
    return buckets
