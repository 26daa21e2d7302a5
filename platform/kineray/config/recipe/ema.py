"""Exponential moving average of the weights."""

from kineray.config.fields import Probability
from kineray.config.recipe.base import RecipePiece


class EmaConfig(RecipePiece, type="ema", builds="kineray.training.recipe.ema.Ema"):
    """The weights that validate, evaluate, export and serve are a moving average over the steps.

    After step n (from 1 on) the average moves towards the weights by 1 - min(``decay``, n / (n + 9)), so
    that early steps, whose weights are poor, are soon forgotten (as in TensorFlow's ``num_updates``). The
    statistics of batch norms are averaged alike.
    """

    decay: Probability = 0.9999
