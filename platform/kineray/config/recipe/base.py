"""What the configurations of all pieces of a recipe have in common."""

from kineray.config.variants import Variant


class RecipePiece(Variant, home="kineray.config.recipe"):
    """Base of what changes a training step besides loss and optimizer: ``recipe.<type>.<field>``."""
