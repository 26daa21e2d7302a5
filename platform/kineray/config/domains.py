"""Domains: the values that a key takes in a search."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Uniform:
    """Real numbers between ``low`` and ``high``."""

    low: float
    high: float


@dataclass(frozen=True)
class LogUniform:
    """Real numbers between ``low`` and ``high``, uniform in their logarithm: for learning rates."""

    low: float
    high: float


@dataclass(frozen=True)
class Integers:
    """The integers ``low``, ``low + step``, ... up to and including ``high``.

    ``log``: uniform in their logarithm, with a ``step`` of 1.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False


@dataclass(frozen=True, init=False)
class Choice:
    """One of ``values``: ``Choice(4, 8)``.

    A mapping gives each value a space of its own, which is searched only where the value is chosen:
    ``Choice({"lstm": {"model.temporal.units": Choice(64, 256)}, "average": {}})``. Without it, the types of a
    variant (``model.temporal.type``) have the variants' default spaces. ``ordered``: the values are steps of
    one scale, so neighbours are alike.
    """

    values: tuple[Scalar, ...]
    spaces: Mapping[Scalar, "SearchSpace"] = field(hash=False)
    ordered: bool

    def __init__(self, *values: Scalar | Mapping[Scalar, "SearchSpace"], ordered: bool = False) -> None:
        spaces: dict[Scalar, SearchSpace] = {}
        plain: list[Scalar] = []
        for value in values:
            if isinstance(value, Mapping):
                spaces.update(value)
                plain.extend(value)
            else:
                plain.append(value)
        object.__setattr__(self, "values", tuple(plain))
        object.__setattr__(self, "spaces", spaces)
        object.__setattr__(self, "ordered", ordered)


Domain = Uniform | LogUniform | Integers | Choice
SearchSpace: TypeAlias = Mapping[str, Domain]
