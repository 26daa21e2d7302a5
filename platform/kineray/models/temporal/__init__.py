"""Temporal subsystems: what makes features of a clip of the feature maps of its frames. One file for each."""

from kineray.models.temporal.base import Temporal

__all__ = ["Temporal"]
