"""Whether a model takes its clips and its initial weights, found without its memory or its arithmetic."""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from kineray.config import Experiment
from kineray.errors import ConfigError, KinerayError
from kineray.tasks import Task
from kineray.training.initial import load_initial
from kineray.training.recipe import Recipe

_NEEDS_MORE = ("cuda", "gpu", "triton", "meta", "distributed", "process group")


def probe(experiment: Experiment, labels: Mapping[str, Sequence[str]]) -> None:
    """Build the model of an experiment, load its initial weights, and give it a clip of each size.

    ``labels``: the class names of every head. All on the device ``meta``, where tensors have shapes but no
    values. Raises KinerayError for weights that do not fit, for clips that the model does not take and for
    names of parameters that it does not have. What needs more than this process has, such as a GPU, is left
    to the workers.
    """
    task = experiment.task.build(labels)
    model = _on_meta(experiment, task)
    if model is None:
        return
    for part, init in experiment.model.inits().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that copies to ``meta`` have no effect
            try:
                load_initial(model, part, init)
            except ConfigError as error:
                if getattr(error.__cause__, "code", "") != "not_downloaded":  # workers may have it
                    raise
    Recipe(experiment).factors(model)
    if experiment.model.is_of_plugin:  # ours are known by ``check_clip``
        for key in ("crop", "eval_crop"):
            _give_clip(experiment, task, model, key)


def _on_meta(experiment: Experiment, task: Task) -> nn.Module | None:
    try:
        with torch.device("meta"):
            return task.build_model(experiment.model, experiment.data.channels).eval()
    except KinerayError:
        raise
    except Exception:  # a plug-in's network may need values when it is made
        return None


def _give_clip(experiment: Experiment, task: Task, model: nn.Module, key: str) -> None:
    data = experiment.data
    side = getattr(data, key)
    shape = (1, data.channels, data.frames, side, side)
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
            f"does not take clips of data.frames={data.frames} with data.{key}={side} and {data.channels} "
            f"channels: {type(error).__name__}: {text}",
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
