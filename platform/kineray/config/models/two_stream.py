"""Two-stream networks."""

from typing import Literal

from kineray.config.models.base import ModelSection
from kineray.config.models.slowfast import SlowFastConfig
from kineray.config.models.stream import StreamConfig


class TwoStreamConfig(ModelSection):
    """A network for RGB and one for optical flow (Simonyan and Zisserman, arXiv 1406.2199).

    ``rgb`` and ``flow``: any other architectures, each with an ``init`` of its own. ``fusion``: average, the
    mean of the two streams' probabilities; linear, a classifier on both. ``mid``: a layer of both streams
    (``slow.res4``) whose features of flow also go into the RGB stream (Feichtenhofer et al., arXiv
    1604.06573); none, if it is empty. ``mid_fusion``: sum, they are added; conv, concatenated and mixed by a
    convolution of size 1.
    """

    type: Literal["two_stream"] = "two_stream"
    rgb: StreamConfig = SlowFastConfig()
    flow: StreamConfig = SlowFastConfig()
    fusion: Literal["average", "linear"] = "average"
    mid: str = ""
    mid_fusion: Literal["sum", "conv"] = "sum"

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ValueError for clips that one of the streams cannot take."""
        for name, stream in (("rgb", self.rgb), ("flow", self.flow)):
            try:
                stream.check_clip(frames, crop, eval_crop)
            except ValueError as error:
                raise ValueError(str(error).replace("model.", f"model.{name}.")) from None
