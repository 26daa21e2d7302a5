"""The code that made a run: the git state of the working directory, its files, and package versions."""

import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import kineray
from kineray.config import Experiment, plugins_of
from kineray.config.sources import ModuleSource, modules_beside, read_module

_PACKAGES = ("kineray", "torch", "torchvision", "ray", "av", "mlflow", "numpy", "optuna")


@dataclass(frozen=True)
class GitState:
    """The commit of the working directory and the differences from it.

    ``patch``: the names of untracked files as comments, followed by ``git diff HEAD``; empty if nothing
    differs.
    """

    commit: str
    patch: str

    @property
    def dirty(self) -> bool:
        """Whether files differ from the commit."""
        return bool(self.patch)


def git_state() -> GitState | None:
    """The git state of the working directory, None outside a repository or before a first commit."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    untracked = (_git("ls-files", "--others", "--exclude-standard") or "").splitlines()
    patch = "".join(f"# untracked: {name}\n" for name in untracked) + (_git("diff", "HEAD") or "")
    return GitState(commit.strip(), patch)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> str:
    """The installed packages, a line each, as ``pip freeze`` lists them; the first line is a comment."""
    found = {f"{one.metadata['Name']}=={one.version}" for one in metadata.distributions()}
    about = f"# Python {platform.python_version()} on {platform.platform()}"
    return "\n".join([about, *sorted(found, key=str.lower)]) + "\n"


def code(experiment: Experiment, command: Iterable[str]) -> dict[str, str]:
    """Sources, by path: of the scripts that ``command`` names, of plug-ins, and of what they import beside.

    kineray's own are left out: their version, or commit, is recorded.
    """
    files: dict[str, str] = {}
    for word in command:
        path = Path(word)
        if path.suffix in {".py", ".yaml", ".yml"} and path.is_file() and not _is_ours(path):
            module = read_module(path.stem, path)
            if module is not None:
                beside = modules_beside(module) if path.suffix == ".py" else ()
                files |= {path.name: module.text, **dict(map(_placed, beside))}
    for plugin in plugins_of(experiment):
        name = plugin.name if plugin.name.endswith(".py") else f"{plugin.name.replace('.', '/')}.py"
        files |= {name: plugin.source, **dict(map(_placed, plugin.imports))}
    return files


def _placed(module: ModuleSource) -> tuple[str, str]:
    folder = module.name.replace(".", "/")
    return f"{folder}/__init__.py" if module.is_package else f"{folder}.py", module.text


def _is_ours(path: Path) -> bool:
    return path.resolve().is_relative_to(Path(str(kineray.__file__)).resolve().parent)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
