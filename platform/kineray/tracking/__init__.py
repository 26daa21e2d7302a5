"""Runs and the model registry, in MLflow."""

from kineray.tracking.claim import claim_name, free_name
from kineray.tracking.client import check_tracking, has_tracker, tracking_uri
from kineray.tracking.journal import send_pending
from kineray.tracking.locations import mark_folder
from kineray.tracking.names import check_name
from kineray.tracking.registry import (
    CHAMPION,
    DEFAULT_MODEL,
    PREVIOUS,
    ModelVersion,
    checkpoint_of,
    fetch,
    get_version,
    previous_version,
    register,
    registered,
    rollback,
    set_champion,
)
from kineray.tracking.runs import (
    BEST_SCORE,
    GOODPUT,
    PROBLEM,
    SCORE,
    SCORE_NAME,
    Run,
    RunDetail,
    RunSummary,
    get_run,
    list_runs,
    resume_run,
    run_exists,
    start_run,
)

__all__ = [
    "BEST_SCORE",
    "CHAMPION",
    "DEFAULT_MODEL",
    "GOODPUT",
    "PREVIOUS",
    "PROBLEM",
    "SCORE",
    "SCORE_NAME",
    "ModelVersion",
    "Run",
    "RunDetail",
    "RunSummary",
    "check_name",
    "check_tracking",
    "checkpoint_of",
    "claim_name",
    "fetch",
    "free_name",
    "get_run",
    "get_version",
    "has_tracker",
    "list_runs",
    "mark_folder",
    "previous_version",
    "register",
    "registered",
    "resume_run",
    "rollback",
    "run_exists",
    "send_pending",
    "set_champion",
    "start_run",
    "tracking_uri",
]
