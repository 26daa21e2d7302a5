"""Variants: the one mechanism by which everything that varies is added.

A *family* is a base section, such as ``ModelSection``. To add a variant, declare a subclass with a
``type``:

    class TsmConfig(ModelSection, type="tsm"):
        shift: float = 0.125

        def build(self, heads, in_channels):
            return Tsm(self, heads, in_channels)

``model.type=tsm`` then works in overrides, YAML, search spaces, listings and errors. kineray's own variants
are declared in the same way, one in each module of the package ``home``, which is imported when the variants
of the family are first asked for. Their implementation is named by ``builds="kineray.models.c3d.C3D"`` and
imported when it is first used, so that a configuration needs no torch. What a search tries of a variant if it
only chooses among types is said by ``space={"shift": Choice(0.125, 0.25)}``.

A field of the family's type holds one of its variants (``model.type=tsm``). A field of type ``Pieces`` holds
several of them, called *pieces*, by their ``type`` (``recipe.mixup.alpha=0.2``).
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    InitErrorDetails,
    PydanticCustomError,
    PydanticUndefined,
    core_schema,
)

from kineray.config.domains import SearchSpace
from kineray.config.fields import Section
from kineray.config.problems import did_you_mean
from kineray.errors import ConfigError

Kind: TypeAlias = type["Variant"]  # inside the class ``type`` is a field

_FAMILIES: list[Kind] = []
_DECLARE_IT = "or name the file that declares it as `plugin`"


class Variant(Section):
    """Base of all families. ``type`` names the variant among those of its family."""

    type: str = ""

    builds: ClassVar[str] = ""
    """Dotted name of the class or function that implements the variant."""
    order: ClassVar[int] = 0
    """Pieces with a lower order come first, in whatever order they are written."""
    default_space: ClassVar[SearchSpace] = {}
    """Domains of the variant's fields, searched where a search chooses among types and says no more."""

    _home: ClassVar[str] = ""
    _family: ClassVar[Kind | None] = None
    _members: ClassVar[dict[str, Kind]] = {}

    def __init_subclass__(
        cls,
        *,
        type: str = "",
        home: str = "",
        builds: str = "",
        space: SearchSpace | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if home:
            cls._home, cls._family, cls._members = home, cls, {}
            _FAMILIES.append(cls)
        if builds:
            cls.builds = builds
        if space is not None:
            cls.default_space = space
        if type:
            cls.__annotations__ = {**inspect.get_annotations(cls), "type": Literal[type]}
            cls.type = type
            cls._declare(type)

    @classmethod
    def _declare(cls, name: str) -> None:
        before = cls._members.get(name)
        # A file that is loaded again declares its variants again.
        if before is not None and before._source() != cls._source():
            raise ConfigError(
                f"declares the type '{name}', as {before._source()} already does",
                code="variant_declared_twice",
                key=cls._source(),
                remedy="choose another name",
            )
        cls._members[name] = cls

    @classmethod
    def family(cls) -> Kind | None:
        """The base section that this is a variant of."""
        return cls._family

    @classmethod
    def _source(cls) -> str:
        return f"{cls.__module__}.{cls.__qualname__}"

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The object that this variant configures: ``builds``, called with the variant and the arguments."""
        return self.implementation()(self, *args, **kwargs)

    @classmethod
    def implementation(cls) -> Any:
        """The object that ``builds`` names. Raises ConfigError if there is none."""
        if not cls.builds:
            raise ConfigError(
                "has no implementation",
                code="no_implementation",
                key=cls._source(),
                remedy="define build(), or declare the class with builds='package.module.Class'",
            )
        return imported(cls.builds)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if cls._family is not cls:
            return handler(source)
        # A field of a family's type holds any of its variants.
        return core_schema.no_info_plain_validator_function(
            cls._select,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True),
        )

    @classmethod
    def _select(cls, value: object) -> "Variant":
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a section with a type, not {value!r}")
        return _found(cls, value.get("type", "")).model_validate(value)


FamilyMember = TypeVar("FamilyMember", bound=Variant)


class Pieces(Mapping[str, FamilyMember], Generic[FamilyMember]):
    """Variants of one family that are used together, by their type: ``Pieces(MixupConfig(alpha=0.2))``.

    They are sorted by ``Variant.order``, then by type.
    """

    def __init__(self, *pieces: FamilyMember) -> None:
        """Raises ValueError for two pieces of one type."""
        self._pieces = {p.type: p for p in sorted(pieces, key=lambda piece: (piece.order, piece.type))}
        if len(self._pieces) != len(pieces):
            raise ValueError("two pieces of one type")

    def __getitem__(self, name: str) -> FamilyMember:
        return self._pieces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pieces) and self._pieces == other._pieces

    def __hash__(self) -> int:
        return hash(tuple(self._pieces.items()))

    def __repr__(self) -> str:
        return f"Pieces({', '.join(map(repr, self._pieces.values()))})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        family = source.__args__[0]

        def select(value: object) -> Pieces[Any]:
            if isinstance(value, cls):
                return value
            if isinstance(value, list | tuple):
                return cls(*(family._select(piece) for piece in value))
            if not isinstance(value, Mapping):
                raise ValueError(f"expected pieces by their type, not {value!r}")
            return cls(*(_piece(family, name, fields) for name, fields in value.items()))

        return core_schema.no_info_plain_validator_function(
            select,
            serialization=core_schema.plain_serializer_function_ser_schema(_dump_pieces, info_arg=True),
        )


def imported(dotted: str) -> Any:
    """The object that a dotted name stands for, whose module is imported now."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def variants(family: type[FamilyMember]) -> dict[str, type[FamilyMember]]:
    """The variants of a family by their type: kineray's own by name, then those of plug-ins."""
    _import_all(family._home)
    members: dict[str, Any] = dict(sorted(family._members.items()))
    ours = {name: cls for name, cls in members.items() if cls.__module__.startswith("kineray.")}
    return ours | members


@cache
def _import_all(home: str) -> None:
    """Import every module of a package, once: each key of an experiment asks for variants many times."""
    package = importlib.import_module(home)
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        importlib.import_module(f"{home}.{module.name}")


def families() -> list[type[Variant]]:
    """All families that are declared, in order of declaration."""
    return [family for family in _FAMILIES if family._family is family]


def undeclare(module: str) -> list[Kind]:
    """Remove the variants that a module declares; returns them, for ``redeclare``."""
    found = [
        variant
        for family in families()
        for variant in family._members.values()
        if variant.__module__ == module
    ]
    for variant in found:
        del variant._members[variant.model_fields["type"].default]
    return found


def redeclare(removed: list[Kind]) -> None:
    """Declare variants as they were before ``undeclare``."""
    for variant in removed:
        variant._declare(variant.model_fields["type"].default)


def find_variant(family: type[FamilyMember], name: object, key: str = "") -> type[FamilyMember]:
    """The variant of a type. Raises ConfigError about ``key``, with a suggestion, if there is none."""
    known = variants(family)
    if isinstance(name, str) and name in known:
        return known[name]
    choices = f"one of {', '.join(known)}"
    raise ConfigError(
        f"{name!s} is not {choices}" if name else "has no type",
        code="unknown_variant",
        key=key,
        remedy=(did_you_mean(str(name), known) or _DECLARE_IT) if name else f"choose {choices}",
    )


def family_of(annotation: Any) -> type[Variant] | None:
    """The family of which a field of this type holds one variant."""
    is_family = (
        isinstance(annotation, type) and issubclass(annotation, Variant) and annotation._family is annotation
    )
    return annotation if is_family else None


def family_of_pieces(annotation: Any) -> type[Variant] | None:
    """The family of which a field of this type holds pieces."""
    return annotation.__args__[0] if getattr(annotation, "__origin__", None) is Pieces else None


def default_tree(section: type[BaseModel]) -> dict[str, Any]:
    """The defaults of a section as plain values; fields without a default are left out."""
    tree: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            continue
        if isinstance(default, Pieces):
            tree[name] = {piece: value.model_dump(exclude={"type"}) for piece, value in default.items()}
        else:
            tree[name] = default.model_dump() if isinstance(default, BaseModel) else default
    return tree


def _found(family: type[FamilyMember], name: object) -> type[FamilyMember]:
    """``find_variant`` inside a validator, whose errors are pydantic's."""
    try:
        return find_variant(family, name)
    except ConfigError as error:
        raise PydanticCustomError("unknown_variant", "{message}", {"message": str(error)}) from None


def _piece(family: type[FamilyMember], name: object, fields: object) -> FamilyMember:
    member = _found(family, name)
    if isinstance(fields, member):
        return fields
    try:
        return member.model_validate({**fields, "type": name} if isinstance(fields, Mapping) else fields)
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            error.title, [_inside(name, e) for e in error.errors()]
        ) from None


def _inside(name: object, error: ErrorDetails) -> InitErrorDetails:
    """The same error with ``name`` in front of its location."""
    kind = PydanticCustomError(error["type"], "{message}", {"message": error["msg"]})
    return InitErrorDetails(type=kind, loc=(str(name), *error["loc"]), input=error["input"])


def _dump(value: Variant, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return value.model_dump(mode=info.mode)


def _dump_pieces(value: Pieces[Any], info: core_schema.SerializationInfo) -> dict[str, Any]:
    return {name: piece.model_dump(mode=info.mode, exclude={"type"}) for name, piece in value.items()}
