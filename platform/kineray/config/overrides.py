"""Dotted ``key=value`` overrides, YAML in and out, and the fingerprint of an experiment."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from kineray.config.fields import Section
from kineray.config.models import ModelConfig
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
    return _validate(_changed(experiment.model_dump(), pairs), given=pairs)


def _changed(tree: dict[str, Any], pairs: Mapping[str, object]) -> dict[str, Any]:
    """``tree`` with other leaves, and other variants of its sections."""
    # Variants first, the outer ones before those inside them, so that the order of the arguments is free.
    for key in sorted(pairs, key=lambda key: key.count(".")):
        section, _, leaf = key.rpartition(".")
        options = _options_at(tree, section)
        if leaf != "type" or "" in options or not options:
            continue
        node, name = _node(tree, section), str(pairs[key])
        if name not in options:
            names = list(options)
            raise ConfigError(f"{key}={name}: not one of {', '.join(names)}{_did_you_mean(name, names)}")
        if node["type"] != name:
            node.clear()
            node.update(options[name]().model_dump())
    for key, value in pairs.items():
        _check_key(key, tree)
        section, _, leaf = key.rpartition(".")
        _node(tree, section)[leaf] = None if value == "none" else value
    return tree


def overrides_of(section: Section, path: str) -> list[str]:
    """The ``key=value`` that turn the defaults of a section at ``path`` into ``section``.

    Of one that has a ``type``, that is always there, and what follows differs from the type's defaults.
    """
    kind = getattr(section, "type", None)
    chosen = [] if kind is None else [f"{path}.type={kind}"]
    return chosen + list(_changes(section, type(section)(), path))


def as_arguments(tree: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a section as it is in YAML, written as in ``key=value``: ``{"temporal.units": "50"}``."""
    return {key: _as_argument(value) for key, value in _flatten(tree)}


def change_model(model: ModelConfig, fields: Mapping[str, object]) -> ModelConfig:
    """``model`` with other fields, whatever clips it takes then.

    A field that is a section may be named by its dotted keys (``{"temporal.type": "gru"}``), or given as a
    section or mapping. Raises ConfigError as ``apply_overrides`` does, for the keys ``model.*``.
    """
    plain = {
        key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in fields.items()
    }
    pairs = dict(_flatten(plain, "model."))
    tree = _changed(Experiment().model_dump() | {"model": model.model_dump()}, pairs)
    try:
        return TypeAdapter[ModelConfig](ModelConfig).validate_python(tree["model"])
    except ValidationError as error:
        raise _bad_value(error, pairs, ("model",)) from None


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
    try:
        default = Experiment().model_dump()
        _choose_variants(Experiment, default, tree)
        for key in flat:
            _check_key(key, default)
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


def _changes(section: Section, default: Section, path: str) -> Iterator[str]:
    for name in type(section).model_fields:
        value, usual, key = getattr(section, name), getattr(default, name), f"{path}.{name}"
        if isinstance(value, Section) and (type(value) is not type(usual) or hasattr(value, "type")):
            yield from overrides_of(value, key)
        elif isinstance(value, Section):
            yield from _changes(value, usual, key)
        elif value != usual:
            yield f"{key}={_as_argument(value)}"


def _as_argument(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_as_argument, value))
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return str(value)


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


def _options(annotation: Any) -> dict[str, type[BaseModel]]:
    """The sections that a field may hold by their ``type``; "" for one without; {} for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        tag = annotation.model_fields.get("type")
        return {"" if tag is None else get_args(tag.annotation)[0]: annotation}
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    return {name: section for argument in arguments for name, section in _options(argument).items()}


def _chosen(options: Mapping[str, type[BaseModel]], node: object) -> type[BaseModel]:
    name = node.get("type", "") if isinstance(node, dict) else ""
    return options.get(name) or next(iter(options.values()))


def _sections(
    cls: type[BaseModel], tree: Any, prefix: str = ""
) -> Iterator[tuple[str, type[BaseModel], dict[str, type[BaseModel]]]]:
    """(dotted path, class, alternatives) of every section inside ``cls``, as chosen in ``tree``."""
    for name, field in cls.model_fields.items():
        options = _options(field.annotation)
        if options:
            node = tree.get(name) if isinstance(tree, dict) else None
            inside, path = _chosen(options, node), f"{prefix}{name}"
            yield path, inside, options
            yield from _sections(inside, node, f"{path}.")


def _options_at(tree: dict[str, Any], path: str) -> dict[str, type[BaseModel]]:
    return next((options for section, _, options in _sections(Experiment, tree) if section == path), {})


def _node(tree: dict[str, Any], path: str) -> dict[str, Any]:
    node = tree
    for part in filter(None, path.split(".")):
        node = node[part]
    return node


def _choose_variants(cls: type[BaseModel], default: dict[str, Any], given: dict[Any, Any]) -> None:
    """Make ``default`` hold the variants that ``given`` names; write those it leaves out into ``given``."""
    for name, field in cls.model_fields.items():
        options, node = _options(field.annotation), given.get(name)
        if not options or not isinstance(node, dict):
            continue
        if "" not in options:
            wanted = node.setdefault("type", default[name]["type"])
            if isinstance(wanted, str) and wanted in options and wanted != default[name]["type"]:
                default[name] = options[wanted]().model_dump()
        _choose_variants(_chosen(options, default[name]), default[name], node)


def _check_key(key: str, tree: dict[str, Any]) -> None:
    """Raise ConfigError unless ``key`` is a leaf of the experiment with the variants chosen in ``tree``."""
    sections = {path: (cls, options) for path, cls, options in _sections(Experiment, tree)}
    known = [name for name in Experiment.model_fields if name not in sections]
    for path, (cls, _) in sections.items():
        known += [f"{path}.{name}" for name in sorted(cls.model_fields) if f"{path}.{name}" not in sections]
    if key in known:
        return
    parent = max((path for path in sections if key.startswith(f"{path}.")), key=len, default="")
    if parent:
        leaf = key.removeprefix(f"{parent}.").partition(".")[0]
        chosen, options = sections[parent]
        owners = [name for name, variant in options.items() if leaf in variant.model_fields]
        if owners and leaf not in chosen.model_fields:
            raise ConfigError(
                f"{key}: a field of {parent}.type={' or '.join(owners)}, but "
                f"{parent}.type={_node(tree, parent)['type']} is selected"
            )
    if any(candidate.startswith(f"{key}.") for candidate in known):
        raise ConfigError(
            f"{key}: a section, not a field; it has {', '.join(c for c in known if c.startswith(f'{key}.'))}"
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
        raise _bad_value(error, given) from None


def _bad_value(
    error: ValidationError, given: Mapping[str, object], path: tuple[str, ...] = ()
) -> ConfigError:
    """The first problem of the section at ``path``."""
    first = error.errors()[0]
    key = _key_of((*path, *first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if key in given:
        return ConfigError(f"{key}={given[key]}: {message}")
    return ConfigError(f"{key}: {message}" if key else message)


def _key_of(location: Sequence[int | str]) -> str:
    """The dotted key of pydantic's location, which holds the tags of unions: ("optim", "sgd", "lr")."""
    key: list[str] = []
    cls: type[BaseModel] | None = Experiment
    parts = [str(part) for part in location if not str(part).isdigit()]
    while parts:
        key.append(parts.pop(0))
        field = cls.model_fields.get(key[-1]) if cls else None
        options = _options(field.annotation) if field else {}
        cls = next(iter(options.values()), None)
        if parts and parts[0] in options:
            cls = options[parts.pop(0)]
    return ".".join(key)
