"""Dotted ``key=value`` overrides: read, applied and written."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from kineray.config.fields import Section
from kineray.config.models.base import ModelSection
from kineray.config.problems import bad_value
from kineray.config.schema import Experiment
from kineray.config.tree import change, flatten
from kineray.config.variants import Pieces, Variant, family_of_pieces, find_variant, variants
from kineray.errors import ConfigError

MANIFEST = "data.manifest"  # where it is; that is no science, but its content is

Overrides = Iterable[str] | Mapping[str, object]


def apply_overrides(experiment: Experiment, overrides: Overrides) -> Experiment:
    """Return ``experiment`` with ``key=value`` overrides applied, in any order.

    ``overrides`` is a list of ``"optim.lr=0.1"`` or a mapping from dotted key to value. Choosing a
    variant (``optim.type=adam``) starts from that variant's defaults; setting a field of a piece
    (``recipe.mixup.alpha=0.2``) or ``recipe.mixup=on`` adds the piece, ``recipe.mixup=off`` removes it.
    Raises ConfigError for a misspelt key (with a suggestion), a field of a variant that is not selected, a
    key given twice with different values, or a bad value.
    """
    pairs = as_pairs(overrides)
    return validated(change(experiment.model_dump(), pairs), pairs)


def as_pairs(overrides: Overrides) -> dict[str, object]:
    """``["optim.lr=0.1"]`` -> ``{"optim.lr": "0.1"}``. Raises ConfigError for a key with two values."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    pairs: dict[str, object] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(
                "not an override",
                code="not_an_override",
                key=f"'{text}'",
                remedy="write key=value, as in optim.lr=0.1",
            )
        if key in pairs and pairs[key] != value:
            raise ConfigError(
                f"given twice, as {pairs[key]} and as {value}",
                code="given_twice",
                key=key,
                remedy="drop one of the two",
            )
        pairs[key] = value
    return pairs


def validated(tree: dict[str, Any], given: Mapping[str, object]) -> Experiment:
    """The experiment that a tree describes. Raises ConfigError for its first bad value.

    ``given``: the values as the user wrote them.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise bad_value(error, given) from None


def overrides_of(section: Section, path: str) -> list[str]:
    """The ``key=value`` that turn the defaults of a section at ``path`` into ``section``.

    For a variant, the first is its type and the others are the fields that differ from the type's defaults.
    """
    chosen = [f"{path}.type={section.type}"] if isinstance(section, Variant) else []
    return chosen + list(_changes(section, _usual(section), path))


def as_arguments(tree: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a section in plain values, as they are written in overrides: ``{"cut": "layer3"}``."""
    return {key: as_argument(value) for key, value in flatten(tree)}


def as_argument(value: object) -> str:
    """A value of a field as it is written in an override: ``3,4,6,3``, ``none``, ``true``."""
    if isinstance(value, tuple | list):
        return ",".join(map(as_argument, value))
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return str(value)


def change_model(model: ModelSection, fields: Mapping[str, object]) -> ModelSection:
    """``model`` with other values of some fields; the shape of its clips is not checked.

    Fields inside a section are named by dotted keys (``{"temporal.type": "gru"}``), or the section is given
    as a value or mapping. Raises ConfigError as ``apply_overrides`` does, for the keys ``model.*``.
    """
    plain = {
        key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in fields.items()
    }
    pairs = dict(flatten(plain, "model."))
    tree = change(Experiment().model_dump() | {"model": model.model_dump()}, pairs)["model"]
    try:
        return find_variant(ModelSection, tree["type"]).model_validate(tree)
    except ValidationError as error:
        raise bad_value(error, pairs, ("model",)) from None


def leaf_keys(experiment: Experiment) -> dict[str, object]:
    """Every field as ``{"optim.lr": 0.1, ...}``, in the order of declaration.

    A piece without fields is ``{"recipe.name": "on"}``.
    """
    return dict(_leaves(experiment, ""))


def arguments_of(experiment: Experiment) -> list[str]:
    """Every field as ``key=value``, in the order of declaration: overrides that make it of any experiment.

    Pieces that it does not have are switched off (``recipe.ema=off``).
    """
    absent = _absent_pieces(experiment, "")
    return [*(f"{key}={as_argument(value)}" for key, value in leaf_keys(experiment).items()), *absent]


def reset_by(experiment: Experiment, overrides: Overrides) -> list[str]:
    """A line for each variant that ``overrides`` replace whose settings were not its defaults.

    It says which settings are those of the new variant's defaults now, and what the experiment had.
    """
    pairs, lines = as_pairs(overrides), []
    for key in sorted((key for key in pairs if key.endswith(".type")), key=lambda key: key.count(".")):
        path, chosen = key.removesuffix(".type"), str(pairs[key])
        before = _section_at(experiment, path)
        if before is None or before.type == chosen:
            continue
        had = [text.removeprefix(f"{path}.") for text in _changes(before, _usual(before), path)]
        family = type(before).family()
        if not had or family is None:
            continue
        fields = find_variant(family, chosen, key).model_fields
        shared = dict.fromkeys(re.split("[.=]", text)[0] for text in had)
        names = [name for name in shared if name in fields and f"{path}.{name}" not in pairs]
        now = f"{_some(names)} {'has' if len(names) == 1 else 'have'}" if names else "it has"
        lines.append(
            f"{key}={chosen}: {now} {chosen}'s defaults (the experiment's {_some(had)} belonged to"
            f" {before.type})"
        )
    return lines


def science_of(experiment: Experiment) -> dict[str, object]:
    """``leaf_keys`` of the science: without the experiment's name and the path of its manifest."""
    return {key: value for key, value in leaf_keys(experiment).items() if key not in {"name", MANIFEST}}


def differing_keys(left: Experiment, right: Experiment) -> list[str]:
    """Dotted keys of the science whose values differ, or that only one of the two experiments has."""
    a, b = science_of(left), science_of(right)
    return [key for key in {**a, **b} if a.get(key, _ABSENT) != b.get(key, _ABSENT)]


def _leaves(
    section: BaseModel, prefix: str, left_out: frozenset[str] = frozenset()
) -> Iterator[tuple[str, object]]:
    plain = section.model_dump(mode="json")
    for name in type(section).model_fields:
        value, key = getattr(section, name), f"{prefix}{name}"
        if isinstance(value, Pieces):
            for piece, fields in value.items():
                inside = dict(_leaves(fields, f"{key}.{piece}.", _TYPE))
                yield from inside.items() if inside else {f"{key}.{piece}": "on"}.items()
        elif isinstance(value, BaseModel):
            yield from _leaves(value, f"{key}.")
        elif name not in left_out:
            yield key, plain[name]


def _absent_pieces(section: BaseModel, prefix: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{name}"
        family = family_of_pieces(field.annotation)
        if family is not None:
            yield from (f"{key}.{piece}=off" for piece in variants(family) if piece not in value)
        elif isinstance(value, BaseModel):
            yield from _absent_pieces(value, f"{key}.")


def _section_at(section: Any, path: str) -> Variant | None:
    """The variant at a dotted path; None if there is none."""
    for name in path.split("."):
        section = getattr(section, name, None)
    return section if isinstance(section, Variant) else None


def _usual(section: Section) -> Section:
    return type(section).model_construct()


def _some(texts: list[str], most: int = 6) -> str:
    return ", ".join(texts[:most]) + f", and {len(texts) - most} more" * (len(texts) > most)


def _changes(section: Section, default: Section, path: str) -> Iterator[str]:
    for name in type(section).model_fields:
        value, usual, key = getattr(section, name), getattr(default, name, _ABSENT), f"{path}.{name}"
        if isinstance(value, Pieces):
            for piece, fields in value.items():
                changes = [*_changes(fields, _usual(fields), f"{key}.{piece}")]
                yield from changes or [f"{key}.{piece}=on"]
        elif isinstance(value, Variant):
            yield from overrides_of(value, key)
        elif isinstance(value, Section) and isinstance(usual, Section):
            yield from _changes(value, usual, key)
        elif value != usual and name != "type":
            yield f"{key}={as_argument(value)}"


class _Absent:
    pass


_ABSENT = _Absent()
_TYPE = frozenset({"type"})
