"""Search spaces, written in an experiment's own dotted keys."""

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from kineray.config.domains import Choice, Domain, Integers, LogUniform, Scalar, SearchSpace
from kineray.config.overrides import apply_overrides, leaf_keys
from kineray.config.schema import Experiment
from kineray.config.tree import families_by_key
from kineray.config.variants import variants
from kineray.errors import ConfigError

LONGEST_TRIAL_NAME = 120  # characters; file systems allow 255 bytes
_HASH = 8  # hexadecimal digits at the end of a name that does not say everything
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.,=+-]")

_MOST_COMBINATIONS = 1000
_EXAMPLE = "{'optim.lr': LogUniform(0.01, 1)}"
_DOMAINS = "Choice(4, 8), Integers(8, 32), Uniform(0.8, 0.99) or LogUniform(0.01, 1)"

Values = Callable[[str, Domain], tuple[Scalar, ...]]
"""The values of a key's domain that are looked at."""


def with_default_spaces(space: SearchSpace, fixed: Collection[str] = ()) -> dict[str, Domain]:
    """``space``, in which every choice of a type has the default spaces of its variants.

    A type that has a space in ``space`` keeps it, also an empty one. Keys that are searched at the same time
    anyway, or are ``fixed`` by overrides, are left out of the default ones.
    """
    found = {}
    for key, domain in space.items():
        others = {*fixed, key, *all_keys({name: other for name, other in space.items() if name != key})}
        is_conditional = isinstance(domain, Choice) and (domain.spaces or key in families_by_key())
        found[key] = _with_spaces(key, domain, others) if is_conditional else domain
    return found


def _with_spaces(key: str, choice: Any, named: Collection[str]) -> Choice:
    family = families_by_key().get(key)
    known = variants(family) if family is not None else {}
    spaces = {}
    for value in choice.values:
        inner = choice.spaces.get(value)
        if inner is None:
            default = known[value].default_space if value in known else {}
            inner = _below(key.removesuffix(".type"), default, named)
        spaces[value] = with_default_spaces(inner, named)
    return Choice(spaces, ordered=choice.ordered)


def _below(path: str, space: SearchSpace, named: Collection[str]) -> dict[str, Domain]:
    """A space of the fields of a section, with the keys that they have in an experiment."""
    found: dict[str, Domain] = {}
    for name, domain in space.items():
        key = f"{path}.{name}"
        if key in named:
            continue
        if isinstance(domain, Choice) and domain.spaces:
            inner = {value: _below(path, one, named) for value, one in domain.spaces.items()}
            found[key] = Choice(inner, ordered=domain.ordered)
        else:
            found[key] = domain
    return found


def all_keys(space: SearchSpace) -> list[str]:
    """Every key of a space and of the spaces inside it, once each, in their order."""
    found: dict[str, None] = {}
    for key, domain in space.items():
        found[key] = None
        for inner in domain.spaces.values() if isinstance(domain, Choice) else ():
            found.update(dict.fromkeys(all_keys(inner)))
    return list(found)


def check_space(experiment: Experiment, space: SearchSpace, fixed: Iterable[str] = ()) -> None:
    """Raise ConfigError if a point of ``space`` is found that is not a valid experiment.

    The points are combinations of all choices and, for every range, its ends and a number between them that
    is not whole for real numbers. If there are at most 1000 of them, all are applied to ``experiment``, which
    finds values that do not go together; of a larger space, only those that differ from the first in a single
    key. ``fixed``: keys that overrides set; a key cannot be both set and searched.
    """
    _check_form(space)
    if not space:
        raise ConfigError(
            "the search space is empty",
            code="not_a_space",
            key="space",
            remedy=f"name at least one key, as in {_EXAMPLE}",
        )
    _check_clashes(space)
    keys = all_keys(space)
    if "data.manifest" in keys:
        raise ConfigError(
            "scores on different videos cannot be compared",
            code="not_searchable",
            key="data.manifest",
            remedy="start a sweep for each manifest",
        )
    for key in fixed:
        if key in keys:
            raise ConfigError(
                "both set and searched", code="given_twice", key=key, remedy="drop one of the two"
            )
    for point in _probed_points(space):
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


def _check_form(space: object) -> None:
    """Raise ConfigError if this is not a mapping from dotted keys to domains."""
    if not isinstance(space, Mapping):
        raise ConfigError(
            f"a search space cannot be a {type(space).__name__}",
            code="not_a_space",
            key="space",
            remedy=f"give a mapping from key to domain, such as {_EXAMPLE}",
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
        for inner in domain.spaces.values() if isinstance(domain, Choice) else ():
            _check_form(inner)


def _check_clashes(space: SearchSpace, beside: Collection[str] = ()) -> None:
    """Raise ConfigError if a key is searched twice at one point. ``beside``: keys searched anyway."""
    for key, domain in space.items():
        others = {*beside, *all_keys({name: other for name, other in space.items() if name != key})}
        for name in all_keys({key: domain}):
            if name in others:
                raise ConfigError(
                    "searched twice at the same time",
                    code="given_twice",
                    key=name,
                    remedy="give it one domain",
                )
        for inner in domain.spaces.values() if isinstance(domain, Choice) else ():
            _check_clashes(inner, {*others, key})


def all_points(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """All combinations of choices and integers. Raises ConfigError for a range of real numbers."""
    return _combinations(space, _all_values)


def sampled_point(
    space: SearchSpace, value_of: Callable[[str, Domain], Scalar], condition: str = ""
) -> dict[str, Scalar]:
    """A point whose values ``value_of`` gives, which is called with a name and a domain.

    The name is the key, and inside a conditional space also says where it is, so that no two domains have one
    name: ``model.temporal.units, model.temporal.type=lstm``.
    """
    point: dict[str, Scalar] = {}
    for key, domain in space.items():
        point[key] = value = value_of(f"{key}{condition}", domain)
        inner = domain.spaces.get(value) if isinstance(domain, Choice) else None
        if inner:
            point |= sampled_point(inner, value_of, f"{condition}, {key}={value}")
    return point


def _combinations(space: SearchSpace, values: Values) -> Iterator[dict[str, Scalar]]:
    for parts in itertools.product(*(list(_parts(*item, values)) for item in space.items())):
        yield {key: value for part in parts for key, value in part.items()}


def _parts(key: str, domain: Domain, values: Values) -> Iterator[dict[str, Scalar]]:
    """What the points say about a key and, for each choice, about the keys of its space."""
    for value in values(key, domain):
        for inside in _combinations(_space_of(domain, value), values):
            yield {key: value} | inside


def _number_of_points(space: SearchSpace, values: Values) -> int:
    return math.prod(
        sum(_number_of_points(_space_of(domain, value), values) for value in values(key, domain))
        for key, domain in space.items()
    )


def _space_of(domain: Domain, value: Scalar) -> SearchSpace:
    return domain.spaces.get(value, {}) if isinstance(domain, Choice) and domain.spaces else {}


def _probed_points(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    if _number_of_points(space, _probes) <= _MOST_COMBINATIONS:
        return _combinations(space, _probes)
    return _single_changes(space)


def _single_changes(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """The first point, and those that differ from it in one key and the space that its value opens."""
    first = {key: _first_part(key, domain) for key, domain in space.items()}
    for key, domain in space.items():
        others = {name: value for k, part in first.items() if k != key for name, value in part.items()}
        for value in _probes(key, domain):
            inner = _space_of(domain, value)
            for inside in _single_changes(inner) if inner else [{}]:
                yield others | {key: value} | inside


def _first_part(key: str, domain: Domain) -> dict[str, Scalar]:
    value = _probes(key, domain)[0]
    part = {key: value}
    for name, inner in _space_of(domain, value).items():
        part |= _first_part(name, inner)
    return part


def _all_values(key: str, domain: Domain) -> tuple[Scalar, ...]:
    _probes(key, domain)  # checks the domain
    if isinstance(domain, Choice):
        return domain.values
    if isinstance(domain, Integers):
        return tuple(range(domain.low, domain.high + 1, domain.step))
    raise _bad_domain(key, "a range of real numbers has no end of points", "write Choice(0.01, 0.1)")


def _probes(key: str, domain: Domain) -> tuple[Scalar, ...]:
    if isinstance(domain, Choice):
        if not domain.values:
            raise _bad_domain(key, "a choice without values")
        return domain.values
    if not all(isinstance(end, int | float) for end in (domain.low, domain.high)):
        raise _bad_domain(key, "the ends of a range must be numbers")
    if not (math.isfinite(domain.low) and math.isfinite(domain.high) and domain.low < domain.high):
        raise _bad_domain(key, f"the range {domain.low:g} to {domain.high:g} is empty")
    is_log = isinstance(domain, LogUniform) or (isinstance(domain, Integers) and domain.log)
    if is_log and domain.low <= 0:
        raise _bad_domain(key, f"a logarithmic range must start above 0, not at {domain.low:g}")
    if isinstance(domain, Integers):
        return _integer_probes(key, domain)
    # The golden section is hardly ever a whole number, so a range for an integer key is refused.
    part = (math.sqrt(5) - 1) / 2
    if is_log:
        return domain.low, domain.high, domain.low * (domain.high / domain.low) ** part
    return domain.low, domain.high, domain.low + (domain.high - domain.low) * part


def _integer_probes(key: str, domain: Integers) -> tuple[Scalar, ...]:
    if not all(isinstance(number, int) for number in (domain.low, domain.high, domain.step)):
        raise _bad_domain(key, "ends and step of integers must be whole numbers")
    if domain.step < 1 or (domain.log and domain.step != 1):
        raise _bad_domain(key, f"a step of {domain.step}", "set `step` to at least 1, and to 1 with `log`")
    every = range(domain.low, domain.high + 1, domain.step)
    return tuple(dict.fromkeys((every[0], every[-1], every[len(every) // 2])))


def _bad_domain(key: str, problem: str, remedy: str = "") -> ConfigError:
    return ConfigError(problem, code="not_a_domain", key=key, remedy=remedy)


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
