"""Learning rates and weight decays of their own for some parameters."""

from typing import ClassVar

from kineray.config.fields import PatternFactors
from kineray.config.recipe.base import RecipePiece


class ParameterGroupsConfig(
    RecipePiece,
    type="parameter_groups",
    builds="kineray.training.recipe.parameter_groups.ParameterGroups",
):
    """Multiplies learning rate and weight decay of parameters by their names: ``lr=head.*:10,*.stem.*:0.1``.

    ``lr`` and ``weight_decay`` are PATTERN:FACTOR, where ``*`` stands for any characters. The last pattern
    that matches a name decides. By default no bias is decayed (He et al., arXiv 1812.01187, section 3.1).
    """

    names_parameters: ClassVar[bool] = True

    lr: PatternFactors = ()
    weight_decay: PatternFactors = ("*.bias:0",)
