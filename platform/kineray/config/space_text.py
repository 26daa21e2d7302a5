"""Search spaces as text: on the command line, and in YAML or JSON files."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from kineray.config.domains import Choice, Domain, Integers, LogUniform, SearchSpace, Uniform
from kineray.errors import ConfigError

_FORMS = (
    "key=a,b,c or key=log:LOW:HIGH or key=uniform:LOW:HIGH or key=integers:LOW:HIGH[:STEP] or "
    "key=ordered:a,b,c"
)


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

    Also ``data.frames=integers:8:32:8`` and ``model.alpha=ordered:2,4,8``. Needs no quotes in a shell. Raises
    ConfigError.
    """
    key, equals, value = text.partition("=")
    kind, *ends = value.split(":")
    if not equals or not value:
        raise _bad(f"'{text}'", "not a domain", f"write {_FORMS}")
    if not ends:
        return key, Choice(*value.split(","))
    if kind == "ordered" and len(ends) == 1:
        return key, Choice(*ends[0].split(","), ordered=True)
    try:
        numbers = [int(end) if kind == "integers" else float(end) for end in ends]
    except ValueError:
        raise _bad(key, f"{' and '.join(ends)} must be {'whole ' * (kind == 'integers')}numbers") from None
    return key, _range(key, kind, numbers)


def space_to_plain(space: SearchSpace) -> dict[str, Any]:
    """A search space in plain values, from which ``space_from_plain`` makes it again.

    ``{"optim.lr": {"log": [0.01, 1]}, "model.alpha": [4, 8]}``; a conditional choice is ``{"choice": {value:
    space}}``, the others ``{"uniform": [low, high]}``, ``{"integers": [low, high, step]}``,
    ``{"log_integers": [low, high]}`` and ``{"ordered": [values]}``.
    """
    return {key: _to_plain(domain) for key, domain in space.items()}


def space_from_plain(plain: object) -> dict[str, Domain]:
    """See ``space_to_plain``. Raises ConfigError."""
    if not isinstance(plain, Mapping):
        raise ConfigError(
            f"a search space cannot be a {type(plain).__name__}",
            code="not_a_space",
            key="space",
            remedy="write a mapping from key to domain, such as `optim.lr: {log: [0.01, 1]}`",
        )
    return {str(key): _from_plain(str(key), value) for key, value in plain.items()}


def read_space(path: str) -> dict[str, Domain]:
    """The search space in a YAML file. Raises ConfigError."""
    try:
        return space_from_plain(yaml.safe_load(Path(path).read_text()))
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(str(problem), code="unreadable", key=path) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}", code="not_a_space", key=path) from None


def _to_plain(domain: Domain) -> Any:
    match domain:
        case Choice(spaces=spaces) if spaces:
            conditional = {value: space_to_plain(spaces.get(value, {})) for value in domain.values}
            return {"choice": conditional} | ({"is_ordered": True} if domain.ordered else {})
        case Choice():
            return {"ordered": list(domain.values)} if domain.ordered else list(domain.values)
        case Integers(log=True):
            return {"log_integers": [domain.low, domain.high]}
        case Integers():
            return {"integers": [domain.low, domain.high, domain.step]}
        case LogUniform():
            return {"log": [domain.low, domain.high]}
    return {"uniform": [domain.low, domain.high]}


def _from_plain(key: str, plain: object) -> Domain:
    if isinstance(plain, list):
        return Choice(*plain)
    if isinstance(plain, Mapping) and isinstance(plain.get("choice"), Mapping):
        spaces = {value: space_from_plain(inner or {}) for value, inner in plain["choice"].items()}
        return Choice(spaces, ordered=bool(plain.get("is_ordered")))
    if isinstance(plain, Mapping) and len(plain) == 1:
        ((kind, values),) = plain.items()
        if kind == "ordered" and isinstance(values, list):
            return Choice(*values, ordered=True)
        if isinstance(values, list):
            return _range(key, str(kind), values)
    raise _bad(key, f"{plain!r} is not a domain", "write [4, 8], {log: [0.01, 1]} or {choice: {...}}")


def _range(key: str, kind: str, numbers: list[Any]) -> Domain:
    kinds: dict[str, tuple[Callable[..., Domain], tuple[int, ...]]] = {
        "log": (LogUniform, (2,)),
        "uniform": (Uniform, (2,)),
        "integers": (Integers, (2, 3)),
        "log_integers": (lambda low, high: Integers(low, high, log=True), (2,)),
    }
    if kind not in kinds or len(numbers) not in kinds[kind][1]:
        raise _bad(key, f"'{kind}:{':'.join(map(str, numbers))}' is not a range", f"write {_FORMS}")
    return kinds[kind][0](*numbers)


def _bad(key: str, problem: str, remedy: str = "") -> ConfigError:
    return ConfigError(problem, code="not_a_domain", key=key, remedy=remedy)
