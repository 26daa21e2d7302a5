"""Errors about values, in words, and suggestions of what was meant."""

import difflib
from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from kineray.errors import ConfigError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean slowfast?`` for a remedy, or nothing if no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def bad_value(
    error: ValidationError,
    given: Mapping[str, object],
    path: tuple[str, ...] = (),
    known: Iterable[str] = (),
) -> ConfigError:
    """The first problem that pydantic found in the section at ``path``, whose fields are ``known``."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in (*path, *first["loc"]) if not str(part).isdigit())
    message = first["msg"].removeprefix("Value error, ")
    problem = message[:1].lower() + message[1:]
    if first["type"] == "frozen_instance":
        remedy = "make another one with kineray.apply_overrides(experiment, {...})"
        return ConfigError("cannot be changed in place", code="frozen", key=key, remedy=remedy)
    if first["type"] == "extra_forbidden":
        remedy = did_you_mean(str(first["loc"][-1]), known)
        return ConfigError("unknown key", code="unknown_key", key=key, remedy=remedy)
    code = "unknown_variant" if first["type"] == "unknown_variant" else "bad_value"
    return ConfigError(problem, code=code, key=key, value=given.get(key))
