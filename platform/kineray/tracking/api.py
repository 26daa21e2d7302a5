"""``kineray.list_runs`` and ``kineray.get_run``."""

from kineray.storage import runs_folder
from kineray.tracking import runs
from kineray.tracking.runs import RunDetail, RunSummary


def list_runs(storage: str | None = None) -> list[RunSummary]:
    """All runs of ``storage`` (default: KINERAY_STORAGE or ./runs), newest first.

    Raises TrackingError if MLflow cannot be reached.
    """
    return runs.list_runs(runs_folder(storage))


def get_run(run: str, *, storage: str | None = None) -> RunDetail:
    """One run, by its name or MLflow run id: its config, metrics, code version, data and checkpoints.

    ``storage``: KINERAY_STORAGE or ./runs by default. Raises TrackingError, with similar names, if there
    is no such run.
    """
    return runs.get_run(runs_folder(storage), run)
