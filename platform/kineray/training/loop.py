"""The training loop of one worker."""

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import torch
from torch import nn
from torch.optim import Optimizer

from kineray.config import Experiment, differing_keys
from kineray.data import Batch, Failure, Manifest, Preprocessing, load_batches
from kineray.data.clips.preprocessing import balance_of
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import CheckpointError, ErrorBudgetError, NonFiniteLossError
from kineray.models import checkpoint_activations, frozen_at_random_note
from kineray.options import WorkerOptions
from kineray.tasks import Task
from kineray.training.checkpoint import CheckpointStore, TrainingState, load_training_state
from kineray.training.events import (
    CheckpointEvent,
    Event,
    InitialisedEvent,
    ReplacedEvent,
    StepEvent,
    TrainResult,
    ValidationEvent,
)
from kineray.training.initial import initialise
from kineray.training.inputs import preprocessing_of
from kineray.training.optim import build_optimizer
from kineray.training.plan import ExperimentPlan, Step, StepPlan, check_micro_batch, differing_fields
from kineray.training.recipe import Recipe
from kineray.training.step import Stepper, StepResult, shorten
from kineray.training.synchronise import Workers
from kineray.training.validation import validate

log = logging.getLogger(__name__)


@dataclass
class _Progress:
    """How far a run is: steps made, undecodable clips by sample id, the scores of all validations."""

    steps: int = 0
    undecodable: dict[str, Failure] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)

    def add(self, failures: Sequence[Failure], clips: int, budget: float) -> None:
        """Count undecodable clips. Raises ErrorBudgetError for more than ``budget`` of all ``clips``."""
        self.undecodable |= {failure.id: failure for failure in failures}
        if len(self.undecodable) > budget * clips:
            uris = shorten([failure.uri for failure in self.undecodable.values()])
            raise ErrorBudgetError(
                f"{len(self.undecodable)} of {clips} training clips cannot be decoded, more than {budget:g} "
                f"of them: {uris}",
                code="error_budget",
                key="data.error_budget",
                remedy="repair or remove them, or raise the budget",
            )


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
    plan: StepPlan | None = None,
    on_step: Callable[[Step, StepResult], object] = lambda step, result: None,
) -> TrainResult:
    """Train to the end of the plan, or to where a piece of the recipe ends the run.

    Every worker calls this with the same arguments except ``rank``.

    ``plan``: what each step is; by default that of the experiment (``ExperimentPlan``). ``options``: how a
    worker does its part (``max_failures`` concerns only what starts workers; by default one decoder).
    ``resume`` continues from the last checkpoint, if there is one, exactly as if the run had never stopped.
    Only rank 0 writes checkpoints and calls ``on_event``; every worker calls ``on_step`` after each update.

    With ``world_size`` > 1 torch.distributed must be initialised. Raises ConfigError, ManifestError and
    CheckpointError; NonFiniteLossError and ErrorBudgetError are raised on every worker alike.
    """
    indexes = IndexCache.beside(experiment.data.manifest) if experiment.data.manifest else None
    clip_set = samples_of_epoch(train_set, experiment.data, indexes)
    plan = plan or ExperimentPlan(experiment, len(clip_set))
    plan.at(0).share(rank, world_size)  # refuse too many workers before anything is created
    micro_batch = check_micro_batch(options.micro_batch, experiment.train.bn_group)
    workers, place = Workers(rank, world_size), torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    emit = on_event if rank == 0 else _ignore

    recipe = Recipe(experiment)
    preprocessing = preprocessing_of(experiment, train_set, val_set)
    task = _task(experiment, preprocessing, clip_set, val_set)
    model = _new_model(experiment, preprocessing, task, options.activation_checkpointing).to(place)
    workers.broadcast_(model)
    optimizer = build_optimizer(model, experiment.optim, recipe.factors(model))

    last = _last(checkpoints, workers, resume)
    progress = _Progress()
    if last is None:
        _initialise(experiment, model, workers, emit)
    recipe.begin(model)
    if last is not None:
        progress = _restore(*last, experiment, train_set, plan, model, optimizer, recipe)

    stepper = Stepper(
        experiment, model, optimizer, preprocessing, task, recipe, workers=workers, device=place
    )
    speed = _Speed()
    steps = range(progress.steps, plan.total_steps)
    batches = load_batches(
        clip_set,
        preprocessing,
        (plan.at(index).batch(rank, world_size, micro_batch) for index in steps),
        seed=experiment.seed,
        decoders=options.decoders or 1,
        clips_per_sample=experiment.data.clips_per_sample,
        balance=balance_of(experiment.data, list(preprocessing.labels)),
        targets=task.targets,
        indexes=indexes,
        max_memory=options.max_memory,
        pin_memory=place.type == "cuda",
    )
    with closing(cast("Generator[Batch]", batches)):
        for planned in _planned(experiment, map(plan.at, steps), progress.scores):
            step = replace(planned, lr=planned.lr * experiment.schedule.factor_after(progress.scores))
            done = progress.steps = step.index + 1
            speed.start()
            result = stepper.run(step, step.share(rank, world_size), batches)
            speed.stop(step.global_batch)
            emit(_step_event(step, plan, result, speed))
            on_step(step, result)
            if result.failures:
                emit(ReplacedEvent(done, result.failures))
                progress.add(result.failures, len(clip_set), experiment.data.error_budget)

            if not step.is_validated and not _is_saved(done, options.checkpoint_every):
                continue
            _check_finite(model, done)
            score = None
            if step.is_validated:
                with recipe.evaluated(model):
                    metrics, score = validate(
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
                    )
                progress.scores.append(score)
                emit(
                    ValidationEvent(
                        step=done,
                        epoch=int(step.epochs_done),
                        metrics=metrics,
                        score=score,
                        score_name=task.score,
                        precision=experiment.train.precision,
                        weights=recipe.weights,
                    )
                )
            if rank == 0:
                uri, best = checkpoints.save(
                    model,
                    optimizer,
                    experiment,
                    preprocessing,
                    {
                        "step": done,
                        "total_steps": plan.total_steps,
                        "epoch": step.epochs_done,
                        "last_step": planned.to_dict(),
                        "scores": progress.scores,
                        "manifest": train_set.content_hash,
                        "undecodable": [asdict(failure) for failure in progress.undecodable.values()],
                    },
                    score=score,
                    pieces=recipe.states(),
                    weights=recipe.weights,
                )
                emit(CheckpointEvent(done, uri, best, score))
    return _outcome(workers, checkpoints, progress.steps, task.score, progress.scores)


def _last(checkpoints: CheckpointStore, workers: Workers, resume: bool) -> tuple[str, TrainingState] | None:
    """What to resume from; rank 0 chooses. Raises CheckpointError if there is anything without ``resume``."""
    chosen = _choose(checkpoints, resume) if workers.rank == 0 else None
    uri = workers.gather(chosen and chosen[0])[0]
    return None if uri is None else chosen or (uri, load_training_state(uri))


def _choose(checkpoints: CheckpointStore, resume: bool) -> tuple[str, TrainingState] | None:
    if not resume and checkpoints.last() is not None:
        raise CheckpointError(
            "holds a run already",
            code="run_exists",
            key=checkpoints.uri,
            remedy="resume it with `resume`, or name another folder",
        )
    return checkpoints.load_last()


def _step_event(step: Step, plan: StepPlan, result: StepResult, speed: "_Speed") -> StepEvent:
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
    )


def _planned(experiment: Experiment, steps: Iterable[Step], scores: Sequence[float]) -> Iterator[Step]:
    """``steps`` up to where a piece of the recipe ends the run; ``scores`` grows while it runs."""
    for step in steps:
        if any(piece.stops(scores) for piece in experiment.recipe.values()):
            log.info("validation no longer improves: the run ends after step %d", step.index)
            return
        yield step


def _is_saved(done: int, checkpoint_every: int | None) -> bool:
    """Whether a checkpoint is due after ``done`` steps, besides those after validations."""
    return checkpoint_every is not None and done % checkpoint_every == 0


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


def _initialise(
    experiment: Experiment, model: nn.Module, workers: Workers, emit: Callable[[Event], None]
) -> None:
    for part, init in experiment.model.inits().items():
        emit(InitialisedEvent(part, initialise(model, part, init, workers)))
    for part, key in experiment.model.frozen_at_random().items():
        emit(InitialisedEvent(part, frozen_at_random_note(key)))


def _outcome(
    workers: Workers, checkpoints: CheckpointStore, steps: int, score: str, scores: list[float]
) -> TrainResult:
    """Rank 0's view, on every worker: others may get here before the last checkpoint is complete."""
    last = scores[-1] if scores else None
    best = best_uri = last_uri = None
    if workers.rank == 0:
        best, best_uri, last_uri = checkpoints.best_score(), checkpoints.best(), checkpoints.last()
    return workers.gather(TrainResult(steps, score, best, last, best_uri, last_uri))[0]


def _restore(
    uri: str,
    saved: TrainingState,
    experiment: Experiment,
    train_set: Manifest,
    plan: StepPlan,
    model: nn.Module,
    optimizer: Optimizer,
    recipe: Recipe,
) -> _Progress:
    """Put a checkpoint into model, optimizer and recipe; returns how far its run was."""
    changed = [
        key for key in differing_keys(saved.experiment, experiment) if key not in {"name", "data.manifest"}
    ]
    if saved.state["manifest"] != train_set.content_hash:
        changed.append("the content of data.manifest")
    if not changed:
        planned = plan.at(saved.state["step"] - 1)
        changed = [f"the step's {name}" for name in differing_fields(saved.state["last_step"], planned)]
    if changed:
        raise CheckpointError(
            f"made with other values of {shorten(changed, 6)}",
            code="other_experiment",
            key=uri,
            remedy="start a new run instead of resuming",
        )
    try:
        model.load_state_dict(saved.weights)
        optimizer.load_state_dict(saved.optimizer)
        recipe.load_states(saved.pieces)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"does not fit this model: {str(error).splitlines()[0]}",
            code="other_model",
            key=uri,
            remedy="start a new run instead of resuming",
        ) from None
    log.info("continuing %s from step %d", uri, saved.state["step"])
    failures = [Failure(**failure) for failure in saved.state["undecodable"]]
    undecodable = {failure.id: failure for failure in failures}
    return _Progress(saved.state["step"], undecodable, saved.state["scores"])


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


class _Speed:
    """Measures the speed of training, smoothed over about ten steps.

    The first step also allocates memory and chooses kernels: it counts only until there is another one.
    """

    def __init__(self) -> None:
        self._started = 0.0
        self._steps = 0
        self._smooth_s = 0.0
        self._smooth_clips = 0.0
        self.step_s = 0.0

    def start(self) -> None:
        self._started = time.perf_counter()

    def stop(self, clips: int) -> None:
        self.step_s = time.perf_counter() - self._started
        self._steps += 1
        weight = max(0.1, 1 / max(self._steps - 1, 1))
        self._smooth_s += (self.step_s - self._smooth_s) * weight
        self._smooth_clips += (clips - self._smooth_clips) * weight

    @property
    def clips_per_s(self) -> float:
        return self._smooth_clips / self._smooth_s

    def seconds_for(self, steps: int) -> float:
        return steps * self._smooth_s


def _ignore(_: Event) -> None:
    """Drop an event of another worker than rank 0."""
