"""Plug-ins: a user's own variants, in the user's own file.

A plug-in is a Python file, or a module by its name, that declares variants. It is named by ``load_plugins``,
by the option ``--plugin``, in ``KINERAY_PLUGINS`` (several are separated by commas), by an entry point of the
group ``kineray.plugins``, or it is the experiment script itself. Nothing else is ever executed.

What processes on other hosts need of it is its source: a ``Plugin`` carries it, and ``execute`` declares its
variants there. The hash of the source of every plug-in that an experiment uses is part of its fingerprint.
"""

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from pydantic import BaseModel

from kineray.config.variants import Pieces, Variant
from kineray.errors import ConfigError

ENVIRONMENT = "KINERAY_PLUGINS"
ENTRY_POINTS = "kineray.plugins"

_PREFIX = "kineray_plugin_"  # of the modules that files become, so that no installed module is hidden


@dataclass(frozen=True)
class Plugin:
    """The source of a file that declares variants.

    ``name``: of the file, such as ``my_tsm.py``; ``module``: that its classes belong to; ``path``: where it
    was read; ``sha256``: of its source, in hex.
    """

    name: str
    module: str
    path: str
    source: str

    @property
    def sha256(self) -> str:
        """Of the source: what a fingerprint and a checkpoint know the plug-in by."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def to_json(self) -> dict[str, str]:
        """Plain values, source included."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Self:
        """What ``to_json`` gave."""
        return cls(**value)

    def execute(self) -> None:
        """Declare its variants in this process, if that is not done yet. Raises ConfigError if that fails."""
        loaded = _LOADED.get(self.module)
        if loaded is None or loaded.sha256 != self.sha256:
            _execute(self)


_LOADED: dict[str, Plugin] = {}


def load_plugins(*references: str | os.PathLike[str]) -> tuple[Plugin, ...]:
    """Declare the variants of plug-ins; each is a path that ends in .py, or the name of a module.

    Without arguments those of ``KINERAY_PLUGINS`` and of entry points. A file that is loaded again is
    executed again only if it has changed. Raises ConfigError for one that is not there or fails, with the
    line.
    """
    return tuple(_load(os.fspath(reference)) for reference in references or _usual())


def load_file(path: str | os.PathLike[str], module: str = "") -> tuple[Plugin, ModuleType]:
    """Execute a Python file as a module; variants that it declares belong to it. Raises ConfigError."""
    file = Path(path)
    try:
        source = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            "no such file", code="not_found", key=path, remedy="name a Python file or an installed module"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("not a text file in UTF-8", code="not_text", key=path) from None
    except OSError as error:
        raise ConfigError(str(error.strerror), code="not_readable", key=path) from None
    module = module or _PREFIX + re.sub(r"\W", "_", file.stem)
    plugin = Plugin(file.name, module, str(file.absolute()), source)
    loaded = _LOADED.get(module)
    if loaded is not None and loaded.sha256 != plugin.sha256 and Path(loaded.path) != file.absolute():
        raise ConfigError(
            f"another plug-in of this name is loaded, from {loaded.path}", code="plugin_twice", key=path
        )
    if loaded is None or loaded.sha256 != plugin.sha256:
        _execute(plugin)
    return plugin, sys.modules[module]


def loaded_plugins() -> tuple[Plugin, ...]:
    """The plug-ins whose variants are declared in this process, the script of ``__main__`` included."""
    main = _source_of("__main__")
    return (*_LOADED.values(), *((main,) if main else ()))


def plugins_of(section: BaseModel) -> tuple[Plugin, ...]:
    """The plug-ins that declare the variants in ``section``, in order of their names, each once.

    Raises ConfigError for a variant whose source cannot be found, as one that was typed into a notebook.
    """
    found: dict[str, Plugin] = {}
    for variant in _variants_in(section):
        module = type(variant).__module__
        if module.startswith("kineray."):
            continue
        plugin = _LOADED.get(module) or _source_of(module)
        if plugin is None:
            raise ConfigError(
                "is declared in no file, so that other processes cannot have it",
                code="no_source",
                key=f"{module}.{type(variant).__qualname__}",
                remedy="put the class into a .py file and load it with kineray.load_plugins('FILE.py')",
            )
        found[plugin.name] = plugin
    return tuple(found[name] for name in sorted(found))


def is_loading() -> bool:
    """Whether a plug-in or script is being executed for what it declares."""
    return bool(_EXECUTING)


_EXECUTING: list[str] = []


def _usual() -> Iterator[str]:
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


def _execute(plugin: Plugin) -> None:
    file = Path(plugin.path)
    module = ModuleType(plugin.module)
    module.__file__ = plugin.path
    package, _, _ = plugin.module.rpartition(".")
    if package:
        importlib.import_module(package)
        module.__package__ = package
    before = sys.modules.get(plugin.module)
    sys.modules[plugin.module] = module
    _EXECUTING.append(plugin.module)
    try:
        exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)  # what the user named
    except ConfigError as error:
        _forget(plugin.module, before)
        raise ConfigError(
            error.problem,
            code=error.code,
            key=f"{plugin.name}: {error.key}".removesuffix(": "),
            remedy=error.remedy,
        ) from None
    except Exception as error:
        _forget(plugin.module, before)
        where = f"{file.name}:{_line_of(error, plugin.path)}"
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(problem, code="plugin_failed", key=where) from error
    finally:
        _EXECUTING.pop()
    _LOADED[plugin.module] = plugin


def _forget(name: str, before: ModuleType | None) -> None:
    if before is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = before


def _line_of(error: Exception, path: str) -> int:
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    lines = [
        frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path
    ]
    return lines[-1] if lines else 0


def _source_of(name: str) -> Plugin | None:
    """The plug-in that an imported module is."""
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None or not path.endswith(".py") or not Path(path).is_file():
        return None
    file = Path(path)
    # In other processes the script is a module like any other.
    module = _PREFIX + re.sub(r"\W", "_", file.stem) if name == "__main__" else name
    return Plugin(file.name, module, str(file.absolute()), file.read_text(encoding="utf-8-sig"))


def _variants_in(section: BaseModel) -> Iterator[Variant]:
    if isinstance(section, Variant):
        yield section
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        parts: Iterable[Any] = value.values() if isinstance(value, Pieces) else (value,)
        for part in parts:
            if isinstance(part, BaseModel):
                yield from _variants_in(part)
