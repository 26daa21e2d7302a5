"""Optuna's TPE for Ray Tune, which tries no point twice."""

from collections.abc import Callable, Iterable
from typing import Any

from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

_MAX_DRAWS = 50


class DistinctSearch(OptunaSearch):
    """``OptunaSearch`` that draws again if a point has been tried, and ends if it finds no new one.

    ``name_of``: gives the name of a point. ``tried``: names of the points that were finished before the
    sweep was resumed. Trials are identified by these names: two trials of one point would write to the same
    folder.
    """

    def __init__(
        self, *args: Any, name_of: Callable[[dict[str, Any]], str], tried: Iterable[str], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._name_of = name_of
        self._tried = set(tried)

    def suggest(self, trial_id: str) -> Any:
        """A new point, or ``Searcher.FINISHED``."""
        for _ in range(_MAX_DRAWS):
            params = super().suggest(trial_id)
            name = self._name_of(params)
            if name not in self._tried:
                self._tried.add(name)
                return params
            # Reported to TPE as failed, so that it learns nothing from it.
            self._ot_study.tell(self._ot_trials.pop(trial_id), state=TrialState.FAIL)
        return Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna of a trial's end; without a score it failed, even if its process did not raise."""
        super().on_trial_complete(trial_id, result, error or self.metric not in (result or {}))
