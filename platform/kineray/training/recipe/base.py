"""What a piece of a recipe may do."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from torch import Tensor, nn

from kineray.training.plan import Step

Group: TypeAlias = tuple[Tensor, dict[str, Tensor]]
"""Normalised clips of a batch-norm group, float32 [G, C, T, H, W], and their targets by head."""


class Piece:
    """Base of all pieces, which does nothing: a piece overrides what it needs.

    All workers call the same methods in the same order, with the same weights and, but for batches, the
    same values. A piece must not ask for its worker, micro-batch or any other random numbers than those
    that it is given: then the same weights come of any number of workers, and of a run that is resumed.
    """

    soft_targets: ClassVar[bool] = False
    """Whether targets must be float32 [G, classes] (``Task.soften``) for this piece."""
    gives_weights: ClassVar[bool] = False
    """Whether its state is a state dict of the model, which evaluates, exports and serves instead of it."""

    def __init__(self, config: Any) -> None:
        """``config``: the variant of ``RecipePiece`` that built it."""

    def begin(self, model: nn.Module) -> None:
        """Called once, before the first step: the model has the weights that it starts from."""

    def transform_group(
        self, clips_gcthw: Tensor, targets: dict[str, Tensor], rng: np.random.Generator
    ) -> Group:
        """Change one batch-norm group before the forward pass; nothing is to be changed in place.

        ``rng`` is a pure function of the experiment's seed, the step, the group's position in the global
        batch and the type of the piece.
        """
        return clips_gcthw, targets

    def transform_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Change the ``grad`` of the parameters that a step updates: the gradients of the whole batch."""

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Called after the update, batch-norm statistics included."""

    def state(self) -> dict[str, Tensor]:
        """What must be in a checkpoint besides the model and the optimizer, after ``begin``."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave, after ``begin``. Raises KeyError or RuntimeError if it does not
        fit."""
