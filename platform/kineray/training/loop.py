"""The training loop of one worker."""

import logging
import socket
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import cast

import torch
from torch import nn

from kineray.config import Experiment
from kineray.data import Batch, BatchSpec, ClipShape, Manifest, Preprocessing, load_batches
from kineray.data.clips.preprocessing import balance_of
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import NonFiniteLossError
from kineray.models import checkpoint_activations, frozen_at_random_note
from kineray.options import WorkerOptions
from kineray.tasks import Task
from kineray.training.checkpoint import CheckpointStore
from kineray.training.events import (
    Event,
    InitialisedEvent,
    ReplacedEvent,
    StepEvent,
    TrainResult,
    ValidationEvent,
)
from kineray.training.features.cached import CachedFeatures
from kineray.training.features.checks import check_cacheable, check_pieces
from kineray.training.features.opening import open_features
from kineray.training.initial import initialise
from kineray.training.inputs import preprocessing_of
from kineray.training.optim import build_optimizer
from kineray.training.plan import (
    Step,
    StepPlan,
    check_micro_batch,
    plan_of,
    seen_before_validation,
)
from kineray.training.recipe import Recipe
from kineray.training.resume import Progress, last_state, restore
from kineray.training.saver import CHECKPOINT, SNAPSHOT, Saver
from kineray.training.snapshots import Snapshots
from kineray.training.speed import Speed
from kineray.training.state import TrainingState
from kineray.training.step import Stepper, StepResult
from kineray.training.stragglers import Stragglers
from kineray.training.synchronise import Workers
from kineray.training.validation import validate
from kineray.training.whereabouts import Whereabouts

log = logging.getLogger(__name__)


def train(
    experiment: Experiment,
    train_set: Manifest,
    val_set: Manifest,
    *,
    checkpoints: CheckpointStore,
    on_event: Callable[[Event], None],
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    options: WorkerOptions = WorkerOptions(),
    resume: bool = False,
    changed: Collection[str] = (),
    plan: StepPlan | None = None,
    snapshots: Snapshots | None = None,
    whereabouts: Whereabouts | None = None,
    on_step: Callable[[Step, StepResult], object] = lambda step, result: None,
) -> TrainResult:
    """Train to the end of the plan, or to where a piece of the recipe ends the run.

    Every worker calls this with the same arguments except ``rank``.

    ``plan``: what each step is; by default that of the experiment (``plan_of``). ``options``: how a
    worker does its part (``max_failures`` concerns only what starts workers; by default one decoder).
    ``resume`` continues from the last checkpoint, if there is one, exactly as if the run had never stopped;
    or from a newer one of ``snapshots``, which one worker of each host keeps (the others get None).
    ``changed``: dotted keys in which the experiment of that checkpoint may differ, as far as its tensors fit;
    ``data.manifest`` among them stands for the training set. ``whereabouts``: says where this worker is while
    it trains. Only rank 0 writes checkpoints and calls ``on_event``; every worker calls ``on_step`` after
    each update.

    With ``world_size`` > 1 torch.distributed must be initialised. Raises ConfigError, ManifestError and
    CheckpointError; NonFiniteLossError and ErrorBudgetError are raised on every worker alike.
    """
    indexes = IndexCache.beside(experiment.data.manifest) if experiment.data.manifest else None
    clip_set = samples_of_epoch(train_set, experiment.data, indexes)
    plan = plan or plan_of(experiment, len(clip_set))
    plan.at(0).share(rank, world_size)  # refuse too many workers before anything is created
    micro_batch = check_micro_batch(options.micro_batch, experiment.train.bn_group)
    workers, place = Workers(rank, world_size), _used(device)
    emit = on_event if rank == 0 else _ignore

    recipe = _recipe(experiment, options)
    preprocessing = preprocessing_of(experiment, train_set, val_set)
    task = _task(experiment, preprocessing, clip_set, val_set)
    model = _new_model(experiment, preprocessing, task, options.activation_checkpointing).to(place)
    workers.broadcast_(model)
    optimizer = build_optimizer(model, experiment.optim, recipe.factors(model))

    last = last_state(checkpoints, snapshots, workers, resume)
    progress = (
        restore(*last, experiment, train_set, plan, model, optimizer, recipe, changed)
        if last is not None
        else _start(experiment, model, recipe, workers, emit)
    )

    cached = (
        open_features(
            experiment,
            model,
            preprocessing,
            clip_set,
            val_set,
            task,
            workers=workers,
            device=place,
            options=options,
            indexes=indexes,
            emit=emit,
        )
        if options.cache_features
        else None
    )
    stepper = Stepper(
        experiment,
        model,
        optimizer,
        preprocessing,
        task,
        recipe,
        workers=workers,
        device=place,
        whereabouts=whereabouts,
        entry=cached.entry(model) if cached else None,
    )
    validation = partial(
        validate,
        model,
        val_set,
        preprocessing,
        task,
        workers=workers,
        device=place,
        precision=experiment.train.precision,
        batch_size=micro_batch,
        decoders=options.decoders or 1,
        indexes=indexes,
        cached=cached,
    )

    def state_after(last: Step) -> TrainingState:
        known = progress.to_dict(last, plan, train_set)
        return TrainingState.of(model, optimizer, experiment, known, recipe.states())

    speed, stragglers = Speed(), Stragglers(workers.gather(socket.gethostname()))
    saver = Saver(
        checkpoints,
        snapshots,
        preprocessing,
        recipe.weights,
        options,
        start=progress.steps,
        emit=emit,
        rank=rank,
    )
    steps = range(progress.steps, plan.total_steps)
    batches = _batches(
        experiment,
        clip_set,
        preprocessing,
        task,
        (
            made.batch(rank, world_size, micro_batch, ClipShape.of(experiment.data))
            for made in _with_passes(map(plan.at, steps), experiment, len(clip_set))
        ),
        cached,
        indexes=indexes,
        options=options,
        pin_memory=place.type == "cuda",
    )
    with closing(batches), saver:
        for planned in _planned(experiment, map(plan.at, steps), progress.scores):
            step = replace(planned, lr=planned.lr * experiment.schedule.factor_after(progress.scores))
            done = progress.steps = step.index + 1
            with speed.of(step.global_batch):
                result = stepper.run(step, step.share(rank, world_size), batches, saver.request(planned))
            emit(_step_event(step, plan, result, speed))
            on_step(step, result)
            if result.failures:
                emit(ReplacedEvent(done, result.failures))
                progress.add(result.failures, len(clip_set), experiment.data.error_budget)
            for straggler in stragglers(step.index, result.parts):
                emit(straggler)
            saver.collect()
            if result.request == SNAPSHOT:
                saver.snapshot(state_after(planned))
            elif step.is_validated or result.request == CHECKPOINT:
                _check_finite(model, done)
                validated = None
                if step.is_validated:
                    saver.wait()
                    passes = stepper.passes(seen_before_validation(step, experiment, len(clip_set)), batches)
                    validated = _validation_event(
                        step,
                        experiment,
                        task,
                        recipe,
                        recipe.evaluated(model, passes, workers.sum_),
                        validation,
                    )
                    progress.scores.append(validated.score)
                    emit(validated)
                saver.save(state_after(planned), validated.score if validated else None)
    return _outcome(workers, checkpoints, progress.steps, task.score, progress.scores)


def _used(device: str) -> torch.device:
    """The device of this name, which is from now on the one that CUDA uses."""
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    return place


def _recipe(experiment: Experiment, options: WorkerOptions) -> Recipe:
    """The pieces of the recipe. Raises ConfigError for an experiment whose features cannot be cached."""
    recipe = Recipe(experiment)
    if options.cache_features:
        check_cacheable(experiment)
        check_pieces(recipe.changes_clips)
    return recipe


def _batches(
    experiment: Experiment,
    clip_set: Manifest,
    preprocessing: Preprocessing,
    task: Task,
    specs: Iterable[BatchSpec],
    cached: CachedFeatures | None,
    *,
    indexes: IndexCache | None,
    options: WorkerOptions,
    pin_memory: bool,
) -> "Generator[Batch]":
    """The batches of this worker: decoded clips, or their cached features."""
    batches = (
        cached.batches(specs, pin_memory=pin_memory)
        if cached
        else load_batches(
            clip_set,
            preprocessing,
            specs,
            seed=experiment.seed,
            decoders=options.decoders or 1,
            clips_per_sample=experiment.data.clips_per_sample,
            drawn_views=experiment.data.drawn_views,
            balance=balance_of(experiment.data, list(preprocessing.labels)),
            targets=task.targets,
            indexes=indexes,
            max_memory=options.max_memory,
            pin_memory=pin_memory,
        )
    )
    return cast("Generator[Batch]", batches)


def _with_passes(steps: Iterable[Step], experiment: Experiment, samples: int) -> Iterator[Step]:
    """``steps``, each followed by what the recipe sees before the validation after it."""
    for step in steps:
        yield step
        yield from chain.from_iterable(seen_before_validation(step, experiment, samples).values())


def _step_event(step: Step, plan: StepPlan, result: StepResult, speed: Speed) -> StepEvent:
    done = step.index + 1
    return StepEvent(
        step=done,
        total_steps=plan.total_steps,
        epoch=step.epochs_done,
        loss=result.loss,
        lr=step.lr,
        clips_per_s=speed.clips_per_s,
        data_wait=min(result.wait_s / speed.step_s, 1.0),
        copy=min(result.copy_s / speed.step_s, 1.0),
        seconds_left=speed.seconds_for(plan.total_steps - done),
        seconds=speed.step_s,
    )


def _validation_event(
    step: Step,
    experiment: Experiment,
    task: Task,
    recipe: Recipe,
    weights: AbstractContextManager[None],
    validation: Callable[[], tuple[dict[str, float], float]],
) -> ValidationEvent:
    began = time.perf_counter()
    with weights:
        metrics, score = validation()
    return ValidationEvent(
        step=step.index + 1,
        epoch=int(step.epochs_done),
        metrics=metrics,
        score=score,
        score_name=task.score,
        precision=experiment.train.precision,
        weights=recipe.weights,
        seconds=time.perf_counter() - began,
    )


def _planned(experiment: Experiment, steps: Iterable[Step], scores: Sequence[float]) -> Iterator[Step]:
    """``steps`` up to where a piece of the recipe ends the run; ``scores`` grows while it runs."""
    for step in steps:
        if any(piece.stops(scores) for piece in experiment.recipe.values()):
            log.info("validation no longer improves: the run ends after step %d", step.index)
            return
        yield step


def _task(
    experiment: Experiment, preprocessing: Preprocessing, clip_set: Manifest, val_set: Manifest
) -> Task:
    task = experiment.task.build(preprocessing.labels)
    task.check(val_set)
    task.begin(clip_set)
    return task


def _new_model(
    experiment: Experiment, preprocessing: Preprocessing, task: Task, activation_checkpointing: bool
) -> nn.Module:
    torch.manual_seed(experiment.seed)
    model = task.build_model(experiment.model, preprocessing.channels)
    if activation_checkpointing and not checkpoint_activations(model):
        log.warning(
            "`activation_checkpointing` has no effect: the model has no nn.Sequential of several blocks"
        )
    return model


def _start(
    experiment: Experiment,
    model: nn.Module,
    recipe: Recipe,
    workers: Workers,
    emit: Callable[[Event], None],
) -> Progress:
    for part, init in experiment.model.inits().items():
        emit(InitialisedEvent(part, initialise(model, part, init, workers)))
    for part, key in experiment.model.frozen_at_random().items():
        emit(InitialisedEvent(part, frozen_at_random_note(key)))
    recipe.begin(model)
    return Progress()


def _outcome(
    workers: Workers, checkpoints: CheckpointStore, steps: int, score: str, scores: list[float]
) -> TrainResult:
    """Rank 0's view, on every worker: others may get here before the last checkpoint is complete."""
    last = scores[-1] if scores else None
    best = best_uri = last_uri = None
    if workers.rank == 0:
        best, best_uri, last_uri = checkpoints.best_score(), checkpoints.best(), checkpoints.last()
    return workers.gather(TrainResult(steps, score, best, last, best_uri, last_uri))[0]


def _check_finite(model: nn.Module, step: int) -> None:
    """A finite loss can have an infinite gradient: never save weights that are not finite."""
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise NonFiniteLossError(
                f"{name} is no longer finite",
                code="weights_not_finite",
                key=f"step {step}",
                remedy="lower optim.lr (the last checkpoint is unaffected)",
            )


def _ignore(_: Event) -> None:
    """Drop an event of another worker than rank 0."""
