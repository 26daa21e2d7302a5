"""What can be measured before a run: its graph, and how fast a core decodes its clips."""

import math
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import cast

from kineray.config import Experiment
from kineray.data import Batch, BatchSpec, ClipShape, Manifest, Preprocessing, load_batches
from kineray.data.clips.preprocessing import balance_of
from kineray.data.manifest.index_cache import IndexCache
from kineray.durations import seconds_of
from kineray.options import WorkerOptions
from kineray.planning.graph import FakeModel
from kineray.planning.workload import Graph, StepKind, Workload
from kineray.tasks import Task
from kineray.training.plan import Step, StepPlan

_MOST_STEPS = 20_000  # of a longer plan, steps at equal distances are looked at
_FIRST = 2  # clips that a decoder starts up with, and that do not count


@dataclass(frozen=True)
class Decoding:
    """How fast one core decodes: ``clips_per_s``, over ``clips`` clips."""

    clips_per_s: float
    clips: int


def measure_decoding(
    clip_set: Manifest, experiment: Experiment, preprocessing: Preprocessing, *, seconds: float
) -> Decoding:
    """Decode training clips of the first epoch for about ``seconds`` with one process, as training does.

    Raises ManifestError if none can be decoded.
    """
    data = experiment.data
    batches = load_batches(
        clip_set,
        preprocessing,
        _specs(len(clip_set), experiment),
        seed=experiment.seed,
        decoders=1,
        clips_per_sample=data.clips_per_sample,
        drawn_views=data.drawn_views,
        balance=balance_of(data, list(preprocessing.labels)),
        targets=lambda _: {},
        indexes=IndexCache.beside(data.manifest),
    )
    with closing(cast("Generator[Batch]", batches)):
        for _ in range(_FIRST):
            next(batches)
        began, clips = time.perf_counter(), 0
        while not clips or time.perf_counter() - began < seconds:
            clips += len(next(batches).ids)
    return Decoding(clips / (time.perf_counter() - began), clips)


def _specs(samples: int, experiment: Experiment) -> Iterator[BatchSpec]:
    """One batch for the clips of each sample, without end."""
    size, clip = experiment.data.clips_per_sample, ClipShape.of(experiment.data)
    for index in count():
        epoch, place = divmod(index, samples)
        yield BatchSpec(index, epoch, range(place * size, (place + 1) * size), size, clip)


def workload_of(
    experiment: Experiment, plan: StepPlan, task: Task, *, val_clips: int, options: WorkerOptions
) -> tuple[Workload, int]:
    """The workload of a run, and the number of its parameters. Raises ConfigError (``not_measurable``)."""
    model = FakeModel(experiment, task, activation_checkpointing=options.activation_checkpointing)
    found = _graphs(plan, model)
    kinds = [
        StepKind(
            steps=steps,
            global_batch=step.global_batch,
            bn_group=step.bn_group,
            graph=graph,
            clip_bytes=step.clip.frames * step.clip.crop**2 * experiment.data.channels,
            decode=_span(step.clip) / _span(ClipShape.of(experiment.data)),
        )
        for step, steps, graph in found
    ]
    largest, _, _ = max(found, key=lambda each: each[2].peak)
    last = plan.at(plan.total_steps - 1)
    validations = max(round(last.epochs_done / experiment.train.eval_every_epochs), 1)
    every = options.checkpoint_every
    saved = plan.total_steps // every if isinstance(every, int) else 0
    work = Workload(
        kinds=tuple(kinds),
        two_groups=model.training(largest, 2).peak,
        state=model.state_bytes,
        statistics=model.statistics_bytes,
        checkpoint=model.state_bytes,
        checkpoints=validations + saved,
        validations=validations,
        val_clips=val_clips,
        validation=model.validation(experiment.train.bn_group),
        snapshot_every=options.snapshot_every,
        checkpoint_every_s=math.inf if isinstance(every, int) else seconds_of(every),
    )
    return work, model.parameters


def _graphs(plan: StepPlan, model: FakeModel) -> list[tuple[Step, float, Graph]]:
    """A step of each kind, how many there are of it, and the graph of one of its batch-norm groups."""
    total = plan.total_steps
    looked_at = range(0, total, -(-total // _MOST_STEPS))
    steps = [plan.at(index) for index in looked_at]
    examples = {_kind(step): step for step in steps}
    share = total / len(looked_at)
    graphs: dict[tuple[object, ...], Graph] = {}
    found = []
    for kind, number in Counter(map(_kind, steps)).items():
        step = examples[kind]
        graph_of = (step.bn_group, step.clip.frames, step.clip.crop, step.trained)
        if graph_of not in graphs:
            graphs[graph_of] = model.training(step, 1)
        found.append((step, number * share, graphs[graph_of]))
    return found


def _kind(step: Step) -> tuple[object, ...]:
    return step.global_batch, step.bn_group, step.clip, step.trained


def _span(clip: ClipShape) -> int:
    """Frames of the video from the first to the last of a clip: what decoding time goes with."""
    return clip.frames * clip.stride
