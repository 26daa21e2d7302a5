"""Running the best trials of a sweep again, with other seeds or other values."""

from collections.abc import Callable, Iterable

from kineray.config import Choice, apply_overrides
from kineray.errors import ConfigError
from kineray.options import WorkerOptions
from kineray.orchestration.board import SweepOutcome
from kineray.orchestration.search import check_sweep, run_sweep
from kineray.orchestration.settings import SearchSettings
from kineray.orchestration.sweeps import attach
from kineray.tracking import free_name
from kineray.tracking.trials import RERUN_CHANGES, RERUN_OF
from kineray.training import Event

_FIRST_SEED = 1000  # after the seed of the sweep


def rerun(
    name: str,
    overrides: Iterable[str] = (),
    *,
    top: int = 3,
    seeds: int = 6,
    storage: str | None = None,
    concurrent: int | None = None,
    options: WorkerOptions = WorkerOptions(),
    on_event: Callable[[str, Event], None] | None = None,
) -> list[SweepOutcome]:
    """Run the best ``top`` trials of the sweep ``name`` again, each with ``seeds`` fresh seeds.

    The best of many scores is optimistic, since it was chosen for being high; these are not chosen.
    ``overrides``: changes to the trials, such as ``model.frozen=false`` to train a backbone that was frozen
    in the search; it begins with the same weights. Each trial is a grid of its own over ``seed``, whose name
    begins with the sweep's, and runs that are finished already are taken from history; so a rerun that was
    interrupted goes on. ``kineray.sweep_report`` shows the scores beside those of the search.

    Raises ConfigError for a sweep without scores, and what a sweep raises.
    """
    changes = tuple(overrides)
    sweep = attach(name, storage=storage)
    best = sweep.best(top)
    if not best:
        raise ConfigError(
            "no trial has a score yet", code="nothing_to_rerun", key=name, remedy="wait for the sweep"
        )
    outcomes = []
    for place, trial in enumerate(best, 1):
        experiment = apply_overrides(trial.experiment, changes)
        first = experiment.seed + _FIRST_SEED
        checked = check_sweep(
            experiment,
            {"seed": Choice(*range(first, first + seeds))},
            settings=SearchSettings(searcher="grid", scheduler="none", concurrent=concurrent),
            overrides=(),
            storage=sweep.storage,
            name=None,
            options=options,
        )
        again = free_name(sweep.storage, f"{name}-rerun-{place}", numbered=True)
        tags = {RERUN_OF: trial.name, RERUN_CHANGES: " ".join(changes)}
        outcomes.append(run_sweep(checked, name=again, on_event=on_event, tags=tags))
    return outcomes
