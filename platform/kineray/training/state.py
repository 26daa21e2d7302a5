"""All that a run continues from, as one value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from kineray.config import Experiment


@dataclass(frozen=True)
class TrainingState:
    """What a run continues from.

    ``weights``: the model's. ``optimizer``: its ``state_dict()``. ``pieces``: the states of the recipe's
    pieces (``Recipe.states``). ``state``: the content of state.json.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    pieces: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    experiment: Experiment

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: Optimizer,
        experiment: Experiment,
        state: dict[str, Any],
        pieces: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> "TrainingState":
        """The state as it is now; the next step changes its tensors."""
        own = {name: dict(piece) for name, piece in (pieces or {}).items()}
        return cls(dict(model.state_dict()), optimizer.state_dict(), own, state, experiment)

    def copied(self) -> "TrainingState":
        """The same with tensors in memory of their own, on the CPU."""
        return self.mapped(lambda tensor: tensor.detach().to("cpu", copy=True))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "TrainingState":
        """The same with another tensor in the place of each one, in a fixed order."""
        return replace(
            self,
            weights=_mapped(self.weights, change),
            optimizer=_mapped(self.optimizer, change),
            pieces=_mapped(self.pieces, change),
        )


def _mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_mapped(value, change) for value in tree)
    return tree
