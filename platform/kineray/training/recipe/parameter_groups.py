"""Learning rate and weight decay by the names of parameters."""

from collections.abc import Mapping, Sequence

from kineray.config.recipe.parameter_groups import ParameterGroupsConfig
from kineray.training.optim import Factors
from kineray.training.recipe.base import Piece
from kineray.training.recipe.names import matching


class ParameterGroups(Piece):
    """Gives each parameter the factors of the last pattern that matches its name."""

    def __init__(self, config: ParameterGroupsConfig) -> None:
        self._config = config

    def factors(self, names: Sequence[str]) -> Mapping[str, Factors]:
        """The factors of the parameters that any pattern matches."""
        lr = _by_name(self._config.lr, names, "recipe.parameter_groups.lr")
        decay = _by_name(self._config.weight_decay, names, "recipe.parameter_groups.weight_decay")
        return {name: Factors(lr.get(name, 1.0), decay.get(name, 1.0)) for name in lr | decay}


def _by_name(given: Sequence[str], names: Sequence[str], key: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for pattern, _, factor in (value.rpartition(":") for value in given):
        found |= dict.fromkeys(matching(pattern, names, key), float(factor))
    return found
