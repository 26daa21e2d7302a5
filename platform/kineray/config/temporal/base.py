"""The base of the configurations of all temporal subsystems."""

from typing import TYPE_CHECKING

from kineray.config.variants import Variant

if TYPE_CHECKING:
    from kineray.models.temporal.base import Temporal


class TemporalSection(Variant, home="kineray.config.temporal"):
    """Base of every temporal subsystem's configuration."""

    def build(self, channels: int) -> "Temporal":
        """A new, randomly initialised subsystem for feature maps of ``channels`` channels.

        The class that ``builds`` names is called with ``channels`` and, as keywords, the fields of this
        configuration.
        """
        subsystem: Temporal = self.implementation()(channels, **self.model_dump(exclude={"type"}))
        return subsystem

    def check_frames(self, frames: int) -> None:
        """Raise ConfigError, with the key ``data.frames``, for clips that the subsystem cannot take."""
