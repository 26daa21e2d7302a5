"""Techniques that change a training step, besides loss and optimizer: each in one file."""

from kineray.training.recipe.base import Group, Piece
from kineray.training.recipe.recipe import Recipe

__all__ = ["Group", "Piece", "Recipe"]
