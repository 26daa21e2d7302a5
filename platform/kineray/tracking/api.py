"""``kineray.list_runs`` and ``kineray.get_run``."""

from kineray.storage import runs_folder
from kineray.tracking import runs
from kineray.tracking.runs import RunDetail, RunSummary


def list_runs(storage: str | None = None) -> list[RunSummary]:
    """All runs of ``storage`` (by default KINERAY_STORAGE or ./runs), newest first.

    Raises TrackingError when MLflow cannot be reached.
    """
    return runs.list_runs(runs_folder(storage))


def get_run(run: str, *, storage: str | None = None) -> RunDetail:
    """One run, by its name or MLflow run id: config, metrics, code, data, checkpoints.

    ``storage``: by default KINERAY_STORAGE or ./runs. Raises TrackingError, with the nearest names, if
    there is none.
    """
    return runs.get_run(runs_folder(storage), run)
