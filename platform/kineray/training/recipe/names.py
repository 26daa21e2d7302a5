"""Parameters by patterns of their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from kineray.config.problems import did_you_mean
from kineray.errors import ConfigError


def matching(pattern: str, names: Sequence[str], key: str) -> list[str]:
    """The names that match ``pattern``. Raises ConfigError about ``key`` if none does."""
    found = [name for name in names if fnmatchcase(name, pattern)]
    if found:
        return found
    modules = [name.split(".") for name in names]
    words = {".".join(path[:end]) for path in modules for end in range(1, len(path) + 1)}
    words |= {word for path in modules for word in path}
    raise ConfigError(
        "no parameter of the model has such a name",
        code="matches_no_parameter",
        key=key,
        value=pattern,
        remedy=did_you_mean(pattern.strip("*."), sorted(words))
        or f"its parameters have names such as {names[0]} and {names[-1]}",
    )
