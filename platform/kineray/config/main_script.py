"""The script that Python was started with, if it defines an experiment: its mistakes are one line each."""

import ast
import atexit
import sys
import traceback
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from kineray.config.problems import bad_value
from kineray.config.schema import Experiment
from kineray.errors import KinerayError

_RUNS = {"main", "train", "sweep"}  # what a script calls that is more than a definition
_LIBRARIES = {"kineray", "pydantic", "pydantic_core"}


def watch_main_script() -> None:
    """From now on, if Python executes a script:

    * an error of kineray or of pydantic's checks, raised by a line of it, is printed as one line with that
      line's number, with exit code 2;
    * a script that defines ``experiment`` and ends without running anything says so.
    """
    file = _script()
    if file is not None and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print_one_line
        atexit.register(_print_what_is_missing, file)


def _script() -> str | None:
    """The file of ``__main__``; None for a module (``python -m``), a notebook, or no file."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    is_script = file is not None and file.endswith(".py") and getattr(main, "__spec__", None) is None
    return file if is_script else None


def _print_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.excepthook = sys.__excepthook__
    atexit.unregister(_print_what_is_missing)
    line = _line_of(trace)
    if isinstance(error, ValidationError):
        error = bad_value(error, {}, (error.title,))
    if not isinstance(error, KinerayError) or line is None or hasattr(error, "__notes__"):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(f"kineray: {_script()}:{line}: {' '.join(str(error).split())}\n")
    raise SystemExit(2)


def _line_of(trace: TracebackType | None) -> int | None:
    """The line of the script that called what raised; None if any other code was between the two."""
    steps = [(frame.f_globals.get("__name__", ""), line) for frame, line in traceback.walk_tb(trace)]
    while steps and steps[-1][0].partition(".")[0] in _LIBRARIES:
        steps.pop()
    return steps[-1][1] if steps and steps[-1][0] == "__main__" else None


def _print_what_is_missing(file: str) -> None:
    main = sys.modules.get("__main__")
    if isinstance(getattr(main, "experiment", None), Experiment) and _only_defines(file):
        missing = "defines an experiment and runs nothing; end it with kineray.main(experiment)"
        sys.stderr.write(f"kineray: {file}: {missing}\n")


def _only_defines(file: str) -> bool:
    """Whether a script assigns ``experiment`` and calls nothing that runs it."""
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, SyntaxError):
        return False
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {getattr(func, "attr", getattr(func, "id", "")) for func in calls}
    return not called & _RUNS and any(isinstance(t, ast.Name) and t.id == "experiment" for t in targets)
