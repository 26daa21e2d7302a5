"""Exponential moving average of the weights (Polyak and Juditsky, 1992)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kineray.config.recipe.ema import EmaConfig
from kineray.training.plan import Step
from kineray.training.recipe.base import Piece


class Ema(Piece):
    """Keeps an average of all parameters and batch-norm statistics, on the model's device."""

    gives_weights = True

    def __init__(self, config: EmaConfig) -> None:
        self._decay = config.decay
        self._average: dict[str, Tensor] = {}

    def begin(self, model: nn.Module) -> None:
        """Start the average from the model's initial weights."""
        self._average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: Step) -> None:
        """Move the average towards the weights."""
        steps = step.index + 1
        weight = 1 - min(self._decay, steps / (steps + 9))
        for name, value in model.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)  # counters

    def state(self) -> dict[str, Tensor]:
        """The average, under the model's names."""
        return dict(self._average)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved average."""
        for name, average in self._average.items():
            average.copy_(state[name])
