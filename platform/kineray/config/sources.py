"""The modules that a plug-in imports from beside it: found as source text, and imported elsewhere from it."""

import ast
import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType

from kineray.errors import ConfigError

# Modules of these folders are installed: other hosts have them too.
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class ModuleSource:
    """The source text of a module. ``path``: where it was read."""

    name: str
    path: str
    text: str
    is_package: bool = False

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


def read_module(name: str, file: Path) -> ModuleSource | None:
    """The module of a Python file; None if the file cannot be read."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    return ModuleSource(name, str(file), text, file.name == "__init__.py")


def modules_beside(
    module: ModuleSource, known: Mapping[str, ModuleSource] = MappingProxyType({})
) -> tuple[ModuleSource, ...]:
    """The modules that ``module`` imports from its own folder or package, in any depth, in order of name.

    They are found by their files, not by importing them, so imports inside functions count too. What is
    installed is left out, unless it belongs to the module's own package. ``known``: modules that need not be
    read.
    """
    found = {module.name: module}
    names = [*_with_parents(module.name), *_imported_names(module)]
    while names:
        name = names.pop()
        if name not in found and (neighbour := known.get(name) or _beside(module, name)):
            found[name] = neighbour
            names += _imported_names(neighbour)
    return tuple(found[name] for name in sorted(found) if name != module.name)


def _beside(module: ModuleSource, name: str) -> ModuleSource | None:
    top, file = name.partition(".")[0], Path(module.path)
    root = file.parents[len(module.package.split(".")) if module.package else 0]
    is_other_package = top != module.package.partition(".")[0]
    if (is_other_package and _INSTALLED & set(root.parts)) or _is_elsewhere(top, root):
        return None
    base = root.joinpath(*name.split("."))
    if (base / "__init__.py").is_file():
        return read_module(name, base / "__init__.py")
    if base.is_dir():  # a package without a file of its own
        return ModuleSource(name, str(base / "__init__.py"), "", is_package=True)
    return read_module(name, base.with_name(f"{base.name}.py"))


def _is_elsewhere(top: str, root: Path) -> bool:
    """Whether Python finds a top-level module elsewhere than in ``root``, and not because of a plug-in."""
    if top in SOURCES:
        return False
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return True
    if spec is None:
        return False
    # A folder beside may have the name of an installed package, and even hold it: a checkout does.
    found = [place for place in (spec.origin, *(spec.submodule_search_locations or ())) if place]
    beside = (root / f"{top}.py", root / top / "__init__.py", root / top)
    return {os.path.realpath(place) for place in found}.isdisjoint(map(os.path.realpath, beside))


def _imported_names(module: ModuleSource) -> Iterator[str]:
    """The dotted names of all modules that the import statements of a module may mean."""
    try:
        tree = ast.parse(module.text)
    except (SyntaxError, ValueError):  # executing it reports the error
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, module.package)
            for alias in node.names:
                yield from _with_parents(f"{base}.{alias.name}".lstrip("."))


def _base(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of the module in ``from MODULE import ...``; "" if there is none."""
    try:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    except ImportError:  # beyond the top-level package: executing it reports the error
        return ""


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[: depth + 1]) for depth in range(len(parts)))


# -- importing from source texts -------------------------------------------------------------------------

SOURCES: dict[str, ModuleSource] = {}
"""The modules that this process imports from their source texts, by name."""


def importable(modules: Iterable[ModuleSource]) -> bool:
    """Let this process import ``modules`` from their source texts.

    Returns whether it has imported one of them with another text. Raises ConfigError if a module of the same
    name, but of another file, was imported.
    """
    has_changed = False
    for module in modules:
        imported = sys.modules.get(module.name)
        if imported and (path := getattr(imported, "__file__", None) or module.path) != module.path:
            raise ConfigError(
                f"imports {module.name}, but another module of this name is loaded ({path})",
                code="module_name_taken",
                key=module.path,
                remedy="rename one of the two files",
            )
        has_changed |= imported is not None and SOURCES.get(module.name, module) != module
        SOURCES[module.name] = module
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    return has_changed


class _Loader(importlib.abc.ExecutionLoader):
    def __init__(self, source: ModuleSource) -> None:
        self._source = source

    def get_filename(self, fullname: str) -> str:
        return self._source.path

    def get_source(self, fullname: str) -> str:
        return self._source.text

    def is_package(self, fullname: str) -> bool:
        return self._source.is_package


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        source = SOURCES.get(fullname)
        return importlib.util.spec_from_loader(fullname, _Loader(source)) if source else None


_FINDER = _Finder()
