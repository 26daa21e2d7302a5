"""Checks of an architecture's ``check_clip``: clips that a network cannot take."""

from kineray.errors import ConfigError


def wrong_clip(key: str, value: int, problem: str, remedy: str = "") -> ConfigError:
    """The error for clips that a network cannot take because ``data.{key}`` is ``value``."""
    return ConfigError(problem, code="wrong_shape", key=f"data.{key}", value=value, remedy=remedy)


def check_sides(crop: int, eval_crop: int, smallest: int, problem: str) -> None:
    """Raise ConfigError for clips with a side of less than ``smallest`` pixels."""
    for key, side in (("crop", crop), ("eval_crop", eval_crop)):
        if side < smallest:
            raise wrong_clip(key, side, problem, f"give at least {smallest} pixels")
