"""What the sections of an experiment are made of: their base and the types of their fields."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kineray.config.problems import bad_value


def split_commas(value: object) -> object:
    """``"1,2,3"`` -> ``["1", "2", "3"]``: how a sequence is written on a command line."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return value


def _odd(value: int) -> int:
    # The convolutions pad by half their size, which keeps the number of frames only for odd sizes.
    if value % 2 == 0:
        raise ValueError(f"{value} is even; the size of a kernel must be odd")
    return value


def _factors(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        pattern, _, factor = value.rpartition(":")
        try:
            valid = bool(pattern) and 0 <= float(factor) < float("inf")
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(f"{value} is not PATTERN:FACTOR, as in head.*:10")
    return values


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"must be low,high; got {value[0]:g},{value[1]:g}")
    return value


def _none_is_a_name(value: object) -> object:
    """``None`` -> ``"none"``: on a command line none clears an optional field, here it is a choice."""
    return "none" if value is None else value


def _none_is_empty(value: object) -> object:
    """``None`` -> ``""``: no name."""
    return "" if value is None else value


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
KernelSize = Annotated[int, Field(gt=0), AfterValidator(_odd)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
Ints = Annotated[tuple[int, ...], BeforeValidator(split_commas)]
PositiveInts4 = Annotated[
    tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt], BeforeValidator(split_commas)
]
BlockCounts = Annotated[
    tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt], BeforeValidator(split_commas)
]
KernelSizes = Annotated[tuple[KernelSize, KernelSize, KernelSize, KernelSize], BeforeValidator(split_commas)]
SideRange = Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(split_commas)]
PositiveInts = Annotated[tuple[PositiveInt, ...], BeforeValidator(split_commas)]
Floats = Annotated[tuple[FiniteFloat, ...], BeforeValidator(split_commas)]
NameOrNone = Annotated[str, BeforeValidator(_none_is_empty)]
Names = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
NamesOrNone = Annotated[tuple[str, ...], BeforeValidator(lambda value: split_commas(value or ""))]
PatternFactors = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: split_commas(value or "")), AfterValidator(_factors)
]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FramesPerSecond = Annotated[float, Field(ge=0.01, allow_inf_nan=False)]
PositiveRange = Annotated[
    tuple[PositiveFloat, PositiveFloat], BeforeValidator(split_commas), AfterValidator(_rising)
]
Share = Annotated[float, Field(ge=0, le=1)]
AreaRange = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]],
    BeforeValidator(split_commas),
    AfterValidator(_rising),
]
Probability = Annotated[float, Field(ge=0, lt=1)]
Sampling = Literal["dense", "uniform", "segments", "sequences"]
Sequences = Literal["one", "all"]
Modality = Literal["rgb", "flow", "flow_stack", "rgb_flow", "rgb_flow_stack"]
Labels = Literal["single", "multiple", "any"]
Balance = Annotated[Literal["none", "sqrt", "class"], BeforeValidator(_none_is_a_name)]
ZNorm = Annotated[Literal["none", "per_dimension", "per_frame"], BeforeValidator(_none_is_a_name)]


class Section(BaseModel):
    """Base of every part of an experiment: frozen, and strict about unknown keys.

    A section that is made in Python with a bad value raises ConfigError, whose key is ``Class.field``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers know the fields

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                kind = type(self)
                raise bad_value(error, {}, (kind.__name__,), kind.model_fields) from None

        # Sections inside others are validated without calling it, so that an error has its whole path.
        __init__.__pydantic_base_init__ = True
