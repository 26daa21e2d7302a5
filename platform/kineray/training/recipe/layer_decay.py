"""Layer-wise decay of the learning rate (ULMFiT, arXiv 1801.06146, section 3.1)."""

from collections.abc import Mapping, Sequence

from kineray.config.recipe.layer_decay import LayerDecayConfig
from kineray.errors import ConfigError
from kineray.training.optim import Factors
from kineray.training.recipe.base import Piece
from kineray.training.recipe.names import matching

KEY = "recipe.layer_decay.layers"


class LayerDecay(Piece):
    """Gives layer l of L a learning rate that is multiplied by ``decay`` to the power of L - l."""

    def __init__(self, config: LayerDecayConfig) -> None:
        self._layers, self._decay = config.layers, config.decay

    def factors(self, names: Sequence[str]) -> Mapping[str, Factors]:
        """The factors of all parameters. Raises ConfigError if one is in no layer."""
        found: dict[str, Factors] = {}
        for above, pattern in reversed(list(enumerate(reversed(self._layers)))):
            found |= dict.fromkeys(matching(pattern, names, KEY), Factors(lr=self._decay**above))
        if left := [name for name in names if name not in found]:
            raise ConfigError(
                f"{len(left)} parameters are in none of the layers, such as {left[0]}",
                code="in_no_layer",
                key=KEY,
                value=",".join(self._layers),
                remedy="name them too; a first pattern * is for all that the others leave",
            )
        return found
