"""Names of runs: which are valid, and which are taken."""

import re

from kineray.errors import ConfigError
from kineray.tracking.client import tracking_uri, without_password

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]*(/[A-Za-z0-9][A-Za-z0-9_.,=+-]*)*")
_LONGEST = 250


def is_name(text: str) -> bool:
    """Whether a run may have this name, whatever its length."""
    return bool(_NAME.fullmatch(text))


def check_name(name: str) -> None:
    """Raise ConfigError for a name with other characters than letters, digits and ``_ . , = + - /``."""
    if not is_name(name) or len(name) > _LONGEST:
        raise ConfigError(
            "not a valid name of a run",
            code="bad_name",
            key="name",
            value=name,
            remedy=f"use letters, digits and _ . , = + - (at most {_LONGEST})",
        )


def name_taken(storage_uri: str, name: str) -> ConfigError:
    """The error of a new run whose name another one has."""
    places = {without_password(tracking_uri(storage_uri)), storage_uri}
    return ConfigError(
        f"there already is a run of this name in {' or '.join(sorted(places))}",
        code="name_taken",
        key="name",
        value=name,
        remedy="choose another `name`, or continue that run with `resume`",
    )
