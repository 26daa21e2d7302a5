"""Dotted ``key=value`` overrides, YAML in and out, and the fingerprint of an experiment."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from kineray.config.schema import Experiment
from kineray.errors import ConfigError


def apply_overrides(experiment: Experiment, overrides: Iterable[str] | Mapping[str, object]) -> Experiment:
    """Return ``experiment`` with ``key=value`` overrides applied, in any order.

    ``overrides`` is a list of ``"optim.lr=0.1"`` or a mapping from dotted key to value. Choosing a
    variant (``optim.type=adam``) starts from that variant's defaults. Raises ConfigError for a
    misspelt key (with a suggestion), a field of a variant that is not selected, a key given twice
    with different values, or a bad value.
    """
    pairs = dict(overrides) if isinstance(overrides, Mapping) else _parse_pairs(overrides)
    tree = experiment.model_dump()
    variants = _variants(Experiment)
    # Variants first, so that their fields can be set whatever the order of the arguments.
    for key, value in pairs.items():
        section = key.removesuffix(".type")
        if key.endswith(".type") and section in variants:
            names = list(variants[section])
            if value not in names:
                raise ConfigError(
                    f"{key}={value}: not one of {', '.join(names)}{_did_you_mean(str(value), names)}"
                )
            if tree[section]["type"] != value:
                tree[section] = {"type": value}
    for key, value in pairs.items():
        _check_key(key, tree, variants)
        node = tree
        *sections, leaf = key.split(".")
        for part in sections:
            node = node[part]
        node[leaf] = None if value == "none" else value
    return _validate(tree, given=pairs)


def leaf_keys(experiment: Experiment) -> dict[str, object]:
    """Every field as ``{"optim.lr": 0.1, ...}``, in the order of declaration."""
    return dict(_flatten(experiment.model_dump(mode="json")))


def differing_keys(left: Experiment, right: Experiment) -> list[str]:
    """Dotted keys whose values differ, or that only one of the two experiments has."""
    a, b = leaf_keys(left), leaf_keys(right)
    return [key for key in {**a, **b} if a.get(key, _ABSENT) != b.get(key, _ABSENT)]


def to_yaml(experiment: Experiment) -> str:
    """The whole experiment as YAML, defaults included; ``from_yaml`` reads it back unchanged."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, default_flow_style=None)


def from_yaml(text: str, source: str = "experiment") -> Experiment:
    """Read an experiment; keys left out take their defaults. Raises ConfigError naming ``source``."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected sections such as 'optim:', found {type(tree).__name__}")
    try:
        flat = dict(_flatten(tree))
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply; an alias must not contain itself") from None
    variants = _variants(Experiment)
    default = Experiment().model_dump()
    for section in variants:
        chosen = tree.get(section)
        name = chosen.get("type") if isinstance(chosen, dict) else None
        if isinstance(name, str) and name in variants[section]:
            default[section] = {"type": name}
    try:
        for key in flat:
            _check_key(key, default, variants)
        return _validate(tree, given=flat)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def fingerprint(experiment: Experiment, manifest_hash: str = "") -> str:
    """12 hex digits that change exactly when the science does.

    The path of the manifest and the experiment's name are no science; the content of the manifest
    is, so pass its hash when there is one.
    """
    science = leaf_keys(experiment)
    del science["name"], science["data.manifest"]
    canonical = json.dumps([science, manifest_hash], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


class _Absent:
    pass


_ABSENT = _Absent()


def _parse_pairs(overrides: Iterable[str]) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{text}': expected key=value, as in optim.lr=0.1")
        if key in pairs and pairs[key] != value:
            raise ConfigError(f"{key}: given twice, as {pairs[key]} and as {value}")
        pairs[key] = value
    return pairs


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _variants(model: type[BaseModel]) -> dict[str, dict[str, type[BaseModel]]]:
    """``{section: {type name: class}}`` of every section that has a ``type``."""
    found: dict[str, dict[str, type[BaseModel]]] = {}
    for section, field in model.model_fields.items():
        for candidate in _classes(field.annotation):
            tag = candidate.model_fields.get("type")
            if tag is not None:
                found.setdefault(section, {})[get_args(tag.annotation)[0]] = candidate
    return found


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _classes(get_args(annotation)[0])
    else:
        for argument in get_args(annotation):
            yield from _classes(argument)


def _section_fields(
    section: str, chosen: str | None, variants: dict[str, dict[str, type[BaseModel]]]
) -> set[str]:
    if section in variants:
        return set(variants[section][chosen or next(iter(variants[section]))].model_fields)
    return {
        name for cls in _classes(Experiment.model_fields[section].annotation) for name in cls.model_fields
    }


def _check_key(key: str, tree: dict[str, Any], variants: dict[str, dict[str, type[BaseModel]]]) -> None:
    """Raise ConfigError unless ``key`` is a leaf of the experiment with the variants chosen in ``tree``."""
    known: list[str] = []
    for section, field in Experiment.model_fields.items():
        if not list(_classes(field.annotation)):
            known.append(section)
            continue
        chosen = tree[section].get("type") if section in variants else None
        known += [f"{section}.{name}" for name in sorted(_section_fields(section, chosen, variants))]
    if key in known:
        return
    section, _, leaf = key.partition(".")
    for name, variant in variants.get(section, {}).items():
        if leaf in variant.model_fields:
            chosen = tree[section]["type"]
            raise ConfigError(
                f"{key}: a field of {section}.type={name}, but {section}.type={chosen} is selected"
            )
    if any(candidate.startswith(f"{key}.") for candidate in known):
        raise ConfigError(
            f"{key}: a section, not a field; it has {', '.join(c for c in known if c.startswith(key))}"
        )
    raise ConfigError(f"{key}: unknown key{_did_you_mean(key, known)}")


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if not close:
        same_leaf = [key for key in known if key.rpartition(".")[2] == word.rpartition(".")[2]]
        close = same_leaf[:1]
    return f"; did you mean {close[0]}?" if close else ""


def _validate(tree: dict[str, Any], given: Mapping[str, object]) -> Experiment:
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        variants = _variants(Experiment)
        # pydantic puts the tag of a union into the location: ("optim", "sgd", "lr").
        parts = [str(part) for part in first["loc"]]
        if len(parts) > 1 and parts[0] in variants and parts[1] in variants[parts[0]]:
            del parts[1]
        key = ".".join(part for part in parts if not part.isdigit())
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if key in given:
            raise ConfigError(f"{key}={given[key]}: {message}") from None
        raise ConfigError(f"{key}: {message}" if key else message) from None
