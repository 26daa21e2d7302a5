"""Optuna's TPE for Ray Tune, without trying a point twice."""

from collections.abc import Callable, Iterable
from typing import Any

from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

_DRAWS = 50


class DistinctSearch(OptunaSearch):
    """``OptunaSearch`` that draws again when a point was tried, and ends when it finds no new one.

    ``name_of`` names a point; ``tried`` are the names of points that an earlier session has finished.
    A trial is known by its name, so two trials of one point would write to one folder.
    """

    def __init__(
        self, *args: Any, name_of: Callable[[dict[str, Any]], str], tried: Iterable[str], **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._name_of = name_of
        self._tried = set(tried)

    def suggest(self, trial_id: str) -> Any:
        """A new point, or ``Searcher.FINISHED``."""
        for _ in range(_DRAWS):
            params = super().suggest(trial_id)
            name = self._name_of(params)
            if name not in self._tried:
                self._tried.add(name)
                return params
            # Handed back as failed: TPE learns nothing from it.
            self._ot_study.tell(self._ot_trials.pop(trial_id), state=TrialState.FAIL)
        return Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial without a score failed, whether or not its process ended in peace."""
        super().on_trial_complete(trial_id, result, error or self.metric not in (result or {}))
