"""What a run takes on some number of GPUs: arithmetic on a workload and on assumptions, nothing else.

A kernel takes the longer of its arithmetic and its memory traffic (the roofline of Williams et al., CACM
52(4), 2009).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from kineray.planning.assumptions import Assumptions, value_of
from kineray.planning.collectives import all_reduce_s, hosts, local_gpus, ring_s, tree_s
from kineray.planning.workload import Graph, Op, StepKind, Workload

_DAY_S = 86_400.0
_WORTH = 1.5  # twice as many GPUs that are less faster than this are not worth it
_CONTEXT = 1e9  # bytes that CUDA and cuDNN keep for themselves
_SNAPSHOT_SHARE = 0.01
_SUMS = 3 * 8  # bytes of the loss and the two counts that a step sums over the workers


@dataclass(frozen=True)
class Prediction:
    """A run on ``gpus`` GPUs of ``hosts`` hosts.

    ``clips_per_gpu``: of a step, of the worker that has most; ``micro_batch``: of them at a time. Means over
    the steps, in seconds: ``step_s``; ``compute_s`` without waiting; ``input_s`` that decoding alone takes;
    ``ring_s`` and ``tree_s`` of all gradients at once; ``exposed_s`` of communication that the backward pass
    does not hide. ``bound``: ``compute``, ``input`` or ``communication``; ``compute_limit``: what most of the
    time in kernels goes by, ``arithmetic``, ``memory`` or ``launches`` ("" if it was measured).
    ``share_of_peak``: FLOP/s that the network needs, of those that the GPUs have (None if measured).
    ``cores_per_gpu``: cores that decode in time. ``memory``: bytes on a GPU; ``largest_micro_batch``: clips
    that fit, at most those of a step, and 0 if not even a batch-norm group fits. ``hours``: from the command
    to the end, with validation, checkpoints and failures; ``gpu_hours``; ``cost``. They are None if failures
    never let it end, and the cost also without a price.
    ``checkpoint_bytes``: written in all. ``goodput``: share of the time in which steps advance the run;
    ``lost``: the other shares, by cause.
    """

    gpus: int
    hosts: int
    clips_per_gpu: int
    micro_batch: int
    step_s: float
    compute_s: float
    input_s: float
    ring_s: float
    tree_s: float
    exposed_s: float
    bound: str
    compute_limit: str
    share_of_peak: float | None
    clips_per_s: float
    cores_per_gpu: float
    memory: float
    largest_micro_batch: int
    hours: float | None
    gpu_hours: float | None
    cost: float | None
    checkpoint_bytes: float
    goodput: float
    lost: dict[str, float]


@dataclass(frozen=True)
class Knee:
    """The number of GPUs above which twice as many are less than 1.5 times as fast, and ``why``."""

    gpus: int
    why: str


@dataclass(frozen=True)
class _Times:
    """Of a step, or means over steps, in seconds: see ``Prediction``."""

    step_s: float
    compute_s: float
    input_s: float
    exposed_s: float

    @property
    def useful_s(self) -> float:
        return self.compute_s + self.exposed_s


def predict(
    work: Workload, gpus: int, given: Assumptions, *, micro_batch: int, decoders: int | None = None
) -> Prediction:
    """The prediction for ``gpus`` GPUs.

    ``given``: without None (``Assumptions.filled``), but for the price. ``micro_batch``: clips at a time,
    rounded down to whole batch-norm groups. ``decoders``: of each worker; by default its cores. Raises
    ValueError if a step has fewer batch-norm groups than ``gpus``.
    """
    if not 1 <= gpus <= work.groups:
        raise ValueError(f"{gpus} GPUs for {work.groups} batch-norm groups")
    cores = min(decoders or math.inf, _cores(gpus, work, given))
    times = _mean(work, [_times(kind, work, gpus, given, micro_batch, cores) for kind in work.kinds])
    usual = max(work.kinds, key=lambda kind: kind.steps)
    flops = (
        sum(kind.steps * kind.global_batch * kind.graph.flops_per_clip for kind in work.kinds) / work.steps
    )
    decoded = sum(kind.steps * kind.share(gpus) * kind.decode for kind in work.kinds) / work.steps
    total_s, lost = _whole(work, gpus, given, times, cores)
    hours = None if total_s is None else total_s / 3600
    return Prediction(
        gpus=gpus,
        hosts=hosts(gpus, given),
        clips_per_gpu=usual.share(gpus),
        micro_batch=min(_whole_groups(micro_batch, usual), usual.share(gpus)),
        step_s=times.step_s,
        compute_s=times.compute_s,
        input_s=times.input_s,
        ring_s=ring_s(usual.graph.gradients, gpus, given),
        tree_s=tree_s(usual.graph.gradients, gpus, given),
        exposed_s=times.exposed_s,
        bound=_bound(times),
        compute_limit="" if work.measured else _limit(usual.graph, given),
        share_of_peak=None if work.measured else flops / times.step_s / gpus / value_of(given.peak_flops),
        clips_per_s=work.clips / work.steps / times.step_s,
        cores_per_gpu=decoded / value_of(given.decode_clips_per_core) / times.useful_s,
        memory=_memory(work, _whole_groups(micro_batch, work.largest), gpus),
        largest_micro_batch=_largest_micro_batch(work, gpus, given),
        hours=hours,
        gpu_hours=None if hours is None else hours * gpus,
        cost=None if hours is None or given.price is None else hours * gpus * given.price,
        checkpoint_bytes=work.checkpoint * (work.checkpoints + (hours or 0) * 3600 / work.checkpoint_every_s),
        goodput=max(1 - sum(lost.values()), 0.0),
        lost=lost,
    )


def knee(work: Workload, given: Assumptions, *, micro_batch: int, decoders: int | None = None) -> Knee:
    """Where adding GPUs stops helping, in powers of two."""
    gpus = 1
    now = predict(work, gpus, given, micro_batch=micro_batch, decoders=decoders)
    while 2 * gpus <= work.groups:
        more = predict(work, 2 * gpus, given, micro_batch=micro_batch, decoders=decoders)
        if more.clips_per_s < _WORTH * now.clips_per_s:
            return Knee(gpus, f"{more.bound} limits {more.gpus}")
        gpus, now = 2 * gpus, more
    return Knee(gpus, f"a step has only {work.groups} batch-norm groups")


# -- a step -------------------------------------------------------------------------------------------


def compute_s(ops: Sequence[Op], given: Assumptions) -> float:
    """Seconds of kernels: on the device, or to start them if that takes longer."""
    return max(sum(_op_s(op, given) for op in ops), len(ops) * value_of(given.launch_s))


def exposed_s(graph: Graph, gpus: int, given: Assumptions, backward_s: float) -> float:
    """Seconds from the end of a backward pass of ``backward_s`` to that of the last all-reduce.

    As ``GradientSynchroniser`` does it: each bucket is reduced when its gradients are ready and the one
    before it is done.
    """
    if gpus == 1:
        return 0.0
    times = list(accumulate((_op_s(op, given) for op in graph.backward), initial=0.0))
    scale = backward_s / times[-1] if times[-1] else 0.0
    end = 0.0
    for bucket in graph.buckets:
        end = max(end, times[bucket.ready] * scale) + all_reduce_s(bucket.bytes, gpus, given)
    return max(end - backward_s, 0.0)


def _times(
    kind: StepKind, work: Workload, gpus: int, given: Assumptions, micro_batch: int, cores: float
) -> _Times:
    clips, groups = kind.share(gpus), kind.share(gpus) // kind.bn_group
    backward = compute_s(kind.graph.backward, given)
    group_s = compute_s(kind.graph.forward, given) + backward
    traffic = 2 * work.state + kind.graph.gradients
    update_s = traffic / (value_of(given.memory_bandwidth) * value_of(given.efficiency))
    update_s += clips * kind.clip_bytes / value_of(given.copy_bandwidth)
    if work.measured is not None:
        workers = _measured_workers(gpus, work, given)
        measured_s = work.measured.clip_s[workers] * kind.bn_group
        backward, group_s, update_s = (
            backward / group_s * measured_s,
            measured_s,
            work.measured.update_s[workers],
        )
    last = min(_whole_groups(micro_batch, kind), clips) // kind.bn_group  # whose backward pass hides
    hidden = exposed_s(kind.graph, gpus, given, backward * last)
    hidden += all_reduce_s(work.statistics, gpus, given) + all_reduce_s(_SUMS, gpus, given)
    busy_s = groups * group_s + update_s
    input_s = clips * kind.decode / value_of(given.decode_clips_per_core) / cores
    both_s = busy_s + hidden
    step_s = both_s + input_s if work.shares_cores else max(both_s, input_s)
    return _Times(step_s, busy_s, input_s, hidden)


def _mean(work: Workload, times: Sequence[_Times]) -> _Times:
    def mean(name: str) -> float:
        values = [getattr(each, name) * kind.steps for each, kind in zip(times, work.kinds, strict=True)]
        return float(sum(values)) / work.steps

    return _Times(mean("step_s"), mean("compute_s"), mean("input_s"), mean("exposed_s"))


def _cores(gpus: int, work: Workload, given: Assumptions) -> float:
    """Cores that decode for a worker; those without a GPU share all of their host."""
    if work.shares_cores:
        return value_of(given.gpus_per_host) * value_of(given.cores_per_gpu) / local_gpus(gpus, given)
    return value_of(given.cores_per_gpu)


def _measured_workers(gpus: int, work: Workload, given: Assumptions) -> int:
    """The number of workers on a host that was measured and is nearest to that of ``gpus`` GPUs."""
    assert work.measured is not None
    local = local_gpus(gpus, given)
    return min(work.measured.clip_s, key=lambda workers: abs(workers - local))


def _bound(times: _Times) -> str:
    if times.input_s > times.useful_s:
        return "input"
    return "communication" if times.exposed_s > times.compute_s else "compute"


def _limit(graph: Graph, given: Assumptions) -> str:
    ops = (*graph.forward, *graph.backward)
    arithmetic = sum(_op_s(op, given) for op in ops if _arithmetic_s(op, given) >= _memory_s(op, given))
    memory = sum(_op_s(op, given) for op in ops) - arithmetic
    if len(ops) * value_of(given.launch_s) > arithmetic + memory:
        return "launches"
    return "arithmetic" if arithmetic >= memory else "memory"


def _op_s(op: Op, given: Assumptions) -> float:
    return max(_arithmetic_s(op, given), _memory_s(op, given)) / value_of(given.efficiency)


def _arithmetic_s(op: Op, given: Assumptions) -> float:
    return op.executed / value_of(given.peak_flops)


def _memory_s(op: Op, given: Assumptions) -> float:
    return op.bytes / value_of(given.memory_bandwidth)


# -- memory -------------------------------------------------------------------------------------------


def _whole_groups(micro_batch: int, kind: StepKind) -> int:
    return max(micro_batch // kind.bn_group, 1) * kind.bn_group


def _memory(work: Workload, micro_batch: int, gpus: int) -> float:
    """Bytes on a device; several workers hold the buckets that they reduce beside the gradients."""
    kind = work.largest
    groups = micro_batch // kind.bn_group
    peak = kind.graph.peak if groups == 1 else work.two_groups * groups / 2
    buckets = kind.graph.gradients if gpus > 1 else 0
    return work.state + peak + buckets + (0.0 if work.measured else _CONTEXT)


def _largest_micro_batch(work: Workload, gpus: int, given: Assumptions) -> int:
    """The largest multiple of the batch-norm group that fits and that a worker has clips for."""
    kind = work.largest
    workers = local_gpus(gpus, given) if work.shares_cores else 1
    room = value_of(given.memory) / workers
    sizes = range(kind.bn_group, kind.share(gpus) + 1, kind.bn_group)
    return max((size for size in sizes if _memory(work, size, gpus) <= room), default=0)


# -- the whole run ------------------------------------------------------------------------------------


def _whole(
    work: Workload, gpus: int, given: Assumptions, times: _Times, cores: float
) -> tuple[float | None, dict[str, float]]:
    """Seconds of the run, None if it never ends, and the shares of its time that are lost, by cause."""
    useful_s = work.steps * times.useful_s
    seconds = {
        "start-up": value_of(given.start_s),
        "data wait": work.steps * (times.step_s - times.useful_s),
        "validation": work.validations * _validation_s(work, gpus, given, cores),
    }
    copy_s = work.checkpoint / value_of(
        given.snapshot_bandwidth
    )  # training waits for no more of a checkpoint
    going_s = useful_s + sum(seconds.values())
    written = work.checkpoints + going_s / work.checkpoint_every_s
    snapshot_s = _snapshot_interval_s(work, times, copy_s)
    between_s = max(going_s / max(written, 1), copy_s)
    seconds["checkpoints"] = written * max(
        copy_s, work.checkpoint / value_of(given.write_bandwidth) - between_s
    )
    seconds["snapshots"] = work.steps * times.step_s / snapshot_s * copy_s
    undisturbed_s = useful_s + sum(seconds.values())
    # A failure falls, on average, in the middle between two of what is kept.
    per_failure = {"lost steps": min(between_s, snapshot_s) / 2, "restart": value_of(given.restart_s)}
    rate = value_of(given.failures_per_gpu_day) * gpus / _DAY_S
    left = 1 - rate * sum(per_failure.values())
    if left <= 0:  # it fails more often than it advances
        return None, {"failures": 1.0}
    total_s = undisturbed_s / left
    seconds |= {cause: rate * total_s * each_s for cause, each_s in per_failure.items()}
    return total_s, {cause: value / total_s for cause, value in seconds.items()}


def _snapshot_interval_s(work: Workload, times: _Times, copy_s: float) -> float:
    """Seconds from a snapshot to the next; by default they take 1 % of the time."""
    if work.snapshot_every is None:
        return max(copy_s / _SNAPSHOT_SHARE, times.step_s)
    return work.snapshot_every * times.step_s if work.snapshot_every else math.inf


def _validation_s(work: Workload, gpus: int, given: Assumptions, cores: float) -> float:
    clips = math.ceil(work.val_clips / gpus)
    forward_s = compute_s(work.validation.forward, given) / work.validation.clips
    if work.measured is not None:  # a forward pass is a third of both
        forward_s = work.measured.clip_s[_measured_workers(gpus, work, given)] / 3
    decode_s = 1 / value_of(given.decode_clips_per_core) / cores
    return clips * (forward_s + decode_s if work.shares_cores else max(forward_s, decode_s))
