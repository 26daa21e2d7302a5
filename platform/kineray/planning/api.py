"""``kineray.plan``: what a run takes on some numbers of GPUs, before it is started."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kineray import storage
from kineray.config import Experiment, apply_overrides
from kineray.data import ClipShape, Manifest, Preprocessing, load_manifest
from kineray.data.clips.decoding import usable_cores
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import ConfigError
from kineray.options import WorkerOptions
from kineray.planning.assumptions import (
    CLASSES,
    HERE,
    SAMPLES,
    Assumptions,
    Device,
    find_device,
    this_machine,
)
from kineray.planning.prediction import Knee, Prediction, knee, predict
from kineray.planning.workload import Workload
from kineray.training.inputs import about_manifest, check_data
from kineray.training.plan import StepPlan, check_micro_batch, plan_of
from kineray.training.shape import RunShape

_SHARE_OF_VAL = 12  # Kinetics-400 has a twelfth as many videos for validation as for training


@dataclass(frozen=True)
class PlannedRun:
    """What a run takes. ``predictions``: by number of GPUs, in the order asked for.

    ``shape``: its batches, steps and learning rates. Of the network: ``parameters``, ``flops`` (of forward
    and backward pass for a clip), ``gradients`` (bytes that a step reduces) in ``buckets``. ``clip_bytes``:
    of a clip when it is decoded. ``checkpoint``: bytes of one, of which ``checkpoints`` are written.
    ``decoded``: clips on which ``decode_clips_per_core`` was measured, 0 if it was not. ``assumptions``: all
    of them, and ``origins``: where each that counts is from, ``given``, ``measured``, the device's name, or
    ``usual``. ``knee``: None on a CPU.
    """

    experiment: str
    device: str
    shape: RunShape
    parameters: int
    flops: float
    gradients: int
    buckets: int
    clip_bytes: int
    checkpoint: int
    checkpoints: int
    decoded: int
    assumptions: Assumptions
    origins: dict[str, str]
    predictions: tuple[Prediction, ...]
    knee: Knee | None


def plan(
    experiment: Experiment,
    *,
    gpus: Sequence[int] = (8, 64, 128),
    device: str = "h100",
    options: WorkerOptions = WorkerOptions(),
    assumptions: Assumptions = Assumptions(),
    seconds: float = 10.0,
) -> PlannedRun:
    """Predict how long ``experiment`` takes on each number of ``gpus``, what limits it, and what it costs.

    Measured here: how fast a core decodes clips of ``data.manifest`` (for ``seconds``), and the network's
    kernels, memory, gradients and state, without computing anything. Everything else is in ``assumptions``,
    by default the published figures of ``device``. ``here`` measures training on this machine's GPU, or its
    CPU if it has none, and ``cpu`` on its CPU; ``gpus`` are then workers. ``options``: as for ``train``.
    Without a manifest ``assumptions`` say how many samples and classes there are.

    Raises ConfigError for an unknown device and for more GPUs than a step has batch-norm groups, and what
    ``train`` raises for an experiment or manifest that cannot be trained.
    """
    from kineray.planning.profiling import measure_decoding, workload_of

    hardware = None if device in HERE else find_device(device)
    subject = _Subject.of(experiment, assumptions)
    for count in gpus:
        _check_count(count, subject.plan)
    if hardware is None and subject.clip_set is None:
        raise ConfigError(
            f"device={device} trains on clips of the manifest, and there is none",
            code="not_set",
            key="data.manifest",
            remedy="pass data.manifest=PATH, or another `device`",
        )
    micro_batch = check_micro_batch(options.micro_batch, experiment.train.bn_group)
    task = subject.experiment.task.build(subject.labels)
    work, parameters = workload_of(
        subject.experiment, subject.plan, task, val_clips=subject.val_clips, options=options
    )
    measured: dict[str, Any] = {}
    decoded = 0
    if subject.clip_set is not None and subject.preprocessing and assumptions.decode_clips_per_core is None:
        decoding = measure_decoding(
            subject.clip_set, subject.experiment, subject.preprocessing, seconds=seconds
        )
        measured["decode_clips_per_core"], decoded = decoding.clips_per_s, decoding.clips
    if hardware is None:
        hardware, work = _measure_here(subject, work, device, gpus, micro_batch, options, seconds)
    given = dataclasses.replace(assumptions, **measured).filled(hardware, experiment.train.precision)
    predictions = [
        predict(work, count, given, micro_batch=micro_batch, decoders=options.decoders) for count in gpus
    ]
    usual = max(work.kinds, key=lambda kind: kind.steps)
    return PlannedRun(
        experiment=experiment.name,
        device=device,
        shape=RunShape.of(
            subject.plan,
            subject.samples * experiment.data.clips_per_sample,
            micro_batch,
            usual=ClipShape.of(experiment.data),
        ),
        parameters=parameters,
        flops=usual.graph.flops_per_clip,
        gradients=usual.graph.gradients,
        buckets=len(usual.graph.buckets),
        clip_bytes=usual.clip_bytes,
        checkpoint=work.checkpoint,
        checkpoints=work.checkpoints,
        decoded=decoded,
        assumptions=given,
        origins=_origins(assumptions, measured, device, has_manifest=subject.clip_set is not None),
        predictions=tuple(predictions),
        knee=None
        if work.shares_cores
        else knee(work, given, micro_batch=micro_batch, decoders=options.decoders),
    )


@dataclass(frozen=True)
class _Subject:
    """An experiment and the data that there is of it. ``clip_set``: None without a manifest."""

    experiment: Experiment
    labels: dict[str, tuple[str, ...]]
    val_clips: int
    samples: int
    clip_set: Manifest | None = None
    preprocessing: Preprocessing | None = None

    @classmethod
    def of(cls, experiment: Experiment, assumptions: Assumptions) -> "_Subject":
        """Raises what ``train`` does."""
        if not experiment.data.manifest:
            return cls._without_manifest(experiment, assumptions)
        uri = storage.absolute(experiment.data.manifest)
        experiment = apply_overrides(experiment, {"data.manifest": uri})
        with about_manifest(experiment):
            manifest = load_manifest(uri)
        preprocessing = check_data(experiment, manifest).preprocessing
        indexes = IndexCache.beside(uri)
        clip_set = samples_of_epoch(manifest.split("train"), experiment.data, indexes)
        labels = {head: tuple(names) for head, names in preprocessing.labels.items()}
        val_clips = len(manifest.split("val"))
        return cls(experiment, labels, val_clips, len(clip_set), clip_set, preprocessing)

    @classmethod
    def _without_manifest(cls, experiment: Experiment, assumptions: Assumptions) -> "_Subject":
        experiment.model.check_channels(experiment.data.channels)
        samples, classes = assumptions.samples or SAMPLES, assumptions.classes or CLASSES
        names = tuple(str(index) for index in range(classes))
        labels = dict.fromkeys(experiment.data.heads or ("action",), names)
        return cls(experiment, labels, samples // _SHARE_OF_VAL, samples)

    @cached_property
    def plan(self) -> StepPlan:
        """Every step of the run."""
        return plan_of(self.experiment, self.samples)


def _check_count(count: int, plan: StepPlan) -> None:
    """Raise ConfigError unless every step has a batch-norm group for each of ``count`` GPUs."""
    try:
        plan.at(0).share(0, max(count, 1))
    except ConfigError as error:
        raise ConfigError(
            error.problem,
            code=error.code,
            key="gpus",
            value=count,
            remedy=error.remedy.replace("workers", "gpus"),
        ) from None
    if count < 1:
        raise ConfigError(
            "not a number of GPUs",
            code="out_of_range",
            key="gpus",
            value=count,
            remedy="give 1 or more `gpus`",
        )


def _measure_here(
    subject: _Subject,
    work: Workload,
    device: str,
    gpus: Sequence[int],
    micro_batch: int,
    options: WorkerOptions,
    seconds: float,
) -> tuple[Device, Workload]:
    """This machine as a device, and the workload with what training takes on it."""
    import torch

    from kineray.planning.training_speed import measured_here

    has_gpu = device == "here" and torch.cuda.is_available()
    cores = usable_cores()
    gpu = torch.cuda.get_device_name() if has_gpu else ""
    memory = torch.cuda.get_device_properties(0).total_memory if has_gpu else _memory_of_host()
    measured = measured_here(
        subject.experiment,
        "cuda" if has_gpu else "cpu",
        gpus,
        cores,
        micro_batch=micro_batch,
        activation_checkpointing=options.activation_checkpointing,
        seconds=seconds,
    )
    return this_machine(gpu, memory, cores), dataclasses.replace(work, measured=measured)


def _memory_of_host() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _origins(
    asked: Assumptions, measured: dict[str, Any], device: str, *, has_manifest: bool
) -> dict[str, str]:
    """Of those that count: a device that is measured needs no peaks, and a manifest has its own samples."""
    of_device = {each.name for each in dataclasses.fields(Device)} | {"peak_flops"}
    unused = {"samples", "classes"} if has_manifest else set()
    if device in HERE:
        unused |= {"efficiency", "peak_flops", "memory_bandwidth", "launch_s", "copy_bandwidth"}

    def origin(name: str) -> str:
        if getattr(asked, name) is not None:
            return "given"
        if name in measured:
            return "measured"
        return device if name in of_device else "usual"

    names = [each.name for each in dataclasses.fields(Assumptions)]
    return {name: origin(name) for name in names if name not in unused}
