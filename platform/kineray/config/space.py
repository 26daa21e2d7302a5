"""Search spaces, written in an experiment's own dotted keys."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kineray.config.overrides import apply_overrides, leaf_keys
from kineray.config.schema import Experiment
from kineray.errors import ConfigError

Scalar = bool | int | float | str

LONGEST_TRIAL_NAME = 120  # characters; file systems allow 255 bytes
_HASH = 8  # hexadecimal digits at the end of a name that does not say everything
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.,=+-]")

_MOST_COMBINATIONS = 1000
_EXAMPLE = "{'optim.lr': LogUniform(0.01, 1)}"
_DOMAINS = "Choice(4, 8), Uniform(0.8, 0.99) or LogUniform(0.01, 1)"


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
class Choice:
    """One of ``values``."""

    values: tuple[Scalar, ...]

    def __init__(self, *values: Scalar) -> None:
        object.__setattr__(self, "values", values)


Domain = Uniform | LogUniform | Choice
SearchSpace = Mapping[str, Domain]


def check_space(experiment: Experiment, space: SearchSpace, fixed: Iterable[str] = ()) -> None:
    """Raise ConfigError if a point of ``space`` is found that is not a valid experiment.

    The points are combinations of all choices and, for every range, its ends and a number between them that
    is not whole. If there are at most 1000 of them, all are applied to ``experiment``, which finds values
    that do not go together; of a larger space, only those that differ from the first in a single key.
    ``fixed``: keys that overrides set; a key cannot be both set and searched.
    """
    if not isinstance(space, Mapping):
        raise ConfigError(
            f"a search space cannot be a {type(space).__name__}",
            code="not_a_space",
            key="space",
            remedy=f"give a mapping from key to domain, such as {_EXAMPLE}",
        )
    if not space:
        raise ConfigError(
            "the search space is empty",
            code="not_a_space",
            key="space",
            remedy=f"name at least one key, as in {_EXAMPLE}",
        )
    for key, domain in space.items():
        if not isinstance(key, str):
            raise ConfigError(
                f"{key!r} is not the key of a field",
                code="not_a_space",
                key="space",
                remedy=f"write dotted keys, as in {_EXAMPLE}",
            )
        if not isinstance(domain, Domain):
            raise _bad_domain(key, f"{domain!r} is not a domain", f"write {_DOMAINS}")
    if "data.manifest" in space:
        raise ConfigError(
            "scores on different videos cannot be compared",
            code="not_searchable",
            key="data.manifest",
            remedy="start a sweep for each manifest",
        )
    for key in fixed:
        if key in space:
            raise ConfigError(
                "both set and searched", code="given_twice", key=key, remedy="drop one of the two"
            )
    probes = {key: _probes(key, domain) for key, domain in space.items()}
    for point in _points(probes):
        try:
            apply_overrides(experiment, point)
        except ConfigError as error:
            if error.code == "unknown_key":  # at every point, whatever its value
                raise ConfigError(
                    error.problem, code=error.code, key=error.key, remedy=error.remedy
                ) from None
            raise ConfigError(
                f"{error.problem} (at a point of the search space)",
                code=error.code,
                key=error.key,
                value=error.value,
                remedy=error.remedy,
            ) from None


def parse_space(texts: Iterable[str]) -> dict[str, Domain]:
    """A search space from texts for ``parse_domain``. Raises ConfigError, also for a repeated key."""
    space: dict[str, Domain] = {}
    for text in texts:
        key, domain = parse_domain(text)
        if key in space:
            raise ConfigError(
                f"searched twice, the second time as {text.partition('=')[2]}",
                code="given_twice",
                key=key,
                remedy="give each key one domain",
            )
        space[key] = domain
    return space


def parse_domain(text: str) -> tuple[str, Domain]:
    """``optim.lr=log:0.01:1`` | ``optim.momentum=uniform:0.8:0.99`` | ``model.alpha=4,8`` -> key, domain.

    Needs no quotes in a shell. Raises ConfigError.
    """
    key, equals, value = text.partition("=")
    kind, *ends = value.split(":")
    if not equals or not value:
        raise _bad_domain(
            f"'{text}'", "not a domain", "write key=a,b,c or key=log:LOW:HIGH or key=uniform:LOW:HIGH"
        )
    if not ends:
        return key, Choice(*value.split(","))
    kinds: dict[str, type[LogUniform | Uniform]] = {"log": LogUniform, "uniform": Uniform}
    if kind not in kinds or len(ends) != 2:
        raise _bad_domain(key, f"'{value}' is not a range", "write log:LOW:HIGH or uniform:LOW:HIGH")
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        raise _bad_domain(key, f"{ends[0]} and {ends[1]} must be numbers") from None
    return key, kinds[kind](low, high)


def _bad_domain(key: str, problem: str, remedy: str = "") -> ConfigError:
    return ConfigError(problem, code="not_a_domain", key=key, remedy=remedy)


def _probes(key: str, domain: Domain) -> tuple[Scalar, ...]:
    if isinstance(domain, Choice):
        if not domain.values:
            raise _bad_domain(key, "a choice without values")
        return domain.values
    if not all(isinstance(end, int | float) for end in (domain.low, domain.high)):
        raise _bad_domain(key, "the ends of a range must be numbers")
    if not (math.isfinite(domain.low) and math.isfinite(domain.high) and domain.low < domain.high):
        raise _bad_domain(key, f"the range {domain.low:g} to {domain.high:g} is empty")
    if isinstance(domain, LogUniform) and domain.low <= 0:
        raise _bad_domain(key, f"a logarithmic range must start above 0, not at {domain.low:g}")
    # The golden section is hardly ever a whole number, so a range for an integer key is refused.
    part = (math.sqrt(5) - 1) / 2
    if isinstance(domain, LogUniform):
        return domain.low, domain.high, domain.low * (domain.high / domain.low) ** part
    return domain.low, domain.high, domain.low + (domain.high - domain.low) * part


def _points(probes: Mapping[str, tuple[Scalar, ...]]) -> Iterator[dict[str, Scalar]]:
    if math.prod(len(values) for values in probes.values()) <= _MOST_COMBINATIONS:
        for point in itertools.product(*probes.values()):
            yield dict(zip(probes, point, strict=True))
        return
    first = {key: values[0] for key, values in probes.items()}
    for key, values in probes.items():
        for value in values:
            yield first | {key: value}


def trial_name(experiment: Experiment, chosen: Mapping[str, object]) -> str:
    """``model.alpha=4,optim.lr=0.03162``: a trial's name, its keys in the order of the experiment.

    The name is also that of a folder: characters that a run's name cannot have are replaced, and what exceeds
    120 characters is cut off. Such names end in a hash of the whole, so they differ if the values do.
    """
    order = list(leaf_keys(experiment))
    keys = sorted(chosen, key=lambda key: (order.index(key) if key in order else len(order), key))
    whole = ",".join(f"{key}={_short(chosen[key])}" for key in keys)
    name = _NOT_IN_NAMES.sub("-", whole)
    if name == whole and len(name) <= LONGEST_TRIAL_NAME:
        return name
    digest = hashlib.sha256(whole.encode()).hexdigest()[:_HASH]
    return f"{name[: LONGEST_TRIAL_NAME - _HASH - 1]}-{digest}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
