"""Parameters that are not trained, or not from the start."""

from typing import ClassVar, Self

from pydantic import model_validator

from kineray.config.fields import Ints, Names, NamesOrNone
from kineray.config.recipe.base import RecipePiece


class FreezeConfig(RecipePiece, type="freeze", builds="kineray.training.recipe.freeze.Freeze"):
    """Parameters whose names match one of the patterns ``parameters``, and none of ``but``, are not trained.

    By default only heads are. ``until``: one epoch for each pattern, from which on it freezes nothing more:
    ``parameters=*stem.*,*res2.*,*res3.* until=3,2,1`` unfreezes gradually, the last layers first (ULMFiT,
    arXiv 1801.06146, section 3.3). Without it they are frozen to the end. The batch norms of frozen layers
    still normalise by the batch, and keep its statistics.
    """

    names_parameters: ClassVar[bool] = True

    parameters: Names = ("*",)
    but: NamesOrNone = ("*head.*",)
    until: Ints = ()

    @model_validator(mode="after")
    def _one_epoch_each(self) -> Self:
        if self.until and len(self.until) != len(self.parameters):
            raise ValueError(
                f"until has {len(self.until)} epochs for {len(self.parameters)} patterns of parameters"
            )
        return self

    def trained(self, epoch: int) -> tuple[str, ...]:
        """All but what is frozen in this epoch."""
        ends = self.until or (epoch + 1,) * len(self.parameters)
        frozen = [f"!{name}" for name, end in zip(self.parameters, ends, strict=True) if epoch < end]
        return (*frozen, *self.but) if frozen else ()
