"""The base class of the pieces of a recipe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from torch import Tensor, nn

from kineray.training.optim import Factors
from kineray.training.plan import Step

Group: TypeAlias = tuple[Tensor, dict[str, Tensor]]
"""Normalised clips of a batch-norm group, float32 [G, C, T, H, W], and their targets by head."""


class Piece:
    """Base of all pieces, which changes nothing: a piece overrides the methods that it needs.

    All workers call the same methods in the same order, with the same weights and, except for batches, the
    same values. A piece must not depend on its worker or micro-batch, and must take random numbers only from
    the generator that it is given: then any number of workers, and a resumed run, give the same weights.
    """

    soft_targets: ClassVar[bool] = False
    """Whether targets must be float32 [G, classes] (``Task.soften``) for this piece."""
    changes_clips: ClassVar[bool] = True
    """Whether ``transform_group``, if a piece has one, changes more than the targets."""
    one_of: ClassVar[str] = ""
    """Of the pieces with the same value here, each group is given to one, with equal probability."""
    gives_weights: ClassVar[bool] = False
    """Whether its state is a state dict of the model, with the weights that evaluate, export and serve."""

    def __init__(self, config: Any) -> None:
        """``config``: the variant of ``RecipePiece`` that built it."""

    def factors(self, names: Sequence[str]) -> Mapping[str, Factors]:
        """Factors of learning rate and weight decay of some parameters, of all those that the model has.

        Called once, before ``begin``. Where several pieces have factors for a parameter they are multiplied.
        Raises ConfigError if the piece names a parameter that is not among them.
        """
        return {}

    def begin(self, model: nn.Module) -> None:
        """Called once, before the first step, when the model has its initial weights."""

    def transform_group(
        self, clips_gcthw: Tensor, targets: dict[str, Tensor], rng: np.random.Generator
    ) -> Group:
        """Change one batch-norm group before the forward pass, but not in place.

        ``rng`` is a pure function of the experiment's seed, the step, the group's position in the global
        batch and the type of the piece.
        """
        return clips_gcthw, targets

    def transform_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Change the ``grad`` of the parameters that a step updates: gradients of the global batch."""

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Called after the update, batch-norm statistics included."""

    def before_validation(
        self, model: nn.Module, passes: Iterator[None], sum_: Callable[[Tensor], None]
    ) -> None:
        """Called before every validation if the configuration asks for ``batches_before_validation``.

        ``model`` has the weights that evaluate, which are validated and saved as this method leaves them.
        ``passes`` makes, for each item, the forward pass of this worker's share of a global batch, in
        training mode. ``sum_`` sums a tensor in place over all workers.
        """

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint must hold for this piece; called after ``begin``."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what ``state`` returned; called after ``begin``.

        Raises KeyError or RuntimeError if it does not fit.
        """
