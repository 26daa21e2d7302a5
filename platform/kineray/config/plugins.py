"""Plug-ins: a user's own variants, in the user's own file.

A plug-in is a Python file or module that declares variants. It is named by a call of ``load_plugins``, by
the option ``--plugin``, in ``KINERAY_PLUGINS`` (several are separated by commas) or by an entry point of the
group ``kineray.plugins``, or it is the experiment script itself. Nothing else is ever executed.

Processes on other hosts get its source as a ``Plugin``, whose ``execute`` declares the variants there. The
hash of the source of every plug-in that an experiment uses is part of its fingerprint.
"""

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from pydantic import BaseModel

from kineray.config.variants import Pieces, Variant, families, redeclare, undeclare
from kineray.errors import ConfigError, KinerayError

ENVIRONMENT = "KINERAY_PLUGINS"
ENTRY_POINTS = "kineray.plugins"

_PREFIX = "kineray_plugin_"  # of module names made from files: none hides an installed module


@dataclass(frozen=True)
class Plugin:
    """The source of a file that declares variants.

    ``name``: of the file, such as ``my_tsm.py``; ``module``: name of the module that its classes belong to;
    ``path``: where the file was read.
    """

    name: str
    module: str
    path: str
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the source, in hex: it identifies the plug-in in fingerprints and checkpoints."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def reference(self) -> str:
        """What ``load_plugins`` knows it by: its path, or the name of an installed module."""
        return self.path if self.module.startswith(_PREFIX) else self.module

    def to_json(self) -> dict[str, str]:
        """Plain values, source included."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Self:
        """What ``to_json`` gave."""
        return cls(**value)

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
    """The plug-ins whose variants are declared in this process, the script of ``__main__`` included."""
    main = _source_of("__main__") if _declares("__main__") else None
    return (*_LOADED.values(), *((main,) if main else ()))


def plugins_of(section: BaseModel) -> tuple[Plugin, ...]:
    """The plug-ins that declare the variants in ``section``, in order of their names, each once.

    Raises ConfigError for a variant whose source cannot be found, such as one typed into a notebook.
    """
    found: dict[str, Plugin] = {}
    for variant in _variants_in(section):
        module = type(variant).__module__
        if module.startswith("kineray."):
            continue
        plugin = _LOADED.get(module) or _source_of(module)
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


_EXECUTING: list[str] = []


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
    source = read_text(file, "name a Python file or an installed module")
    return Plugin(file.name, module or _module_of(file), str(file.absolute()), source)


def _module_of(file: Path) -> str:
    """The name of the module for a file, different for every path."""
    digest = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:8]
    return f"{_PREFIX}{re.sub(r'[^0-9A-Za-z]', '_', file.stem)}_{digest}"


def _execute(plugin: Plugin) -> None:
    module = ModuleType(plugin.module)
    module.__file__ = plugin.path
    if package := plugin.module.rpartition(".")[0]:
        importlib.import_module(package)
        module.__package__ = package
    before, replaced = sys.modules.get(plugin.module), undeclare(plugin.module)
    sys.modules[plugin.module] = module
    _EXECUTING.append(plugin.module)
    try:
        exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)  # the user named it
    except Exception as error:
        undeclare(plugin.module)
        redeclare(replaced)
        if before is None:
            del sys.modules[plugin.module]
        else:
            sys.modules[plugin.module] = before
        where = f"{plugin.path}:{_line_of(error, plugin.path)}"
        if isinstance(error, KinerayError):
            raise ConfigError(str(error), code=error.code, key=where) from None
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(
            problem, code="plugin_failed", key=where, remedy="correct the file, or leave it out"
        ) from error
    finally:
        _EXECUTING.pop()
    _LOADED[plugin.module] = plugin


def _line_of(error: Exception, path: str) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    lines = [
        frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path
    ]
    return lines[-1] if lines else 0


def _declares(module: str) -> bool:
    """Whether a variant of any family was declared in a module."""
    return any(cls.__module__ == module for family in families() for cls in family._members.values())


def _source_of(name: str) -> Plugin | None:
    """An imported module as a plug-in; None if it has no source file."""
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
