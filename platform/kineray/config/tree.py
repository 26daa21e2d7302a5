"""Experiments as trees of plain values: which sections a tree has, and which keys they may hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from kineray.config.problems import did_you_mean
from kineray.config.schema import Experiment
from kineray.config.variants import (
    Variant,
    default_tree,
    family_of,
    family_of_pieces,
    find_variant,
    variants,
)
from kineray.errors import ConfigError

Tree = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A section of a tree: its dotted ``path``, its class there, and the family that may stand there.

    ``pieces``: whether the section holds several pieces of the family, by their type.
    """

    path: str
    section: type[BaseModel]
    family: type[Variant] | None = None
    pieces: bool = False

    @property
    def keys(self) -> list[str]:
        """The fields of the section, which may be sections too."""
        return [] if self.pieces else list(self.section.model_fields)


def places(section: type[BaseModel], tree: object, prefix: str = "") -> Iterator[Place]:
    """Every section inside ``section`` with the variants that ``tree`` chooses, outer sections first."""
    for name, field in section.model_fields.items():
        node = tree.get(name) if isinstance(tree, Mapping) else None
        path = f"{prefix}{name}"
        if family := family_of_pieces(field.annotation):
            yield Place(path, BaseModel, family, pieces=True)
            known = variants(family)
            for piece, fields in (node if isinstance(node, Mapping) else {}).items():
                if piece in known:
                    yield Place(f"{path}.{piece}", known[piece])
                    yield from places(known[piece], fields, f"{path}.{piece}.")
        elif family := family_of(field.annotation):
            chosen = _chosen(family, node, field.default)
            yield Place(path, chosen, family)
            yield from places(chosen, node, f"{path}.")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield Place(path, field.annotation)
            yield from places(field.annotation, node, f"{path}.")


def families_by_key(
    section: type[BaseModel] = Experiment, prefix: str = "", inside: tuple[type[Variant], ...] = ()
) -> dict[str, type[Variant]]:
    """Every key that chooses among variants, as ``model.temporal.type`` or ``recipe.*``, with its family.

    Keys inside the variants of a family are included, whichever of the variants has them.
    """
    found: dict[str, type[Variant]] = {}
    for name, field in section.model_fields.items():
        pieces = family_of_pieces(field.annotation)
        family = pieces or family_of(field.annotation)
        path = f"{prefix}{name}"
        if family is not None and family not in inside:
            found[f"{path}.*" if pieces else f"{path}.type"] = family
            for variant in variants(family).values():
                found |= families_by_key(variant, f"{path}.*." if pieces else f"{path}.", (*inside, family))
        elif (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and family is None
        ):
            found |= families_by_key(field.annotation, f"{path}.", inside)
    return found


def change(tree: Tree, pairs: Mapping[str, object]) -> Tree:
    """Change leaves of ``tree``, the variants of its sections, and its pieces, in place.

    Raises ConfigError for a key that does not exist with the variants chosen by ``pairs``.
    """
    # Variants first, the outer ones before those inside them, so that the order of the arguments is free.
    for key in sorted(pairs, key=lambda key: key.count(".")):
        _add_piece(tree, key, pairs)
        section, _, leaf = key.rpartition(".")
        if leaf == "type" and (place := _place(tree, section)) and place.family and not place.pieces:
            _choose(node_at(tree, section), place.family, key, pairs[key])
    for key, value in pairs.items():
        section, _, leaf = key.rpartition(".")
        container = _place(tree, section)
        if container is None or not container.pieces:
            check_key(key, tree)
            node_at(tree, section)[leaf] = None if value == "none" and _takes_none(tree, key) else value
    return tree


def fill(section: type[BaseModel], default: Tree, given: Tree) -> None:
    """Make ``default`` hold the variants and pieces that ``given`` names; add omitted types to ``given``."""
    for name, field in section.model_fields.items():
        node = given.get(name)
        if not isinstance(node, dict):
            continue
        if family := family_of_pieces(field.annotation):
            known, default[name] = variants(family), {}
            for piece in node:
                node[piece] = {} if node[piece] is None else node[piece]
                if piece in known and isinstance(node[piece], dict):
                    default[name][piece] = _piece_defaults(known[piece])
                    fill(known[piece], default[name][piece], node[piece])
        elif family := family_of(field.annotation):
            wanted = node.setdefault("type", default[name]["type"])
            known = variants(family)
            if isinstance(wanted, str) and wanted in known and wanted != default[name]["type"]:
                default[name] = default_tree(known[wanted])
            fill(_chosen(family, default[name], field.default), default[name], node)
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            fill(field.annotation, default[name], node)


def check_key(key: str, tree: Tree) -> None:
    """Raise ConfigError unless ``key`` is a leaf of the experiment with the variants chosen in ``tree``."""
    found = {place.path: place for place in places(Experiment, tree)}
    known = [name for name in Experiment.model_fields if name not in found]
    for path, place in found.items():
        known += [f"{path}.{name}" for name in sorted(place.keys) if f"{path}.{name}" not in found]
    if key in known:
        return
    inside = max((path for path in found if key.startswith(f"{path}.")), key=len, default="")
    if inside:
        _check_variant(key, found[inside])
    if key in found:
        fields = [name for name in known if name.startswith(f"{key}.")]
        raise ConfigError(
            "a section, not a field",
            code="not_a_field",
            key=key,
            remedy=f"it has {', '.join(fields)}" if fields else "",
        )
    raise ConfigError("unknown key", code="unknown_key", key=key, remedy=_suggestion(key, known))


def node_at(tree: Tree, path: str) -> Tree:
    """The part of ``tree`` at a dotted path."""
    node = tree
    for part in filter(None, path.split(".")):
        node = node[part]
    return node


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of every leaf; an empty mapping counts as a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _chosen(family: type[Variant], node: object, default: object) -> type[Variant]:
    """The variant that ``node`` chooses; for a type that does not exist, the default variant."""
    known = variants(family)
    name = node.get("type") if isinstance(node, Mapping) else None
    if isinstance(name, str) and name in known:
        return known[name]
    return type(default) if isinstance(default, Variant) else next(iter(known.values()))


def _choose(node: Tree, family: type[Variant], key: str, value: object) -> None:
    chosen = find_variant(family, value, key)
    if node.get("type") != value:
        node.clear()
        node.update(default_tree(chosen))


def _place(tree: Tree, path: str) -> Place | None:
    return next((place for place in places(Experiment, tree) if place.path == path), None)


def _add_piece(tree: Tree, key: str, pairs: Mapping[str, object]) -> None:
    """Add the piece that ``key`` switches on or sets a field of; ``recipe.ema=off`` removes it."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        path, name = ".".join(parts[:depth]), parts[depth]
        place = _place(tree, path)
        if place is None or not place.pieces or place.family is None:
            continue
        piece, node = f"{path}.{name}", node_at(tree, path)
        chosen = find_variant(place.family, name, piece)
        if key == piece and str(pairs[key]) in {"off", "none", "None"}:
            inside = next((other for other in pairs if other.startswith(f"{piece}.")), None)
            if inside:
                raise ConfigError(
                    f"set, but {piece} is off", code="given_twice", key=inside, remedy="drop one of the two"
                )
            node.pop(name, None)
        elif key == piece and pairs[key] != "on":
            raise ConfigError("expected on or off", code="bad_value", key=key, value=pairs[key])
        elif name not in node:
            node[name] = _piece_defaults(chosen)


def _piece_defaults(piece: type[Variant]) -> Tree:
    tree = default_tree(piece)
    del tree["type"]
    return tree


def _check_variant(key: str, place: Place) -> None:
    """Raise ConfigError if ``key`` is a field of another variant of the family."""
    leaf = key.removeprefix(f"{place.path}.").partition(".")[0]
    if place.family is None or place.pieces or leaf in place.section.model_fields:
        return
    owners = [name for name, variant in variants(place.family).items() if leaf in variant.model_fields]
    if owners:
        raise ConfigError(
            f"a field of {place.path}.type={' or '.join(owners)}, but "
            f"{place.path}.type={place.section.model_fields['type'].default} is selected",
            code="wrong_variant",
            key=key,
            remedy=f"select {place.path}.type={owners[0]}, or leave the field out",
        )


def _takes_none(tree: Tree, key: str) -> bool:
    """Whether the field at ``key`` can be None, for which an override says none; else that is a text."""
    section, _, leaf = key.rpartition(".")
    place = _place(tree, section)
    return _accepts_none(place.section if place else Experiment, leaf)


@cache
def _accepts_none(section: type[BaseModel], name: str) -> bool:
    field = section.model_fields[name]
    try:
        kind: Any = Annotated[field.annotation, "", *field.metadata]
        TypeAdapter(kind).validate_python(None)
    except ValidationError:
        return False
    return True


def _suggestion(word: str, known: list[str]) -> str:
    leaf = word.rpartition(".")[2]
    same_leaf = [key for key in known if key.rpartition(".")[2] == leaf][:1]
    return did_you_mean(word, known) or (f"did you mean {same_leaf[0]}?" if same_leaf else "")
