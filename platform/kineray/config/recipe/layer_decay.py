"""Learning rates that fall from the last layers to the first."""

from typing import Annotated, ClassVar

from pydantic import Field

from kineray.config.fields import Names
from kineray.config.recipe.base import RecipePiece


class LayerDecayConfig(
    RecipePiece, type="layer_decay", builds="kineray.training.recipe.layer_decay.LayerDecay"
):
    """Every layer learns ``decay`` times as fast as the layer after it, the last one at the full rate.

    For fine-tuning (ULMFiT, arXiv 1801.06146, section 3.1; BEiT, arXiv 2106.08254). ``layers``: patterns of
    parameter names from input to output; the last one that matches a name decides, so a first ``*`` is for
    all that the others leave. The default is for networks with res2 to res5; others need their own.
    """

    names_parameters: ClassVar[bool] = True

    layers: Annotated[Names, Field(min_length=1)] = (
        "*",
        "*res2.*",
        "*res3.*",
        "*res4.*",
        "*res5.*",
        "*head.*",
    )
    decay: Annotated[float, Field(gt=0, le=1)] = 0.75
