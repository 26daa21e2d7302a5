"""Evolution of a population of points, as a sampler of Optuna."""

import math
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True)
class Evolution:
    """Evolution of a population (Real et al., arXiv 1802.01548).

    The first ``population`` points are random. Then, each time, the fittest of ``tournament`` members drawn
    at random is copied with max(ceil(mutations - i / slowdown), 1) of its values drawn anew, where i counts
    the points after the first population. The copy joins, and the least fit member leaves or, with ``drop``
    ``oldest``, the oldest one (Real et al.'s regularised evolution).
    """

    population: int = 25
    tournament: int = 25
    mutations: float = 3
    slowdown: float = 20
    drop: Literal["least_fit", "oldest"] = "least_fit"

    def number_of_mutations(self, i: int) -> int:
        """For the point i after the first population, from 0."""
        return max(math.ceil(self.mutations - i / self.slowdown), 1)

    def members(self, ended: list[FrozenTrial]) -> list[FrozenTrial]:
        """The population after these trials, in the order of their numbers."""
        if self.drop == "oldest":
            return ended[-self.population :]
        fittest = sorted(ended, key=_fitness, reverse=True)[: self.population]
        return sorted(fittest, key=lambda trial: trial.number)


class EvolutionSampler(BaseSampler):
    """Draws the points of ``Evolution``. A value whose condition no longer holds is dropped with it."""

    def __init__(self, options: Evolution, seed: int) -> None:
        self._options, self._random = options, Random(seed)
        self._uniform = RandomSampler(seed=seed)
        self._parents: dict[int, tuple[dict[str, Any], set[str]]] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Values are drawn one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values are drawn one by one."""
        return {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the parent of a point, and the names of the values that change."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        ended = [one for one in study.get_trials(False, states) if one.value is not None]
        i = len(ended) - self._options.population
        if i < 0:
            return
        members = self._options.members(ended)
        drawn = self._random.sample(members, min(self._options.tournament, len(members)))
        parent = max(drawn, key=_fitness)
        names = sorted(parent.params)
        changed = self._random.sample(names, min(self._options.number_of_mutations(i), len(names)))
        self._parents[trial.number] = parent.params, set(changed)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parent's value, or another one."""
        values, changed = self._parents.get(trial.number, ({}, set()))
        if param_name in values and param_name not in changed:
            return values[param_name]
        for _ in range(20):
            value = self._uniform.sample_independent(study, trial, param_name, param_distribution)
            if param_name not in values or value != values[param_name]:
                break
        return value

    def after_trial(self, study: Study, trial: FrozenTrial, *args: Any) -> None:
        """Forget the parent."""
        self._parents.pop(trial.number, None)


def _fitness(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return float(trial.value)
