"""The searchers of a sweep: how its next point is chosen. All are samplers of Optuna."""

import warnings
from collections.abc import Mapping
from typing import Any

from kineray.config import Choice, Domain, Integers, LogUniform, SearchSpace, all_points
from kineray.config.domains import Scalar
from kineray.config.space import sampled_point
from kineray.errors import ConfigError
from kineray.options import SEARCHERS


def make_sampler(name: str, space: SearchSpace, seed: int) -> Any:
    """Optuna's sampler of this name, or ours. Raises ConfigError for a space that it cannot search."""
    import optuna

    check_searcher(name, space)
    if name == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # With a joint distribution for the keys of each condition; running trials count as bad ones.
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed)
    if name == "evolution":
        from kineray.orchestration.evolution import Evolution, EvolutionSampler

        return EvolutionSampler(Evolution(), seed)
    return optuna.samplers.RandomSampler(seed=seed)  # of a grid, all points are enqueued


def check_searcher(name: str, space: SearchSpace) -> None:
    """Raise ConfigError for an unknown searcher, or a space that it cannot search."""
    if name not in SEARCHERS:
        raise ConfigError(
            f"not one of {', '.join(SEARCHERS)}", code="unknown_value", key="searcher", value=name
        )
    if name == "grid":
        next(all_points(space))
    if name == "cmaes":
        for key, domain in space.items():
            if isinstance(domain, Choice) and (not domain.ordered or any(domain.spaces.values())):
                raise ConfigError(
                    "CMA-ES searches numbers and ordered choices without spaces of their own",
                    code="not_searchable",
                    key=key,
                    remedy="use tpe, or order the choice: Choice(2, 4, 8, ordered=True)",
                )


def suggest(trial: Any, name: str, domain: Domain) -> Scalar:
    """The value that Optuna's ``trial`` has for a domain."""
    if isinstance(domain, Choice):
        values = list(domain.values)
        if domain.ordered:
            return values[int(trial.suggest_int(name, 0, len(values) - 1))]
        value: Scalar = trial.suggest_categorical(name, values)
        return value
    number: Scalar
    if isinstance(domain, Integers):
        number = trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
    else:
        number = trial.suggest_float(name, domain.low, domain.high, log=isinstance(domain, LogUniform))
    return number


def numbers_of(space: SearchSpace, point: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """What ``suggest`` asks Optuna for at a point of ``space``: by name, and of ordered choices the place."""
    asked: dict[str, Scalar] = {}

    def value_of(name: str, domain: Domain) -> Scalar:
        value = point[name.partition(", ")[0]]
        if isinstance(domain, Choice) and domain.ordered:
            asked[name] = domain.values.index(value)
        else:
            asked[name] = value
        return value

    sampled_point(space, value_of)
    return asked
