"""A study of Optuna as a searcher of Ray Tune, which tries no point twice."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from kineray.config import SearchSpace
from kineray.config.domains import Scalar
from kineray.config.space import sampled_point
from kineray.orchestration.samplers import suggest

POINT = "point"  # attribute of Optuna's trials
TAKEN = "taken"  # attribute of those that were known already: the name of the run
_MAX_DRAWS = 50

Point = dict[str, Scalar]


class StudySearch(Searcher):
    """Proposes points of ``space`` that ``study`` draws, and tells it how they ended.

    A point that has been tried is drawn again; if no new one is found the search ends. ``trials``: number of
    points to propose. ``name_of``: the name of a point; trials of one name would share a folder.
    ``tried``: names of points that are not to be proposed. ``is_finite``: only points that are enqueued are
    proposed. ``known``: the run and the score of a point that need not be tried, or None. ``is_cut_off``:
    whether trials end because the whole search does; Optuna keeps them as running. ``on_end``: called with
    the point of a trial that has ended, and whether its process raised or died.

    Results have a ``score``, the ``epoch`` after which it was measured, and the number of ``epochs`` that the
    trial would take. One that ends before is reported to Optuna as pruned, with all its scores.
    """

    def __init__(
        self,
        study: Study,
        space: SearchSpace,
        *,
        trials: int,
        name_of: Callable[[Point], str],
        tried: Iterable[str],
        is_finite: bool,
        known: Callable[[Point], tuple[str, float] | None],
        is_cut_off: Callable[[], bool],
        on_end: Callable[[Point, bool], None],
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._study, self._space = study, space
        self._remaining, self._is_finite = trials, is_finite
        self._name_of, self._known, self._tried = name_of, known, set(tried)
        self._is_cut_off, self._on_end = is_cut_off, on_end
        self._trials: dict[str, Trial] = {}
        self._reported: dict[str, set[int]] = {}

    def set_search_properties(self, *args: Any, **kwargs: Any) -> bool:
        """The space is this searcher's own."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """A new point, or ``Searcher.FINISHED``."""
        draws = 0
        while self._remaining > 0 and draws < _MAX_DRAWS:
            if self._is_finite and not self._study.get_trials(False, (TrialState.WAITING,)):
                break
            trial = self._study.ask()
            point = sampled_point(self._space, partial(suggest, trial))
            name = self._name_of(point)
            if name in self._tried:
                # Reported to Optuna as failed, so that it learns nothing from it.
                self._study.tell(trial, state=TrialState.FAIL)
                draws += not self._is_finite
                continue
            self._tried.add(name)
            self._remaining -= 1
            trial.set_user_attr(POINT, point)
            known = self._known(point)
            if known is None:
                self._trials[trial_id], self._reported[trial_id] = trial, set()
                return point
            trial.set_user_attr(TAKEN, known[0])
            self._study.tell(trial, known[1])
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a score to Optuna."""
        epoch = result.get("epoch")
        if epoch is not None and epoch not in self._reported[trial_id]:
            self._reported[trial_id].add(epoch)
            self._trials[trial_id].report(result["score"], epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna of a trial's end; without a score it failed, even if its process did not raise."""
        if not error and result is not None and "score" in result:
            self.on_trial_result(trial_id, result)
        trial, reported = self._trials.pop(trial_id), self._reported.pop(trial_id)
        self._on_end(trial.user_attrs[POINT], error)
        if self._is_cut_off():
            return
        if error or not reported:
            self._study.tell(trial, state=TrialState.FAIL)
        elif result is None or result["epoch"] < result["epochs"]:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, result["score"])

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune keeps a copy for its own way to resume, which is not used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """The study is in its own file; Ray Tune wants one."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """The study is in its own file."""
