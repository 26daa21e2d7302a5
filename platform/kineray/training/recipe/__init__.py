"""What surrounds a training step besides loss and optimizer: one technique in each file, and their order."""

from kineray.training.recipe.base import Group, Piece
from kineray.training.recipe.recipe import Recipe

__all__ = ["Group", "Piece", "Recipe"]
