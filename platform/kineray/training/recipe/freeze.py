"""Freezing by name, and gradual unfreezing (ULMFiT, arXiv 1801.06146, section 3.3)."""

from collections.abc import Mapping, Sequence

from kineray.config.recipe.freeze import FreezeConfig
from kineray.training.optim import Factors
from kineray.training.recipe.base import Piece
from kineray.training.recipe.names import matching


class Freeze(Piece):
    """Checks the patterns; what a step trains is part of the plan (``FreezeConfig.trained``)."""

    def __init__(self, config: FreezeConfig) -> None:
        self._config = config

    def factors(self, names: Sequence[str]) -> Mapping[str, Factors]:
        """None. Raises ConfigError for a pattern that matches no parameter."""
        for field in ("parameters", "but"):
            for pattern in getattr(self._config, field):
                matching(pattern, names, f"recipe.freeze.{field}")
        return {}
