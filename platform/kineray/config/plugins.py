"""Plug-ins: a user's own variants, in the user's own file.

A plug-in is a Python file or module that declares variants. It is named by a call of ``load_plugins``, by
the option ``--plugin``, in ``KINERAY_PLUGINS`` (several are separated by commas) or by an entry point of the
group ``kineray.plugins``, or it is the experiment script itself. Nothing else is ever executed.

Processes on other hosts get its source as a ``Plugin``, whose ``execute`` declares the variants there; the
modules that it imports from its own folder or package travel with it. The hash of the source of every plug-in
that an experiment uses is part of its fingerprint.
"""

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from kineray.config.problems import bad_value
from kineray.config.sources import SOURCES, ModuleSource, importable, modules_beside
from kineray.config.variants import Pieces, Variant, families, redeclare, undeclare
from kineray.errors import ConfigError, KinerayError

ENVIRONMENT = "KINERAY_PLUGINS"
ENTRY_POINTS = "kineray.plugins"

_PREFIX = "kineray_plugin_"  # of module names made from files: none hides an installed module


@dataclass(frozen=True)
class Plugin:
    """The source of a file that declares variants.

    ``name``: of the file, such as ``my_tsm.py``, or in a package that of the module; ``module``: name of the
    module that its classes belong to; ``path``: where the file was read; ``imports``: the modules that it
    imports from its own folder or package.
    """

    name: str
    module: str
    path: str
    source: str
    imports: tuple[ModuleSource, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the source and of what it imports, in hex: it identifies the plug-in in fingerprints and
        checkpoints.
        """
        texts = [self.source, *(f"{module.name}\n{module.text}" for module in self.imports)]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()

    @property
    def own(self) -> ModuleSource:
        """Its own module."""
        return ModuleSource(self.module, self.path, self.source, Path(self.path).name == "__init__.py")

    @property
    def reference(self) -> str:
        """What ``load_plugins`` knows it by: its path, or the name of an installed module."""
        return self.path if self.module.startswith(_PREFIX) else self.module

    def to_json(self) -> dict[str, Any]:
        """Plain values, source included."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**value | {"imports": tuple(ModuleSource(**module) for module in value["imports"])})

    def execute(self) -> ModuleType:
        """Declare its variants in this process, unless that is done already; returns its module.

        Raises ConfigError, with file and line, if the source fails.
        """
        loaded = _LOADED.get(self.module)
        if loaded is None or loaded.sha256 != self.sha256:
            _execute(self)
        return sys.modules[self.module]


_LOADED: dict[str, Plugin] = {}


def load_plugins(*references: str | os.PathLike[str]) -> tuple[Plugin, ...]:
    """Declare the variants of plug-ins; each is a path that ends in .py, or the name of a module.

    Without arguments, those of ``KINERAY_PLUGINS`` and of entry points are loaded. A file that is loaded
    again is executed again only if it has changed. Raises ConfigError for a plug-in that does not exist or
    fails, with file and line.
    """
    return tuple(_load(os.fspath(reference)) for reference in references or _installed())


def load_file(path: str | os.PathLike[str], module: str = "") -> tuple[Plugin, ModuleType]:
    """Execute a Python file as a module; variants that it declares belong to it. Raises ConfigError."""
    plugin = _read(Path(path), module)
    same = (known for known in _LOADED.values() if (known.name, known.sha256) == (plugin.name, plugin.sha256))
    plugin = next(same, plugin)  # a copy of what is loaded already
    return plugin, plugin.execute()


def require_plugins(needed: Mapping[str, str], key: str) -> None:
    """Raise ConfigError unless the plug-ins ``needed`` ({file name: sha256}) are loaded, unchanged.

    ``key``: what needs them, such as the folder of a checkpoint.
    """
    here = {plugin.name: plugin.sha256 for plugin in loaded_plugins()}
    for name, sha256 in needed.items():
        if name not in here:
            raise ConfigError(
                f"needs the plug-in {name} (sha256 {sha256[:12]}), which is not loaded",
                code="plugin_missing",
                key=key,
                remedy=f"name it: `plugin` {name}",
            )
        if here[name] != sha256:
            raise ConfigError(
                f"needs the plug-in {name} (sha256 {sha256[:12]}), but another one is loaded "
                f"({here[name][:12]})",
                code="plugin_differs",
                key=key,
                remedy="load the file with the content that it had then",
            )


def loaded_plugins() -> tuple[Plugin, ...]:
    """The plug-ins whose variants are declared in this process.

    The script of ``__main__`` and modules that were simply imported are among them.
    """
    imported = (_plugin_of(module) for module in _declaring() if not module.startswith("kineray."))
    return tuple(dict.fromkeys((*_LOADED.values(), *filter(None, imported))))


def plugins_of(section: BaseModel) -> tuple[Plugin, ...]:
    """The plug-ins that declare the variants in ``section``, in order of their names, each once.

    Raises ConfigError for a variant whose source cannot be found, such as one typed into a notebook.
    """
    found: dict[str, Plugin] = {}
    for variant in _variants_in(section):
        module = type(variant).__module__
        if module.startswith("kineray."):
            continue
        plugin = _plugin_of(module)
        if plugin is None:
            raise ConfigError(
                "is not declared in a file, so other processes cannot load it",
                code="no_source",
                key=f"{module}.{type(variant).__qualname__}",
                remedy="put the class into a .py file and load it with kineray.load_plugins('FILE.py')",
            )
        found[plugin.name] = plugin
    return tuple(found[name] for name in sorted(found))


def read_text(file: Path, remedy: str) -> str:
    """The text of a file that the user named. Raises ConfigError with ``remedy`` if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("no such file", code="not_found", key=file, remedy=remedy) from None
    except UnicodeDecodeError:
        raise ConfigError("not a text file in UTF-8", code="not_text", key=file, remedy=remedy) from None
    except OSError as error:
        raise ConfigError(str(error.strerror), code="not_readable", key=file, remedy=remedy) from None


def is_loading() -> bool:
    """Whether a plug-in or script is being executed for what it declares."""
    return bool(_EXECUTING)


def check_main_guard(function: str) -> None:
    """Raise ConfigError if a process that loads the calling script would call ``function`` once more.

    ``function``: the public function that is called, such as ``kineray.train``.
    """
    if is_loading():
        raise ConfigError(
            "is called while a script is loaded for what it declares",
            code="no_main_guard",
            key=function,
            remedy=_GUARD,
        )
    plugin = _plugin_of("__main__") if "__main__" in _declaring() else None
    line = plugin and _unguarded_line(ast.parse(plugin.source))
    if plugin and line:
        raise ConfigError(
            f"calls {function} in every process that loads it, and workers load it for what it declares",
            code="no_main_guard",
            key=f"{plugin.path}:{line}",
            remedy=_GUARD,
        )


def _unguarded_line(script: ast.Module) -> int:
    """The line of ``__main__`` that is being executed; 0 if only ``python SCRIPT`` executes it."""
    frames = [frame for frame, _ in traceback.walk_stack(None)]
    if any(frame.f_globals.get("__name__") == "kineray.cli.app" for frame in frames):
        return 0  # ``kineray.main``, which does nothing while a script is loaded
    lines = [
        f.f_lineno
        for f in frames
        if (f.f_globals.get("__name__"), f.f_code.co_name) == ("__main__", "<module>")
    ]
    line = lines[-1] if lines else 0
    is_guarded = any(
        isinstance(node, ast.If)
        and "__name__" in ast.dump(node.test)
        and node.lineno <= line <= (node.end_lineno or 0)
        for node in script.body
    )
    return 0 if is_guarded else line


_EXECUTING: list[str] = []

_GUARD = 'put the call under `if __name__ == "__main__":`'


def _installed() -> Iterator[str]:
    yield from filter(None, os.environ.get(ENVIRONMENT, "").split(","))
    yield from (point.value.partition(":")[0] for point in entry_points(group=ENTRY_POINTS))


def _load(reference: str) -> Plugin:
    if reference.endswith(".py"):
        return load_file(reference)[0]
    try:
        spec = importlib.util.find_spec(reference)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(
            "no module of this name", code="not_found", key=reference, remedy="name a .py file or a module"
        )
    return load_file(spec.origin, reference)[0]


def _read(file: Path, module: str) -> Plugin:
    text, path = read_text(file, "name a Python file or an installed module"), file.absolute()
    return _with_imports(
        ModuleSource(module or _module_of(path), str(path), text, file.name == "__init__.py")
    )


def _with_imports(source: ModuleSource, known: Mapping[str, ModuleSource] = MappingProxyType({})) -> Plugin:
    name = source.name if source.package else Path(source.path).name
    return Plugin(name, source.name, source.path, source.text, modules_beside(source, known))


def _module_of(file: Path) -> str:
    """The name of the module for a file: in a package its own, elsewhere one for every path."""
    packages = list(takewhile(lambda folder: (folder / "__init__.py").is_file(), file.parents))
    if packages:
        stem = () if file.name == "__init__.py" else (file.stem,)
        return ".".join((*(folder.name for folder in reversed(packages)), *stem))
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    return f"{_PREFIX}{re.sub(r'[^0-9A-Za-z]', '_', file.stem)}_{digest}"


def _execute(plugin: Plugin) -> None:
    sources, needed = dict(SOURCES), (plugin.own, *plugin.imports)
    before = {module.name: sys.modules[module.name] for module in needed if module.name in sys.modules}
    changed = sources.keys() & before.keys() if importable(needed) else set()
    replaced = [variant for name in changed for variant in undeclare(name)]
    for name in changed:
        del sys.modules[name]
    _EXECUTING.append(plugin.module)
    try:
        importlib.import_module(plugin.module)  # the user named it
    except Exception as error:
        for name in {module.name for module in needed} - (before.keys() - changed):
            undeclare(name)
            sys.modules.pop(name, None)
        sys.modules.update(before)
        SOURCES.clear()
        SOURCES.update(sources)
        redeclare(replaced)
        raise _failure(error, {module.path for module in needed}) from error
    finally:
        _EXECUTING.pop()
    _LOADED[plugin.module] = plugin


def _failure(error: Exception, paths: Container[str]) -> ConfigError:
    """What a plug-in raised while it was executed, at its innermost line in ``paths``."""
    places = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno or 0))
    file, line = [place for place in places if place[0] in paths][-1]
    if isinstance(error, ValidationError):
        error = bad_value(error, {}, (error.title,))
    if isinstance(error, KinerayError):
        return ConfigError(str(error), code=error.code, key=f"{file}:{line}")
    return ConfigError(
        f"{type(error).__name__}: {' '.join(str(error).split())}",
        code="plugin_failed",
        key=f"{file}:{line}",
        remedy="correct the file, or leave it out",
    )


def _declaring() -> list[str]:
    """The names of the modules that declare variants."""
    return list({cls.__module__: None for family in families() for cls in family._members.values()})


def _plugin_of(name: str) -> Plugin | None:
    """The plug-in that is an imported module; None if it has no source file."""
    if name in _LOADED:
        return _LOADED[name]
    if name in SOURCES:
        return _with_imports(SOURCES[name], SOURCES)
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None or not path.endswith(".py") or not Path(path).is_file():
        return None
    return _read(Path(path), "" if name == "__main__" else name)


def _variants_in(section: BaseModel) -> Iterator[Variant]:
    if isinstance(section, Variant):
        yield section
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        parts: Iterable[Any] = value.values() if isinstance(value, Pieces) else (value,)
        for part in parts:
            if isinstance(part, BaseModel):
                yield from _variants_in(part)
