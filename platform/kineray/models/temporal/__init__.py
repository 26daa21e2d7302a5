"""Temporal subsystems, one file each: they turn the feature maps of frames into features of the clip."""

from kineray.models.temporal.base import Temporal

__all__ = ["Temporal"]
