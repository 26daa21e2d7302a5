"""The code that made a run: the git state of the working directory, and package versions."""

import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata

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


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
