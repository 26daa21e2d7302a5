"""What the report of a sweep is made of: its trials, and numbers computed from their scores."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kineray.config import Choice, Domain, Experiment, all_keys, space_from_plain
from kineray.data import Manifest, load_manifest
from kineray.errors import KinerayError
from kineray.tracking import SCORE
from kineray.tracking.api import metric_history
from kineray.tracking.runs import RunDetail, RunSummary, get_run, list_runs
from kineray.tracking.trials import RERUN_CHANGES, RERUN_OF, Trial, Trials, trials_of

_BINS = 4  # of the values of a range
_DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Rerun:
    """Trial ``of`` was run again, with ``changes`` and fresh seeds, which gave ``scores``."""

    of: Trial
    changes: str
    scores: tuple[float, ...]


@dataclass(frozen=True)
class SweepData:
    """A sweep with its trials."""

    parent: RunDetail
    trials: Trials
    runs: Mapping[str, RunSummary]
    storage: str

    @classmethod
    def of(cls, name: str, storage: str) -> "SweepData":
        """Read the records of the sweep ``name``. Raises TrackingError if there is none."""
        parent = get_run(storage, name)
        runs = {run.name: run for run in list_runs(storage)}
        return cls(parent, trials_of(storage, name), runs, storage)

    @property
    def scored(self) -> list[Trial]:
        """The trials with a score, best first."""
        return [trial for trial in self.trials if trial.score is not None]

    @property
    def space(self) -> dict[str, Domain]:
        """What was searched."""
        return space_from_plain(json.loads(self.parent.tags.get("sweep.space", "{}")))

    @property
    def settings(self) -> dict[str, Any]:
        """How it was searched."""
        found: dict[str, Any] = json.loads(self.parent.tags.get("sweep.settings", "{}"))
        return found

    @property
    def keys(self) -> list[str]:
        """The searched keys."""
        return all_keys(self.space) or list(dict.fromkeys(key for t in self.trials for key in t.params))

    @property
    def seconds(self) -> float:
        """What all trials took together."""
        return sum(self.runs[t.name].duration_s or 0.0 for t in self.trials if t.name in self.runs)

    def curve(self, trial: Trial) -> list[tuple[int, float]]:
        """The scores of a trial by step."""
        return metric_history(self.storage, trial.name, SCORE)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The data, if it is still where it was."""
        best = self.trials.best()
        try:
            return load_manifest(best.experiment.data.manifest or "") if best else None
        except KinerayError:
            return None

    @property
    def floor(self) -> float | None:
        """The score of a predictor that always says the most frequent class; None if it is not known."""
        best, score = self.trials.best(), self.parent.score or ""
        if best is None or self.manifest is None:
            return None
        parts = score.removeprefix("mean of ").split(" and ")  # of several heads
        found = [constant_score(self.manifest, *_head_and_metric(part), best.experiment) for part in parts]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if len(known) == len(found) else None

    @cached_property
    def reruns(self) -> list[Rerun]:
        """Trials that were run again."""
        of = {trial.name: trial for trial in self.trials}
        found = []
        for run in self.runs.values():
            trial = of.get(run.tags.get(RERUN_OF, ""))
            if trial is not None:
                again = trials_of(self.storage, run.name)
                scores = tuple(t.score for t in again if t.score is not None)
                found.append(Rerun(trial, run.tags.get(RERUN_CHANGES, ""), scores))
        order = [trial.name for trial in self.trials]
        return sorted(found, key=lambda rerun: (rerun.changes, order.index(rerun.of.name)))


def _head_and_metric(name: str) -> tuple[str, str]:
    head, _, metric = name.partition("/")
    return head, metric


def constant_score(manifest: Manifest, head: str, metric: str, experiment: Experiment) -> float | None:
    """Top-1 or mean class accuracy on validation of the most frequent class in training; None for others."""
    labels = [sample.labels.get(head) for sample in manifest.split("train")]
    known = [label for label in labels if isinstance(label, int) and label >= 0]
    truth = [sample.labels.get(head) for sample in manifest.split("val")]
    if not known or not truth or experiment.task.type != "classification":
        return None
    if metric == "top1":
        return truth.count(int(np.bincount(known).argmax())) / len(truth)
    return 1 / len(set(truth)) if metric == "mean_class" else None


def importance(trials: Sequence[Trial], keys: Sequence[str]) -> dict[str, float]:
    """The share of the variance of scores that each key alone explains, largest first.

    Adjusted eta squared of an analysis of variance, 0 to 1. Values of a range are sorted into four groups
    of equal size. Only trials that have the key count, so keys of a conditional space are compared where
    their condition holds.
    """
    found = {}
    for key in keys:
        having = [trial for trial in trials if key in trial.params]
        groups = _groups(key, having)
        n, g = len(having), len(groups)
        if g < 2 or n <= g:
            continue
        scores = np.array([trial.score for trial in having], float)
        total = ((scores - scores.mean()) ** 2).sum()
        inside = sum(((np.array(one) - np.mean(one)) ** 2).sum() for one in groups.values())
        if total > 0:
            found[key] = float(max(0.0, 1 - (inside / total) * (n - 1) / (n - g)))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def by_value(trials: Sequence[Trial], key: str) -> list[dict[str, object]]:
    """The scores of the trials with each value of a choice, the best mean first, with its 95 % interval."""
    rows: list[dict[str, object]] = []
    for value, scores in _groups(key, [trial for trial in trials if key in trial.params]).items():
        low, high = mean_interval(scores)
        rows.append(
            {
                key: value,
                "trials": len(scores),
                "mean": float(np.mean(scores)),
                "95 % interval": f"{low:.4f} to {high:.4f}" if len(scores) > 1 else "one trial",
                "best": max(scores),
            }
        )
    return sorted(rows, key=lambda row: -float(str(row["mean"])))


def mean_interval(scores: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean (percentiles), from draws that are always the same."""
    values = np.array(scores, float)
    drawn = np.random.default_rng(0).choice(values, (_DRAWS, len(values)))
    low, high = np.percentile(drawn.mean(1), [2.5, 97.5])
    return float(low), float(high)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, score) that no other one beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def rank_agreement(left: Sequence[float], right: Sequence[float]) -> float:
    """Kendall's tau-a of two rankings: 1 if they agree, -1 if one is the other reversed."""
    pairs = [(i, j) for i in range(len(left)) for j in range(i)]
    signs = [np.sign(left[i] - left[j]) * np.sign(right[i] - right[j]) for i, j in pairs]
    return float(np.mean(signs)) if signs else 1.0


def shares(trials: Sequence[Trial], key: str, domain: Domain) -> list[float | None]:
    """Where the value of each trial is on the axis of a key, from 0 to 1; None where it has no value."""
    if isinstance(domain, Choice):
        places = {str(value): number for number, value in enumerate(domain.values)}
        last = max(len(places) - 1, 1)
        return [places[str(t.params[key])] / last if key in t.params else None for t in trials]
    is_log = type(domain).__name__ == "LogUniform" or getattr(domain, "log", False)
    scale = np.log if is_log else float
    low, high = scale(domain.low), scale(domain.high)
    return [
        float((scale(float(t.params[key])) - low) / (high - low)) if key in t.params else None for t in trials
    ]


def _groups(key: str, trials: Sequence[Trial]) -> dict[str, list[float]]:
    values = [trial.params[key] for trial in trials]
    is_range = all(isinstance(value, float) for value in values) and len(set(values)) > _BINS
    edges = np.quantile([float(v) for v in values], np.linspace(0, 1, _BINS + 1)[1:-1]) if is_range else ()
    groups: dict[str, list[float]] = defaultdict(list)
    for trial, value in zip(trials, values, strict=True):
        name = str(np.searchsorted(edges, float(value))) if is_range else str(value)
        groups[name].append(float(trial.score or 0.0))
    return dict(groups)
