"""What a run computes, moves and keeps, as values: measured by ``profiling``, read by ``prediction``."""

import math
from dataclasses import dataclass
from typing import NamedTuple


class Op(NamedTuple):
    """A kernel: the FLOPs that it needs, those that it executes, and the bytes that it reads and writes.

    A multiply-add is two FLOPs. Convolutions execute more than they need where their channels do not fill
    a tile.
    """

    flops: float
    executed: float
    bytes: float


class Bucket(NamedTuple):
    """Gradients that are reduced together: their ``bytes``, and after which kernel of the backward pass,
    counted from 1, the last of them is ready."""

    bytes: int
    ready: int


@dataclass(frozen=True)
class Graph:
    """Forward and backward pass of a micro-batch of ``clips`` clips.

    ``buckets``: in the order in which they are reduced. ``peak``: most bytes that it holds at a time, besides
    parameters and buffers, gradients included.
    """

    clips: int
    forward: tuple[Op, ...]
    backward: tuple[Op, ...]
    buckets: tuple[Bucket, ...]
    peak: int

    @property
    def gradients(self) -> int:
        """Bytes that are reduced."""
        return sum(bucket.bytes for bucket in self.buckets)

    @property
    def flops_per_clip(self) -> float:
        """FLOPs of forward and backward pass that a clip needs."""
        return sum(op.flops for op in (*self.forward, *self.backward)) / self.clips


@dataclass(frozen=True)
class StepKind:
    """Steps that are alike. ``steps``: how many; ``graph``: of one batch-norm group.

    ``clip_bytes``: of a clip as the decoder hands it over. ``decode``: seconds that a core takes to decode a
    clip, in multiples of those of a clip of ``data``.
    """

    steps: float
    global_batch: int
    bn_group: int
    graph: Graph
    clip_bytes: int
    decode: float = 1.0

    @property
    def groups(self) -> int:
        """Batch-norm groups of a step."""
        return self.global_batch // self.bn_group

    def share(self, gpus: int) -> int:
        """Clips of the worker that has most, by the rule of ``Step.share``."""
        return -(-self.groups // gpus) * self.bn_group


@dataclass(frozen=True)
class Measured:
    """What a machine takes, by the number of workers that share it: seconds of a clip, and of an update.

    ``on_cpu``: whether the cores that decode also compute.
    """

    clip_s: dict[int, float]
    update_s: dict[int, float]
    on_cpu: bool


@dataclass(frozen=True)
class Workload:
    """A whole run.

    ``two_groups``: peak of a micro-batch of two batch-norm groups of ``largest``, the kind whose graph holds
    most. ``state``: bytes of parameters, buffers, the optimizer's and the recipe's state. ``statistics``:
    bytes that a step reduces over the workers after the backward pass. ``checkpoint``: bytes of one;
    ``checkpoints``: how many are written, besides those every ``checkpoint_every_s`` seconds.
    ``snapshot_every``: steps from one to the next, as in ``WorkerOptions``. ``validations``: of ``val_clips``
    clips each, ``validation`` the forward pass. ``measured``: None for a device that is looked up.
    """

    kinds: tuple[StepKind, ...]
    two_groups: int
    state: int
    statistics: int
    checkpoint: int
    checkpoints: int
    validations: int
    val_clips: int
    validation: Graph
    measured: Measured | None = None
    checkpoint_every_s: float = math.inf
    snapshot_every: int | None = None

    @property
    def steps(self) -> float:
        """Number of steps."""
        return sum(kind.steps for kind in self.kinds)

    @property
    def clips(self) -> float:
        """Clips of all steps."""
        return sum(kind.steps * kind.global_batch for kind in self.kinds)

    @property
    def groups(self) -> int:
        """The most workers that every step has a batch-norm group for."""
        return min(kind.groups for kind in self.kinds)

    @property
    def shares_cores(self) -> bool:
        """Whether the cores that decode also compute."""
        return self.measured is not None and self.measured.on_cpu

    @property
    def largest(self) -> StepKind:
        """The kind of step whose micro-batches hold most."""
        return max(self.kinds, key=lambda kind: kind.graph.peak)
