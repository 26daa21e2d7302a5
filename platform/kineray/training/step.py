"""One step: the micro-batches of a global batch, one update."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kineray.config import Experiment
from kineray.data import Batch, Failure, Preprocessing
from kineray.errors import ConfigError, KinerayError, NonFiniteLossError
from kineray.models import commit_batch_norm, discard_batch_norm, set_batch_norm_group, set_clip_seeds
from kineray.tasks import Task
from kineray.tasks.base import Outputs
from kineray.training.optim import set_learning_rate
from kineray.training.order_of_use import names_in_order_of_use
from kineray.training.plan import Step
from kineray.training.recipe import Recipe
from kineray.training.stopwatch import Stopwatch
from kineray.training.stragglers import CAUSES
from kineray.training.synchronise import GradientSynchroniser, Workers
from kineray.training.whereabouts import Whereabouts


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step.

    ``loss``: mean over the global batch; ``ids``: samples of this worker's clips, in their order;
    ``failures``: of all workers, in rank order; ``wait_s`` and ``copy_s``: seconds that this worker waited
    for clips and copied them to its device. ``request``: what
    rank 0 asked all workers to do after this step, the same on each. ``parts``: what the workers needed for
    their parts of the step before this one, ``[rank][cause]`` in seconds for each clip, the causes in the
    order of ``CAUSES``; zeros if there was none.
    """

    loss: float
    ids: tuple[str, ...]
    failures: tuple[Failure, ...]
    wait_s: float
    copy_s: float
    request: int
    parts: list[list[float]]


@dataclass(frozen=True)
class Entry:
    """Where batches enter the model.

    ``prepare`` makes the input of ``forward``, which returns outputs, of what a batch holds, on its device.
    """

    prepare: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor], Outputs]


@dataclass
class _Part:
    """What one worker contributes to a step; ``problem``: the error that ended its data."""

    loss: Tensor
    clip_losses: list[Tensor] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    problem: KinerayError | None = None
    wait_s: float = 0.0


class Stepper:
    """Makes the updates of a model, together with the other workers.

    The loss of a step is the mean over its global batch, whatever part of it a worker holds and however
    it is cut into micro-batches: every micro-batch contributes its sum over clips divided by the global
    batch, and the gradients are summed.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        optimizer: Optimizer,
        preprocessing: Preprocessing,
        task: Task,
        recipe: Recipe,
        *,
        workers: Workers,
        device: torch.device,
        whereabouts: Whereabouts | None = None,
        entry: Entry | None = None,
    ) -> None:
        """``entry``: by default normalised clips enter the whole model."""
        self._whereabouts = whereabouts or Whereabouts()
        self._seed = experiment.seed
        self._precision = experiment.train.precision
        self._model = model
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._trained: tuple[str, ...] | None = None
        self._bn_group = 0
        self._optimizer = optimizer
        self._entry = entry or Entry(preprocessing.normalise, model)
        self._task = task
        self._recipe = recipe
        self._workers = workers
        self._device = device
        order = names_in_order_of_use(model, experiment) if workers.size > 1 else []
        self._synchroniser = GradientSynchroniser([model.get_parameter(name) for name in order], workers)
        self._copies, self._own_time = Stopwatch(device), Stopwatch(device)
        self._seconds = [0.0] * len(CAUSES)  # of the step before, for each clip

    def run(self, step: Step, positions: range, batches: Iterator[Batch], request: int = 0) -> StepResult:
        """Take the micro-batches at ``positions`` of the global batch from ``batches``; update the model.

        ``request``: a number that all workers get from rank 0 with the sums of the step.

        Raises, on every worker alike and before anything is changed, NonFiniteLossError, or the
        KinerayError that ended the data of any worker; ConfigError if the step trains nothing.
        """
        self._whereabouts.step = step.index + 1
        self._prepare(step)
        self._optimizer.zero_grad(set_to_none=True)
        with self._own_time:
            part = self._take_part(step, positions, batches)
        self._whereabouts.waits = True
        self._synchroniser.finish()

        asked = request if self._workers.rank == 0 else 0
        counts = [len(part.failures), part.problem is not None, asked, *self._seconds_of_all()]
        sums = torch.cat([part.loss[None], part.loss.new_tensor(counts)])
        self._workers.sum_(sums)
        loss_sum, failed, stopped, requested, *seconds = sums.tolist()
        self._whereabouts.waits = False
        copy_s, own_s = self._copies.seconds(), self._own_time.seconds()
        self._seconds = [part.wait_s, copy_s, max(own_s - part.wait_s - copy_s, 0.0)]
        self._seconds = [one / len(positions) for one in self._seconds]
        if stopped:
            discard_batch_norm(self._model)
            self._raise_first(part.problem)
        if not math.isfinite(loss_sum):
            discard_batch_norm(self._model)
            raise self._not_finite(step, loss_sum, part.ids, part.clip_losses)

        self._recipe.transform_gradients([p for p in self._trainable.values() if p.grad is not None])
        set_learning_rate(self._optimizer, step.lr)
        self._optimizer.step()
        commit_batch_norm(self._model, self._workers.sum_)
        self._recipe.after_step(self._model, step)
        failures = part.failures
        if failed:
            failures = [failure for of_worker in self._workers.gather(failures) for failure in of_worker]
        return StepResult(
            loss=loss_sum / step.global_batch,
            ids=tuple(part.ids),
            failures=tuple(failures),
            wait_s=part.wait_s,
            copy_s=copy_s,
            request=int(requested),
            parts=[seconds[first : first + len(CAUSES)] for first in range(0, len(seconds), len(CAUSES))],
        )

    def _take_part(self, step: Step, positions: range, batches: Iterator[Batch]) -> "_Part":
        """Add the gradients of this worker's micro-batches."""
        part = _Part(torch.zeros((), dtype=torch.float64, device=self._device))
        position = positions.start
        while position < positions.stop:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except KinerayError as error:
                part.problem = error
                self._synchroniser.arm()  # the others wait for this worker's part
                break
            part.wait_s += time.perf_counter() - began
            if position + len(batch.ids) >= positions.stop:
                self._synchroniser.arm()
            losses = self._backward(batch, step, position)
            part.loss += losses.sum(dtype=torch.float64)
            part.clip_losses.append(losses)
            part.ids += batch.ids
            part.failures += batch.failures
            position += len(batch.ids)
        return part

    def _seconds_of_all(self) -> list[float]:
        """What this worker needed for its part of the step before, among zeros for the other workers."""
        others_before, others_after = self._workers.rank, self._workers.size - self._workers.rank - 1
        return [0.0] * len(CAUSES) * others_before + self._seconds + [0.0] * len(CAUSES) * others_after

    def passes(
        self, steps: Mapping[str, Sequence[Step]], batches: Iterator[Batch]
    ) -> dict[str, Iterator[None]]:
        """For each piece of the recipe, forward passes of its ``steps`` in training mode, without an update.

        They are made, one after the other, when an item is taken. Raises, on every worker alike and after
        the last one, the KinerayError that ended the data of any worker.
        """
        return {piece: self._passes(of_piece, batches) for piece, of_piece in steps.items() if of_piece}

    @torch.no_grad()
    def _passes(self, steps: Sequence[Step], batches: Iterator[Batch]) -> Iterator[None]:
        problem: KinerayError | None = None
        for step in steps:
            self._prepare(step)
            positions = step.share(self._workers.rank, self._workers.size)
            position = positions.start
            while position < positions.stop and problem is None:
                try:
                    batch = next(batches)
                except KinerayError as error:
                    problem = error
                    break
                # Numbers below 0 are no steps: these seeds are used nowhere else.
                self._seed_clips(-1 - step.index, step.first + position, len(batch.ids))
                clips_bcthw = self._entry.prepare(batch.clips_bthwc.to(self._device))
                with autocast(self._device, self._precision):
                    self._entry.forward(clips_bcthw)
                set_clip_seeds(self._model, None)
                position += len(batch.ids)
            yield
        discard_batch_norm(self._model)  # what no piece has taken
        self._raise_first(problem)

    def _raise_first(self, problem: KinerayError | None) -> None:
        """Raise the first ``problem`` of any worker, on all of them, if there is one."""
        for error in self._workers.gather(problem):
            if error is not None:
                raise error

    def _seed_clips(self, step: int, first: int, clips: int) -> None:
        """Set the seeds of all that is random in the model, for ``clips`` clips from place ``first`` on."""
        seeds = [clip_seed(self._seed, step, first + place) for place in range(clips)]
        set_clip_seeds(self._model, seeds)
        torch.manual_seed(seeds[0])  # for whatever else in a model is random

    def _prepare(self, step: Step) -> None:
        """Give the model the step's batch-norm groups, and gradients to the parameters that it trains."""
        self._model.train()
        if step.bn_group != self._bn_group:
            set_batch_norm_group(self._model, step.bn_group)
            self._bn_group = step.bn_group
        if step.trained != self._trained:
            for name, parameter in self._trainable.items():
                parameter.requires_grad_(step.trains(name))
            self._trained = step.trained
        if not any(parameter.requires_grad for parameter in self._trainable.values()):
            raise ConfigError(
                f"step {step.index + 1} trains no parameter of the model",
                code="nothing_trained",
                key=", ".join(step.trained or ()),
                remedy="name parameters that the model has and does not freeze",
            )

    def _backward(self, batch: Batch, step: Step, position: int) -> Tensor:
        """Add the gradients of a micro-batch; returns the loss of every clip, [B]."""
        self._seed_clips(step.index, position, len(batch.ids))
        with self._copies:
            clips_bthwc = batch.clips_bthwc.to(self._device, non_blocking=True)
            targets = {
                head: label.to(self._device, non_blocking=True) for head, label in batch.labels.items()
            }
        clips_bcthw = self._entry.prepare(clips_bthwc)
        if self._recipe.soft_targets:
            targets = self._task.soften(targets)
        clips_bcthw, targets = self._recipe.transform(step, position, clips_bcthw, targets)
        with autocast(self._device, self._precision):
            logits = self._entry.forward(clips_bcthw)
        losses = self._task.loss(logits, targets)
        (losses.sum() / step.global_batch).backward()  # type: ignore[no-untyped-call]
        set_clip_seeds(self._model, None)
        return losses.detach()

    def _not_finite(
        self, step: Step, loss: float, ids: Sequence[str], clip_losses: Sequence[Tensor]
    ) -> NonFiniteLossError:
        finite = torch.isfinite(torch.cat(list(clip_losses))).tolist()
        here = [name for name, good in zip(ids, finite, strict=True) if not good]
        bad = [name for part in self._workers.gather(here) for name in part]
        return NonFiniteLossError(
            f"the loss is {loss:g} for samples {shorten(bad)}",
            code="loss_not_finite",
            key=f"step {step.index + 1}",
            remedy="lower optim.lr, or look at these clips (the last checkpoint is unaffected)",
        )


def clip_seed(seed: int, step: int, position: int) -> int:
    """The seed of the model's randomness for the clip at ``position`` of the global batch of ``step``."""
    digest = hashlib.sha256(f"{seed}/{step}/{position}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 arithmetic if ``precision`` says so; parameters, batch norms and loss stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def shorten(names: Sequence[str], most: int = 20) -> str:
    """``a, b, c and 5 more``."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
