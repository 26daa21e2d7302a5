"""Temporal convolutions."""

from kineray.config.clip_checks import wrong_clip
from kineray.config.temporal.base import TemporalSection


class Conv1dConfig(TemporalSection, type="conv1d", builds="kineray.models.temporal.conv1d.Conv1d"):
    """Nine temporal convolutions without padding, which reduce exactly 20 frames to one position."""

    def check_frames(self, frames: int) -> None:
        """Raise ConfigError unless there are 20 frames."""
        if frames != 20:
            raise wrong_clip("frames", frames, "model.temporal.type=conv1d takes exactly 20 frames")
