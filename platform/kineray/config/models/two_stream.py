"""Two-stream networks."""

from typing import Literal, Self

from pydantic import model_validator

from kineray.config.models.base import ModelSection
from kineray.config.models.slowfast import SlowFastConfig
from kineray.errors import ConfigError


class TwoStreamConfig(ModelSection, type="two_stream", builds="kineray.models.two_stream.TwoStream"):
    """A network for RGB and one for optical flow (Simonyan and Zisserman, arXiv 1406.2199).

    ``rgb`` and ``flow``: any other architectures, each with its ``init``. ``fusion``: average, the mean of
    the two streams' probabilities; or linear, a classifier on both. ``mid``: a layer that both streams have
    (``slow.res4``); its flow features are also fed into the RGB stream (Feichtenhofer et al., arXiv
    1604.06573); empty for none. ``mid_fusion``: sum, they are added; or conv, concatenated and mixed by a
    convolution of size 1.
    """

    rgb: ModelSection = SlowFastConfig()
    flow: ModelSection = SlowFastConfig()
    fusion: Literal["average", "linear"] = "average"
    mid: str = ""
    mid_fusion: Literal["sum", "conv"] = "sum"

    @model_validator(mode="after")
    def _streams_are_single(self) -> Self:
        for name, stream in (("rgb", self.rgb), ("flow", self.flow)):
            if stream.type == self.type:
                raise ValueError(f"{name}.type={self.type}: a stream cannot be a two-stream network itself")
        return self

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for clips that one of the streams cannot take."""
        for name, stream in (("rgb", self.rgb), ("flow", self.flow)):
            try:
                stream.check_clip(frames, crop, eval_crop)
            except ConfigError as error:
                problem, remedy = (
                    text.replace("model.", f"model.{name}.") for text in (error.problem, error.remedy)
                )
                raise ConfigError(
                    problem, code=error.code, key=error.key, value=error.value, remedy=remedy
                ) from None

    def check_channels(self, channels: int) -> None:
        """Raise ConfigError unless clips have RGB, whose 3 channels come first, and flow."""
        if channels <= 3:
            raise ConfigError(
                f"clips of {channels} channels, and model.type={self.type} needs RGB and flow",
                code="wrong_shape",
                key="data.modality",
                remedy="set data.modality=rgb_flow",
            )

    @property
    def names_layers(self) -> bool:
        """Whether streams are also fused at a layer, or a stream names one."""
        return bool(self.mid) or super().names_layers
