"""``kineray.list_runs`` and ``kineray.get_run``."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from kineray.errors import ConfigError
from kineray.storage import runs_folder
from kineray.tracking import runs
from kineray.tracking.client import tracking_errors, tracking_uri
from kineray.tracking.runs import RunDetail, RunSummary

_COLUMNS = ("name", "status", "started", "duration_s", "best", "last")


def list_runs(
    storage: str | None = None,
    *,
    name: str = "*",
    status: str | None = None,
    tags: Mapping[str, str] | None = None,
    sort: str = "started",
    limit: int | None = None,
) -> list[RunSummary]:
    """The runs of ``storage`` (default: KINERAY_STORAGE or ./runs), newest first.

    ``name``: a pattern, such as ``slowfast*``. ``status``: RUNNING, FINISHED, FAILED or KILLED. ``tags``:
    only runs that have these. ``sort``: name, status, or started, duration_s, best, last or a metric such as
    ``val/action/top1``, of which the highest comes first; runs without it come last. ``limit``: at most this
    many. Raises ConfigError for a metric that no run has, TrackingError if MLflow cannot be reached.
    """
    found = [
        run
        for run in runs.list_runs(runs_folder(storage))
        if fnmatchcase(run.name, name)
        and status in (None, run.status)
        and (tags or {}).items() <= run.tags.items()
    ]
    return _sorted(found, sort)[:limit]


def _sorted(found: list[RunSummary], key: str) -> list[RunSummary]:
    values = {run.run_id: value_of(run, key) for run in found}
    if found and key not in _COLUMNS and all(value is None for value in values.values()):
        metrics = sorted({metric for run in found for metric in run.metrics})
        raise ConfigError(
            "no run has a metric of this name",
            code="unknown_metric",
            key=key,
            remedy=f"use one of {', '.join((*_COLUMNS, *metrics))}",
        )
    known = [run for run in found if values[run.run_id] is not None]
    known.sort(key=lambda run: values[run.run_id], reverse=key not in {"name", "status"})
    return known + [run for run in found if values[run.run_id] is None]


def value_of(run: RunSummary, key: str) -> Any:
    """A column or a metric of a run; None if the run does not have it."""
    return getattr(run, key) if key in _COLUMNS else run.metrics.get(key)


def get_run(run: str, *, storage: str | None = None) -> RunDetail:
    """One run, by its name or MLflow run id: its config, metrics, code version, data and checkpoints.

    ``storage``: KINERAY_STORAGE or ./runs by default. Raises TrackingError, with similar names, if there
    is no such run.
    """
    return runs.get_run(runs_folder(storage), run)


def metric_history(storage: str, run: str, metric: str) -> list[tuple[int, float]]:
    """The steps at which a metric of a run, given by its name, was recorded, with its values."""
    client = runs.open_and_send(storage)
    run_id = runs.get_run(storage, run).run_id
    with tracking_errors(tracking_uri(storage)):
        found = client.get_metric_history(run_id, metric)
    return sorted((one.step, one.value) for one in found)
