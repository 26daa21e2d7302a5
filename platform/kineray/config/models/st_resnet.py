"""Spatio-temporal residual networks."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from kineray.config.clip_checks import wrong_clip
from kineray.config.fields import Ints
from kineray.config.models.base import ModelSection

Position = Literal["5_11", "49_55", "86_92", "98_104"]
POSITIONS: tuple[Position, ...] = ("5_11", "49_55", "86_92", "98_104")


class STResNetConfig(ModelSection, type="st_resnet", builds="kineray.models.st_resnet.STResNet"):
    """ResNet-50 with temporal skip connections (Iqbal et al., arXiv 1706.08807); the defaults are its best.

    A connection adds the output of a layer at earlier frames to that of a later layer at frame t.
    ``position``: the source's numbers of the two layers (see ``kineray.models.st_resnet``):

        5_11    layer1.0.bn1           -> layer1.1.bn1
        49_55   layer3.0.downsample.1  -> layer3.0.bn3
        86_92   layer4.0.downsample.0  -> layer4.0.conv3
        98_104  layer4.1.conv3         -> layer4.2.conv3

    ``connection``: what it applies on the way: nothing, a 1 x 1 convolution, or that and a ReLU.
    ``connections``: how many there are: the last at ``position``, the others at the positions above it in
    this table. ``delays``: which earlier frames are added: 1 for frame t - 1; 2 for frame t - 2 instead;
    1,2 for both. The network reads the last 1 + connections x (largest delay) frames of a clip.
    """

    position: Position = "98_104"
    connection: Literal["identity", "conv", "conv_relu"] = "identity"
    connections: Annotated[int, Field(ge=1, le=len(POSITIONS))] = 1
    delays: Ints = (1,)

    @property
    def positions(self) -> tuple[Position, ...]:
        """Positions of the connections, in the order of the layers."""
        last = POSITIONS.index(self.position) + 1
        return POSITIONS[last - self.connections : last]

    @property
    def context(self) -> int:
        """How many frames at the end of a clip decide the result."""
        return 1 + self.connections * max(self.delays)

    @field_validator("delays")
    @classmethod
    def _delays_are_known(cls, delays: tuple[int, ...]) -> tuple[int, ...]:
        if delays not in {(1,), (2,), (1, 2)}:
            raise ValueError("give 1, 2 or 1,2")
        return delays

    @model_validator(mode="after")
    def _positions_suffice(self) -> Self:
        available = POSITIONS.index(self.position) + 1
        if self.connections > available:
            raise ValueError(
                f"connections {self.connections} is more than the {available} positions up to {self.position}"
            )
        return self

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for clips that are shorter than the temporal context."""
        if frames < self.context:
            raise wrong_clip(
                "frames", frames, "shorter than the temporal context", f"give at least {self.context} frames"
            )
