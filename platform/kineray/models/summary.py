"""Parameters, multiply-adds and shapes of a network, measured by running it on the meta device."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kineray.models.blocks import GhostBatchNorm
from kineray.models.registry import build_model, find_preset

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]
CLASSES = 400  # default number of classes of the head that a preset is summarised with

_WEIGHTED = frozenset({"convolution", "_convolution", "mm", "addmm"})


@dataclass(frozen=True)
class Cost:
    """Multiply-adds.

    ``weighted``: in convolutions and linear layers, the number that papers quote. ``attention``: in products
    of two activations, as in non-local blocks and attention.
    """

    weighted: int = 0
    attention: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.weighted + other.weighted, self.attention + other.attention)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.weighted - other.weighted, self.attention - other.attention)


@dataclass(frozen=True)
class Part:
    """A module inside a network, by its dotted ``name``.

    ``outputs``: shapes of the tensors that it returns (in its last call, if it is called several times);
    empty if it only contains other parts. Several parts may share parameters.
    """

    name: str
    kind: str
    outputs: tuple[Shape, ...]
    parameters: int
    cost: Cost


@dataclass(frozen=True)
class Summary:
    """The costs of a whole network for one ``clip`` (channels, frames, height, width), in evaluation mode.

    ``parameters`` includes those that only training uses. ``parts``: its modules and their children.
    """

    clip: Shape
    parameters: int
    cost: Cost
    parts: tuple[Part, ...]


def summarise(
    model: str | nn.Module, clip: tuple[int, int, int, int] | None = None, *, classes: int = CLASSES
) -> Summary:
    """The costs of a preset, by name, or of a network.

    ``clip``: channels, frames, height and width [default: the preset's; required for a network].
    ``classes``: number of classes of the one head that a preset gets. Nothing is computed: the network runs
    on the meta device, and a given network is not changed. Raises ConfigError for an unknown name, or for
    clips that the network cannot take.
    """
    if isinstance(model, str):
        preset = find_preset(model)
        clip = clip or (preset.channels, preset.frames, preset.side, preset.side)
        with torch.device("meta"):
            network = build_model(preset.config, {"action": classes}, clip[0])
    elif clip is None:
        raise TypeError("summarise() of a network needs its clip: channels, frames, height, width")
    else:
        network = copy.deepcopy(model).to("meta")
    network.eval()
    for module in network.modules():
        if isinstance(
            module, GhostBatchNorm
        ):  # it takes most of the time on the meta device, and nothing in it is counted
            module.forward = torch.empty_like  # type: ignore[method-assign,assignment]
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which takes a second

    modules = dict(_two_levels(network))
    with FlopCounterMode(display=False) as counter:
        watch = _Watch(modules.values(), lambda: _cost(counter))
        with torch.no_grad(), torch.device("meta"):
            network(torch.empty(1, *clip))
        cost = _cost(counter)
    parts = tuple(
        Part(name, _kind(module), watch.outputs.get(module, ()), _parameters(module), watch.cost(module))
        for name, module in modules.items()
    )
    return Summary(clip, _parameters(network), cost, parts)


class _Watch:
    """Hooks that record what ``modules`` cost and the shapes that they return, while a network runs."""

    def __init__(self, modules: Iterable[nn.Module], cost_so_far: Callable[[], Cost]) -> None:
        self.costs: dict[nn.Module, Cost] = {}
        self.outputs: dict[nn.Module, tuple[Shape, ...]] = {}
        self._cost_so_far = cost_so_far
        self._begun: list[Cost] = []
        for module in modules:
            self._watch(module)

    def cost(self, module: nn.Module) -> Cost:
        """The cost of all calls of a module, or that of its children if the module itself is not called."""
        if module in self.outputs:
            return self.costs[module]
        return sum((self.cost(child) for child in module.children()), Cost())

    def _watch(self, module: nn.Module) -> None:
        if module in self.costs:
            return
        self.costs[module] = Cost()
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)
        for child in module.children():
            self._watch(child)

    def _begin(self, *_: object) -> None:
        self._begun.append(self._cost_so_far())

    def _end(self, module: nn.Module, _: object, output: object) -> None:
        self.costs[module] += self._cost_so_far() - self._begun.pop()
        self.outputs[module] = tuple(_shapes(output))


def _cost(counter: "FlopCounterMode") -> Cost:
    """The cost that ``counter`` has counted; it counts a multiply-add as two operations."""
    weighted = attention = 0
    for operator, operations in counter.flop_counts["Global"].items():
        if operator._qualified_op_name.rpartition("::")[2] in _WEIGHTED:
            weighted += operations // 2
        else:
            attention += operations // 2
    return Cost(weighted, attention)


def _two_levels(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in network.named_children():
        yield name, child
        for inner, grandchild in child.named_children():
            yield f"{name}.{inner}", grandchild


def _kind(module: nn.Module) -> str:
    """``Conv3d 1x7x7``: the class, and the size of its window if it has one."""
    size: Any = getattr(module, "kernel_size", None)
    window = "" if size is None else f" {'x'.join(map(str, size)) if isinstance(size, tuple) else size}"
    return type(module).__name__ + window


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _shapes(output: object) -> Iterator[Shape]:
    if isinstance(output, Tensor):
        yield tuple(output.shape)
    elif isinstance(output, dict):
        for value in output.values():
            yield from _shapes(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _shapes(value)
