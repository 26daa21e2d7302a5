"""Whether a model takes its clips and its initial weights, found without its memory or its arithmetic."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from kineray.config import Experiment
from kineray.errors import ConfigError, KinerayError
from kineray.models import summarise
from kineray.tasks import Task
from kineray.training.checkpoint import load_training_state
from kineray.training.initial import load_initial
from kineray.training.optim import build_optimizer
from kineray.training.recipe import Recipe
from kineray.training.step import shorten

_NEEDS_MORE = ("cuda", "gpu", "triton", "meta", "distributed", "process group")


def probe(experiment: Experiment, labels: Mapping[str, Sequence[str]], checkpoint: str | None = None) -> None:
    """Build the model of an experiment, load its initial weights, and give it a clip of each size.

    ``labels``: the class names of every head. ``checkpoint``: one from whose tensors the run is to go on, in
    place of initial weights. All on the device ``meta``, where tensors have shapes but no values. Raises
    KinerayError for tensors that do not fit, for clips that the model does not take and for names of
    parameters that it does not have. What needs more than this process has, such as a GPU, is left to the
    workers.
    """
    task = experiment.task.build(labels)
    model = _on_meta(experiment, task)
    if model is None:
        return
    factors = Recipe(experiment).factors(model)
    if checkpoint is not None:
        _check_carried(checkpoint, model, build_optimizer(model, experiment.optim, factors))
    for part, init in ({} if checkpoint else experiment.model.inits()).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that copies to ``meta`` have no effect
            try:
                load_initial(model, part, init)
            except ConfigError as error:
                if getattr(error.__cause__, "code", "") != "not_downloaded":  # workers may have it
                    raise
    if experiment.model.is_of_plugin:  # ours are known by ``check_clip``
        data = experiment.data
        of_recipe = [size for piece in experiment.recipe.values() for size in piece.clip_sizes(data)]
        for size in sorted({(data.frames, data.crop), (data.frames, data.eval_crop), *of_recipe}):
            _give_clip(experiment, task, model, *size)


def costs(experiment: Experiment, labels: Mapping[str, Sequence[str]]) -> tuple[int, int] | tuple[None, None]:
    """Parameters of the network, and its multiply-adds for one training clip; None if it needs values."""
    model = _on_meta(experiment, experiment.task.build(labels))
    data = experiment.data
    if model is None:
        return None, None
    try:
        summary = summarise(model, (data.channels, data.frames, data.crop, data.crop))
    except Exception:  # of a plug-in's network
        return None, None
    return summary.parameters, summary.cost.weighted + summary.cost.attention


def _check_carried(checkpoint: str, model: nn.Module, optimizer: Optimizer) -> None:
    """Raise ConfigError unless the tensors of a checkpoint are those that the run has."""
    saved = load_training_state(checkpoint)
    before = {name: tuple(value.shape) for name, value in saved.weights.items()}
    now = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    problem = ""
    if other := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        shapes = f"{before.get(other[0], 'absent')} there, {now.get(other[0], 'absent')} here"
        problem = f"the network has other tensors ({shorten(other, 3)}: {shapes})"
    elif _sizes(saved.optimizer["param_groups"]) != _sizes(optimizer.param_groups):
        problem = "the optimizer has other groups of parameters"
    if problem:
        raise ConfigError(
            f"{problem} than {checkpoint}",
            code="not_carried",
            key="fork",
            remedy=f"keep what it depends on, or start a new run from its weights: model.init={checkpoint}",
        )


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _on_meta(experiment: Experiment, task: Task) -> nn.Module | None:
    try:
        with torch.device("meta"):
            return task.build_model(experiment.model, experiment.data.channels).eval()
    except KinerayError:
        raise
    except Exception:  # a plug-in's network may need values when it is made
        return None


def _give_clip(experiment: Experiment, task: Task, model: nn.Module, frames: int, side: int) -> None:
    channels = experiment.data.channels
    shape = (1, channels, frames, side, side)
    try:
        with torch.no_grad():
            outputs = model(torch.empty(shape, device="meta"))
    except KinerayError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        if isinstance(error, NotImplementedError) or any(word in str(error).lower() for word in _NEEDS_MORE):
            return
        raise ConfigError(
            f"does not take clips of {frames} frames of {side} x {side} pixels with {channels} channels: "
            f"{type(error).__name__}: {text}",
            code="model_refuses_clip",
            key="model.type",
            value=experiment.model.type,
        ) from error
    except Exception:  # a mistake in a plug-in is reported by the workers, with its line
        return
    _check_outputs(experiment, task, outputs)


def _check_outputs(experiment: Experiment, task: Task, outputs: object) -> None:
    wanted = {head: [1, len(names)] for head, names in task.classes.items()}
    if not isinstance(outputs, Mapping):
        got: object = type(outputs).__name__
    else:
        got = {head: list(getattr(outputs.get(head), "shape", ())) for head in wanted}
    if got != wanted:
        raise ConfigError(
            f"returns {got} for one clip, not logits of the shapes {wanted}",
            code="wrong_shape",
            key="model.type",
            value=experiment.model.type,
        )
