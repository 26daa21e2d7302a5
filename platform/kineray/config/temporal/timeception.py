"""Timeception layers."""

from kineray.config.clip_checks import wrong_clip
from kineray.config.domains import Choice
from kineray.config.fields import PositiveInt
from kineray.config.temporal.base import TemporalSection


class TimeceptionConfig(
    TemporalSection,
    type="timeception",
    builds="kineray.models.temporal.timeception.Timeception",
    space={"dilated": Choice(False, True)},
):
    """Timeception layers (arXiv 1812.01289), each of which halves the number of frames.

    ``groups``: number of channel groups, which are convolved separately. The temporal scales are kernels of
    3, 5 and 7 frames or, if ``dilated``, kernels of 3 frames with dilations of 1, 2 and 3.
    """

    layers: PositiveInt = 4
    groups: PositiveInt = 8
    dilated: bool = False

    def check_frames(self, frames: int) -> None:
        """Raise ConfigError unless at least one frame is left after the last layer."""
        if frames < 2**self.layers:
            raise wrong_clip(
                "frames",
                frames,
                f"{self.layers} Timeception layers need at least {2**self.layers} frames",
                "give more frames, or fewer layers in model.temporal.layers",
            )
