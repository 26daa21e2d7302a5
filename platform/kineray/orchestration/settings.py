"""How a sweep searches: one frozen value."""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any, Self

from kineray.config import Choice, Experiment, SearchSpace, all_points, leaf_keys
from kineray.durations import seconds_of
from kineray.errors import ConfigError
from kineray.orchestration.samplers import check_searcher
from kineray.orchestration.schedulers import check_scheduler

DEFAULT_TRIALS = 6
_GPU_HOURS = re.compile(r"(\d+(?:\.\d+)?)gpuh")


@dataclass(frozen=True)
class SearchSettings:
    """How a sweep searches.

    ``trials``: number of points to try; None for 6, or all points of a grid. ``searcher`` and ``scheduler``:
    names in ``kineray.orchestration.samplers`` and ``schedulers``. ``concurrent``: number of trials at the
    same time; None for one for every GPU, or CPU, of the cluster. ``budget``: a time such as ``2h``, or GPU
    hours such as ``40gpuh``, after which the sweep stops. ``max_failed``: it also stops if more than this
    share of the trials, and more than two, have failed. Raises ConfigError for a value out of range.
    """

    trials: int | None = None
    searcher: str = "tpe"
    scheduler: str = "asha"
    concurrent: int | None = None
    budget: str | None = None
    max_failed: float = 0.25

    def __post_init__(self) -> None:
        for name in ("trials", "concurrent"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    "less than 1",
                    code="out_of_range",
                    key=name,
                    value=value,
                    remedy=f"set `{name}` to at least 1",
                )
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(
                "not a share from 0 to 1", code="out_of_range", key="max_failed", value=self.max_failed
            )
        check_scheduler(self.scheduler)
        _ = self.seconds, self.gpu_seconds

    def check(self, space: SearchSpace) -> None:
        """Raise ConfigError if the searcher does not exist or cannot search ``space``."""
        check_searcher(self.searcher, space)

    def trials_of(self, space: SearchSpace) -> int:
        """Number of points to try."""
        if self.trials is None:
            return sum(1 for _ in all_points(space)) if self.searcher == "grid" else DEFAULT_TRIALS
        return self.trials

    def too_many(self, failed: int, trials: int) -> bool:
        """Whether more of ``trials`` have failed than ``max_failed`` allows."""
        return failed > max(2, self.max_failed * trials)

    @property
    def gpu_seconds(self) -> float | None:
        """The budget in GPU hours, in seconds; None if there is none."""
        found = _GPU_HOURS.fullmatch(self.budget or "")
        return 3600 * float(found[1]) if found else None

    @property
    def seconds(self) -> float | None:
        """The budget in time; None if there is none."""
        if self.budget is None or self.gpu_seconds is not None:
            return None
        try:
            return seconds_of(self.budget)
        except ValueError:
            raise ConfigError(
                "neither a time nor GPU hours",
                code="bad_value",
                key="budget",
                value=self.budget,
                remedy="write 90s, 10m, 1h30m or 40gpuh",
            ) from None

    def to_json(self) -> str:
        """One JSON object; ``from_json`` reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The settings that ``to_json`` wrote."""
        return cls(**json.loads(text))


def values_of(experiment: Experiment, space: SearchSpace, key: str) -> list[int]:
    """All values that the integer ``key`` takes in a sweep."""
    domain = space.get(key)
    if domain is None:
        inner = [values_of(experiment, one, key) for d in space.values() for one in _spaces(d)]
        return sorted({int(str(leaf_keys(experiment)[key])), *(v for found in inner for v in found)})
    found = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
    return [int(float(str(value))) for value in found]  # values from the command line are text


def _spaces(domain: Any) -> list[SearchSpace]:
    return list(domain.spaces.values()) if isinstance(domain, Choice) else []
