"""What the configurations of all pieces of a recipe have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kineray.config.variants import Variant

if TYPE_CHECKING:
    from kineray.training.recipe import Piece


class RecipePiece(Variant, home="kineray.config.recipe"):
    """Base of what changes a training step besides loss and optimizer: ``recipe.<type>.<field>``.

    ``order`` is a class attribute: of several pieces, those with a lower order come first.
    """

    names_parameters: ClassVar[bool] = False
    """Whether fields name parameters of the network: whether it has them is checked before a run starts."""

    def trained(self, epoch: int) -> tuple[str, ...]:
        """Patterns for ``Step.trained`` in an epoch, from 0 on: they follow ``*``, and those of other pieces.

        A piece that freezes parameters overrides it.
        """
        return ()

    def stops(self, scores: Sequence[float]) -> bool:
        """Whether the run ends after validations with these scores (0 to 1, the oldest first).

        A piece that ends runs before ``train.epochs`` overrides it.
        """
        return False

    def build(self) -> "Piece":
        """A new piece, still without state."""
        piece: Piece = self.implementation()(self)
        return piece
