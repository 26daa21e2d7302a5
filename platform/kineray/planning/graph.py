"""The kernels and the memory of a training step, recorded without computing anything.

The network runs on torch's fake tensors, which have shapes, types and storages but no values: a graph that
needs a large GPU is recorded in seconds on any machine.
"""

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from kineray.config import Experiment
from kineray.errors import ConfigError, KinerayError
from kineray.models import (
    checkpoint_activations,
    discard_batch_norm,
    set_batch_norm_group,
    set_clip_seeds,
)
from kineray.models.blocks import GhostBatchNorm
from kineray.planning.workload import Bucket, Graph, Op
from kineray.tasks import Task
from kineray.training.optim import build_optimizer
from kineray.training.order_of_use import names_in_order_of_use
from kineray.training.plan import Step
from kineray.training.recipe import Recipe
from kineray.training.step import autocast
from kineray.training.synchronise import fixed_buckets

_TILE, _DEPTH = 128, 32  # a kernel of cuBLAS or cuDNN computes tiles of 128 x 128 from 32 products at a time
_CPU = torch.device("cpu")


class FakeModel:
    """The network of an experiment on fake tensors. Raises ConfigError if it needs real ones."""

    def __init__(self, experiment: Experiment, task: Task, *, activation_checkpointing: bool) -> None:
        self._experiment = experiment
        self._mode = FakeTensorMode()
        with _needs_no_values(experiment), torch.device("meta"):
            self._model = task.build_model(experiment.model, experiment.data.channels)
        order = names_in_order_of_use(self._model, experiment)
        if activation_checkpointing:
            checkpoint_activations(self._model)
        with self._fake():
            _without_values(self._model)
            recipe = Recipe(experiment)
            recipe.factors(self._model)
            recipe.begin(self._model)
            self._recipe_bytes = sum(_bytes(state.values()) for state in recipe.states().values())
        self._buckets = fixed_buckets([self._model.get_parameter(name) for name in order])
        self._trainable = {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @property
    def state_bytes(self) -> int:
        """Of parameters, buffers, the optimizer's state and that of the recipe: what a checkpoint has."""
        trainable = sum(p.numel() * p.element_size() for p in self._trainable.values())
        optimizer = trainable * states_of_optimizer(self._experiment)
        return _bytes(self._model.state_dict().values()) + optimizer + self._recipe_bytes

    @property
    def statistics_bytes(self) -> int:
        """What ``commit_batch_norm`` sums over the workers: float64, a count and two values of a channel."""
        layers = [module for module in self._model.modules() if isinstance(module, GhostBatchNorm)]
        return sum(8 * (1 + 2 * layer.num_features) for layer in layers)

    def training(self, step: Step, groups: int) -> Graph:
        """Forward and backward pass of a micro-batch of ``groups`` batch-norm groups of ``step``."""
        clips = groups * step.bn_group
        with self._fake():
            self._begin(step, clips)
            recorder = _Recorder(self._model.state_dict().values())
            ready = {p: math.inf for p in self._trainable.values() if p.requires_grad}
            hooks = [p.register_post_accumulate_grad_hook(_note(ready, recorder)) for p in ready]  # type: ignore[no-untyped-call]
            with recorder:
                loss = self._loss(clips, step.clip.frames, step.clip.crop)
                forward = len(recorder.ops)
                loss.backward()  # type: ignore[no-untyped-call]
            for hook in hooks:
                hook.remove()
            buckets = _reduced(self._buckets, ready, forward, len(recorder.ops))
            self._end()
        ops = recorder.ops
        return Graph(clips, tuple(ops[:forward]), tuple(ops[forward:]), buckets, recorder.peak)

    def validation(self, clips: int) -> Graph:
        """The forward pass of ``clips`` clips of validation."""
        data = self._experiment.data
        with self._fake(), torch.no_grad():
            self._model.eval()
            recorder = _Recorder(self._model.state_dict().values())
            with recorder:
                self._loss(clips, data.frames, data.eval_crop)
        return Graph(clips, tuple(recorder.ops), (), (), recorder.peak)

    def _begin(self, step: Step, clips: int) -> None:
        self._model.train()
        set_batch_norm_group(self._model, step.bn_group)
        set_clip_seeds(self._model, [0] * clips)
        for name, parameter in self._trainable.items():
            parameter.requires_grad_(step.trains(name))

    def _end(self) -> None:
        self._model.zero_grad(set_to_none=True)
        discard_batch_norm(self._model)
        set_clip_seeds(self._model, None)

    def _loss(self, clips: int, frames: int, side: int) -> Tensor:
        """A scalar that reaches every output: what the loss itself costs is next to nothing."""
        clips_bcthw = torch.empty(clips, self._experiment.data.channels, frames, side, side)
        with autocast(_CPU, self._experiment.train.precision):
            outputs: Mapping[str, Tensor] = self._model(clips_bcthw)
        losses = [logits_bk.float().log_softmax(1).sum() for logits_bk in outputs.values()]
        return torch.stack(losses).sum()

    @contextmanager
    def _fake(self) -> Iterator[None]:
        with _needs_no_values(self._experiment), self._mode:
            yield


def _without_values(model: nn.Module) -> None:
    """Put new tensors, of the mode that is active, into the places of all of a model's."""
    new: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in new:
                    new[tensor] = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        new[tensor] = nn.Parameter(new[tensor], tensor.requires_grad)
                if tensor is not None:
                    tensors[name] = new[tensor]  # type: ignore[assignment]


@contextmanager
def _needs_no_values(experiment: Experiment) -> Iterator[None]:
    """Raise ConfigError for whatever a network raises that looks at the values of tensors."""
    try:
        yield
    except KinerayError:
        raise
    except Exception as error:
        line = next((text.strip() for text in str(error).splitlines() if text.strip()), "")
        raise ConfigError(
            f"cannot be measured without values: {type(error).__name__}: {line}",
            code="not_measurable",
            key="model.type",
            value=experiment.model.type,
        ) from error


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records kernels, and how much memory the storages that they make take at most at a time."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """``known``: tensors that do not count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.peak = 0
        self._live = 0
        self._seen = {_storage(tensor) for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._watch(tensor)
        if not _is_view(func, taken, made) and "empty" not in func.__name__:
            counter = flop_registry.get(func._overloadpacket)
            flops = float(counter(*args, **kwargs, out_val=result)) if counter else 0.0
            tensors = {id(tensor): tensor for tensor in (*taken, *made)}.values()
            self.ops.append(Op(flops, _executed(func, args, flops), _bytes(tensors)))
        return result

    def _watch(self, tensor: Tensor) -> None:
        key = _storage(tensor)
        if key in self._seen:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self._seen.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size


def _is_view(func: Any, taken: Sequence[Tensor], made: Sequence[Tensor]) -> bool:
    """Whether an operator moves no data: what it returns is memory that it was given, and did not change."""
    given = {_storage(tensor) for tensor in taken}
    return not func._schema.is_mutable and all(_storage(tensor) in given for tensor in made)


def _storage(tensor: Tensor) -> int:
    """What tells a storage from all others that exist at the same time."""
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _executed(func: Any, args: tuple[Any, ...], flops: float) -> float:
    """The FLOPs of a convolution whose matrices are filled up to whole tiles; ``flops`` of anything else.

    Output channels and positions are the sides of the product of the forward pass, and the taps of the kernel
    its depth; the backward pass for the input exchanges input and output channels, and the one for the weight
    multiplies over the positions. Grouped convolutions have kernels of their own.
    """
    packet = func._overloadpacket
    if packet is torch.ops.aten.convolution and args[-1] == 1:
        outputs, inputs, *taps = args[1].shape
        return flops * _filling((outputs, _TILE), (inputs * math.prod(taps), _DEPTH))
    if packet is torch.ops.aten.convolution_backward and args[-2] == 1:
        outputs, inputs, *taps = args[2].shape
        size = math.prod(taps)
        fillings = (
            _filling((inputs, _TILE), (outputs * size, _DEPTH)),
            _filling((outputs, _TILE), (inputs * size, _TILE)),
        )
        wanted = [filling for filling, is_wanted in zip(fillings, args[-1][:2], strict=True) if is_wanted]
        return flops * sum(wanted) / max(len(wanted), 1)
    return flops


def _filling(*sides: tuple[int, int]) -> float:
    """How many times as large a matrix becomes if each of its sides is filled up to a multiple."""
    return math.prod(math.ceil(size / multiple) * multiple / size for size, multiple in sides)


def _note(ready: dict[nn.Parameter, float], recorder: _Recorder) -> Any:
    def note(parameter: nn.Parameter) -> None:
        ready[parameter] = len(recorder.ops)

    return note


def _reduced(
    buckets: Iterable[Sequence[nn.Parameter]], ready: Mapping[nn.Parameter, float], forward: int, end: int
) -> tuple[Bucket, ...]:
    """As ``GradientSynchroniser`` has them: with a flag for each gradient; those not reached come last."""
    reduced = []
    for bucket in buckets:
        trained = [parameter for parameter in bucket if parameter in ready]
        if trained:
            size = _bytes(trained) + len(trained) * trained[0].element_size()
            last = max(min(ready[parameter], end) for parameter in trained)
            reduced.append(Bucket(size, int(last) - forward))
    return tuple(reduced)


def states_of_optimizer(experiment: Experiment) -> int:
    """How many tensors of its size the optimizer keeps for a parameter, seen at its first step."""
    layer = nn.Linear(3, 2, bias=False)
    optimizer = build_optimizer(layer, experiment.optim)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    tensors = [leaf for leaf in tree_leaves(dict(optimizer.state)) if isinstance(leaf, Tensor)]
    return sum(tensor.shape == layer.weight.shape for tensor in tensors)
