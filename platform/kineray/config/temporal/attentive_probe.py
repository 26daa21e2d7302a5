"""An attentive probe: learned queries that attend to the features of all frames."""

from typing import Literal, Self

from pydantic import model_validator

from kineray.config.domains import Choice
from kineray.config.fields import PositiveInt
from kineray.config.temporal.base import TemporalSection


class AttentiveProbeConfig(
    TemporalSection,
    type="attentive_probe",
    builds="kineray.models.temporal.attentive_probe.AttentiveProbe",
    space={"width": Choice(128, 256, 512, ordered=True), "queries": Choice(1, 2, 4, ordered=True)},
):
    """The attentive probe of V-JEPA (Bardes et al., arXiv 2404.08471): one layer of cross-attention.

    ``tokens``: what the queries attend to: every position of the frames' feature maps, or whole frames, the
    means over their maps. ``width``: channels of a token, a multiple of 8 and of ``attention_heads``.
    ``queries``: number of learned queries, whose outputs are concatenated.
    """

    tokens: Literal["positions", "frames"] = "positions"
    width: PositiveInt = 512
    attention_heads: PositiveInt = 8
    queries: PositiveInt = 1

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        # A quarter of the channels, sines and cosines, encodes the row.
        if self.width % 8 or self.width % self.attention_heads:
            raise ValueError(
                f"width {self.width} is not a multiple of 8 and of attention_heads {self.attention_heads}"
            )
        return self
