"""A list of temporal layers, for searches over architectures."""

from typing import Literal, Self

from pydantic import model_validator

from kineray.config.domains import Choice, SearchSpace
from kineray.config.fields import PositiveInt
from kineray.config.temporal.base import TemporalSection

Layer = Literal["none", "conv", "dilated_conv", "residual", "gru", "attention", "pool"]
Kernel = Literal[3, 5, 7, 9]

_KERNELS = Choice(3, 5, 7, 9, ordered=True)


def _space() -> SearchSpace:
    """Six places, of which each may be empty; a length where the layer has one."""
    found: dict[str, Choice] = {"width": Choice(64, 128, 256, ordered=True)}
    for place in range(1, 7):
        kernel = {f"kernel_{place}": _KERNELS}
        found[f"layer_{place}"] = Choice(
            {
                "none": {},
                "conv": kernel,
                "dilated_conv": kernel,
                "residual": kernel,
                "gru": {},
                "attention": {},
                "pool": {},
            }
        )
    return found


class LayersConfig(
    TemporalSection, type="layers", builds="kineray.models.temporal.layers.Layers", space=_space()
):
    """Up to six temporal layers over the frames' features, then their mean over time.

    The features are first projected to ``width`` channels, which every layer keeps. ``layer_1`` to
    ``layer_6``: ``conv`` (with batch norm and ReLU), ``dilated_conv`` (the same with a dilation of 2),
    ``residual`` (the input plus a convolution of it), ``gru`` (its states), ``attention`` (the input plus its
    self-attention with four heads), ``pool`` (the maximum of each two frames), or ``none``. ``kernel_1`` to
    ``kernel_6``: frames of the kernel of a convolution.
    """

    width: PositiveInt = 128
    layer_1: Layer = "conv"
    kernel_1: Kernel = 3
    layer_2: Layer = "none"
    kernel_2: Kernel = 3
    layer_3: Layer = "none"
    kernel_3: Kernel = 3
    layer_4: Layer = "none"
    kernel_4: Kernel = 3
    layer_5: Layer = "none"
    kernel_5: Kernel = 3
    layer_6: Layer = "none"
    kernel_6: Kernel = 3

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.width % 4 and "attention" in dict(self.layers):
            raise ValueError(f"width {self.width} is not a multiple of the four heads of attention")
        return self

    @property
    def layers(self) -> tuple[tuple[Layer, Kernel], ...]:
        """The layers that there are, in order, with their kernels."""
        places = range(1, 7)
        found = [(getattr(self, f"layer_{n}"), getattr(self, f"kernel_{n}")) for n in places]
        return tuple(pair for pair in found if pair[0] != "none")
