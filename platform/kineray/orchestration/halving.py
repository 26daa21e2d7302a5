"""Synchronous successive halving: trials wait at a rung for all others of their group."""

from collections import defaultdict
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler


class SynchronousHalving(FIFOScheduler):
    """Pauses trials at the epochs of their rungs; of those that wait at one, the best 1 / ``keep`` go on.

    ``groups``: the rungs of the trials 0, 1, ... in a cycle; trials with the same rungs are compared with
    each other. They are compared once no trial is running and no more can begin. The result does not depend
    on the order in which trials arrive: those with equal scores are taken in the order of their beginning.
    """

    def __init__(self, groups: list[tuple[int, ...]], keep: int) -> None:
        super().__init__()
        self._groups, self._keep = groups, keep
        self._places: dict[str, int] = {}  # of each trial, in the order of their beginning
        self._waiting: dict[str, tuple[tuple[int, ...], float]] = {}  # the rungs that are left, the score
        self._rungs: dict[str, tuple[int, ...]] = {}
        self._ready: set[str] = set()

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Give the trial its group."""
        place = self._places[trial.trial_id] = len(self._places)
        self._rungs[trial.trial_id] = self._groups[place % len(self._groups)]

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause a trial that has come to its next rung."""
        rungs = self._rungs[trial.trial_id]
        if not rungs or result["epoch"] < rungs[0] or result["epoch"] >= result["epochs"]:
            return str(self.CONTINUE)
        self._ready.discard(trial.trial_id)
        left = tuple(rung for rung in rungs if rung > result["epoch"])
        self._rungs[trial.trial_id] = left
        self._waiting[trial.trial_id] = left, result["score"]
        # It has saved its own checkpoint; one of Ray's is not needed.
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return str(self.NOOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The next trial to start: a new one, or a paused one that may continue."""
        trials = tune_controller.get_trials()
        pending = next((trial for trial in trials if trial.status == Trial.PENDING), None)
        if pending is not None:
            return pending
        is_over = tune_controller.search_alg.is_finished()
        if not self._ready and is_over and not any(trial.status == Trial.RUNNING for trial in trials):
            self._compare(tune_controller, [trial for trial in trials if trial.status == Trial.PAUSED])
        for trial in trials:
            if trial.trial_id in self._ready and trial.status == Trial.PAUSED:
                return trial
        return None

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Forget a trial that has ended."""
        self._ready.discard(trial.trial_id)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Forget a trial that has failed."""
        self._ready.discard(trial.trial_id)

    def _compare(self, tune_controller: Any, paused: list[Trial]) -> None:
        groups: dict[tuple[int, ...], list[Trial]] = defaultdict(list)
        for trial in paused:
            groups[self._waiting[trial.trial_id][0]].append(trial)
        for members in groups.values():
            members.sort(key=lambda t: (-self._waiting[t.trial_id][1], self._places[t.trial_id]))
            kept = -(-len(members) // self._keep)
            self._ready |= {trial.trial_id for trial in members[:kept]}
            for trial in members[kept:]:
                tune_controller.stop_trial(trial)
