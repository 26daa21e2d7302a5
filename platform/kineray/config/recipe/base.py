"""What the configurations of all pieces of a recipe have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kineray.config.variants import Variant

if TYPE_CHECKING:
    from kineray.config.data import DataConfig
    from kineray.config.schema import Experiment
    from kineray.training import StepPlan
    from kineray.training.recipe import Piece


class RecipePiece(Variant, home="kineray.config.recipe"):
    """Base of what changes a training step besides loss and optimizer: ``recipe.<type>.<field>``.

    ``order`` is a class attribute: of several pieces, those with a lower order come first.
    """

    names_parameters: ClassVar[bool] = False
    """Whether fields name parameters of the network: whether it has them is checked before a run starts."""

    def check(self, experiment: "Experiment") -> None:
        """Raise ConfigError if the piece does not go with the rest of an experiment."""

    def plan(self, experiment: "Experiment", samples: int) -> "StepPlan | None":
        """The plan of a run on ``samples`` training samples; None: the usual one.

        A piece that changes the batch or the clips of steps overrides it, ``clip_sizes`` and, if its runs
        have another number of epochs, ``epochs``.
        """
        return None

    def epochs(self, epochs: int) -> int:
        """The epochs of a run for which ``train.epochs`` are asked."""
        return epochs

    def clip_sizes(self, data: "DataConfig") -> list[tuple[int, int]]:
        """Frames and side of training clips, besides ``data.frames`` and ``data.crop``."""
        return []

    def trained(self, epoch: int) -> tuple[str, ...]:
        """Patterns for ``Step.trained`` in an epoch, from 0 on: they follow ``*``, and those of other pieces.

        A piece that freezes parameters overrides it.
        """
        return ()

    @property
    def batches_before_validation(self) -> int:
        """How many global batches of the next epoch ``Piece.before_validation`` sees, at most all of them."""
        return 0

    def stops(self, scores: Sequence[float]) -> bool:
        """Whether the run ends after validations with these scores (0 to 1, the oldest first).

        A piece that ends runs before ``train.epochs`` overrides it.
        """
        return False

    def build(self) -> "Piece":
        """A new piece, still without state."""
        piece: Piece = self.implementation()(self)
        return piece
