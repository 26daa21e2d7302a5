"""Reading an experiment from a script or a YAML file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineray.errors import ConfigError

if TYPE_CHECKING:
    from kineray.config import Experiment

_REMEDY = "pass an experiment script or YAML file, such as experiments/slowfast.py"


@dataclass(frozen=True)
class Script:
    """The definitions in a file: ``experiment``, and in a script also ``smoke`` and ``search_space``."""

    experiment: "Experiment"
    smoke: "Experiment | None" = None
    search_space: dict[str, Any] = field(default_factory=dict)


def load_script(path: str) -> Script:
    """Read ``path``: a Python script that defines ``experiment``, or a YAML file.

    Raises ConfigError if the file is missing, raises an error, or defines no experiment.
    """
    from kineray.config import from_yaml
    from kineray.config.plugins import load_file, read_text

    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such file", code="not_found", key=path, remedy=_REMEDY)
    if file.suffix in {".yaml", ".yml", ".json"}:  # JSON is YAML
        return Script(from_yaml(read_text(file, _REMEDY), path))
    if file.suffix != ".py":
        raise ConfigError(
            "expected a .py script or a .yaml file",
            code="not_an_experiment",
            key=path,
            remedy=_REMEDY,
        )
    names = vars(load_file(file)[1])
    space = names.get("search_space")
    return checked(names.get("experiment"), names.get("smoke"), {} if space is None else space, path)


def checked(experiment: object, smoke: object, search_space: dict[str, Any], path: str) -> Script:
    """The definitions of the script at ``path``. Raises ConfigError for those that are no experiments."""
    from kineray.config import Experiment

    if not isinstance(experiment, Experiment):
        raise ConfigError(
            "defines no 'experiment'" if experiment is None else "'experiment' is not an experiment",
            code="not_defined" if experiment is None else "not_an_experiment",
            key=path,
            remedy="write experiment = kineray.Experiment(...)",
        )
    if smoke is not None and not isinstance(smoke, Experiment):
        raise ConfigError(
            "'smoke' is not an experiment",
            code="not_an_experiment",
            key=path,
            remedy="write smoke = kineray.Experiment(...)",
        )
    return Script(experiment, smoke, search_space)
