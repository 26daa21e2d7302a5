"""Clips that a network cannot take."""

from torch import Tensor

from kineray.config import ModelSection
from kineray.errors import ConfigError


def check_shape(config: ModelSection, clips_bcthw: Tensor) -> None:
    """Raise ConfigError, as ``config.check_clip`` words it, for clips of a wrong size."""
    frames, height, width = clips_bcthw.shape[2:]
    try:
        config.check_clip(frames, height, width)
    except ValueError as error:
        raise ConfigError(str(error)) from None
