"""What was predicted of a run, beside what it achieved: ``kineray plan --run``."""

import re
import statistics
from dataclasses import dataclass

from kineray.errors import TrackingError
from kineray.planning.api import PlannedRun
from kineray.storage import runs_folder
from kineray.tracking.client import open_client, tracking_errors, tracking_uri
from kineray.tracking.runs import RunDetail, get_run

_RATE = "train/clips_per_s"
_FIRST = 2  # steps that are slower than all others


@dataclass(frozen=True)
class Comparison:
    """Clips per second of a run with ``workers``: ``predicted``, and the median of its steps."""

    run: str
    workers: int
    predicted: float
    measured: float


def workers_of(run: str, *, storage: str | None = None) -> int:
    """How many workers a run had. Raises TrackingError."""
    return _workers(get_run(runs_folder(storage), run))


def compare_with_run(planned: PlannedRun, run: str, *, storage: str | None = None) -> Comparison:
    """Compare the prediction for as many GPUs as the run had workers with what the run achieved.

    Both are recorded as metrics of the run, ``plan/clips_per_s`` and ``plan/measured_clips_per_s``. Raises
    TrackingError for a run that does not exist or has made no more than two steps, and for a number of
    workers that is not among those of ``planned``.
    """
    folder = runs_folder(storage)
    detail = get_run(folder, run)
    workers = _workers(detail)
    predicted = {each.gpus: each.clips_per_s for each in planned.predictions}.get(workers)
    if predicted is None:
        raise TrackingError(
            f"the run had {workers} workers, and that number is not planned for",
            code="not_planned",
            key=detail.name,
            remedy="add it to `gpus`",
        )
    client = open_client(folder)
    with tracking_errors(tracking_uri(folder)):
        history = sorted(client.get_metric_history(detail.run_id, _RATE), key=lambda one: one.step)
        rates = [one.value for one in history[_FIRST:]]
        if not rates:
            raise TrackingError(
                "the run has made too few steps to tell how fast it is", code="too_few_steps", key=detail.name
            )
        measured = statistics.median(rates)
        client.log_metric(detail.run_id, "plan/clips_per_s", predicted)
        client.log_metric(detail.run_id, "plan/measured_clips_per_s", measured)
    return Comparison(detail.name, workers, predicted, measured)


def _workers(detail: RunDetail) -> int:
    return max(1, sum(bool(re.fullmatch(r"worker\.\d+", name)) for name in detail.tags))
