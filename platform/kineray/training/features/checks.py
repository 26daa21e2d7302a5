"""Which experiments can be trained on cached features. Needs no torch."""

from kineray.config import Experiment
from kineray.errors import ConfigError


def check_cacheable(experiment: Experiment) -> None:
    """Raise ConfigError (``not_cacheable``), with the key that is in the way, if clips or backbone change.

    Pieces of the recipe that change clips after decoding are found by ``check_pieces``.
    """
    if experiment.model.frozen_part() is None:
        kind = experiment.model.type
        raise not_cacheable(
            f"all of model.type={kind} is trained, so its features change with every step",
            key="model.frozen" if "frozen" in type(experiment.model).model_fields else "model.type",
            remedy="train a temporal subsystem on a frozen backbone: model.type=frame model.frozen=true",
        )
    if experiment.data.drawn_views is None:
        raise not_cacheable(
            "each epoch draws new clips of the samples",
            key="data.drawn_views",
            remedy="set data.drawn_views to a number of clips of a sample that epochs take in turns, or to 0 "
            "for the clip of evaluation",
        )
    for name, piece in experiment.recipe.items():
        if piece.clip_sizes(experiment.data):
            raise not_cacheable(
                "clips have other sizes in some steps",
                key=f"recipe.{name}",
                remedy=f"set recipe.{name}=off",
            )


def check_pieces(changing: list[str]) -> None:
    """Raise ConfigError (``not_cacheable``) if there are pieces of the recipe that change clips.

    ``changing``: their names (``Recipe.changes_clips``).
    """
    for name in changing:
        raise not_cacheable(
            "changes clips before the backbone sees them",
            key=f"recipe.{name}",
            remedy=f"set recipe.{name}=off",
        )


def not_cacheable(problem: str, *, key: str, remedy: str) -> ConfigError:
    """The error of an experiment that needs its backbone in every step."""
    return ConfigError(
        problem, code="not_cacheable", key=key, remedy=f"{remedy}; or leave out `cache_features`"
    )
