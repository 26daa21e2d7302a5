"""The report of a sweep: one HTML page that needs no other file."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from kineray.config import Choice, Domain, SearchSpace, as_argument
from kineray.durations import duration
from kineray.reports import svg
from kineray.reports.html import command, page, paragraph, section, table
from kineray.reports.sweep_data import (
    Rerun,
    SweepData,
    by_value,
    importance,
    mean_interval,
    pareto_front,
    rank_agreement,
    shares,
)
from kineray.storage import absolute, exists, join, read_bytes, runs_folder, write_bytes
from kineray.tracking import PROBLEM
from kineray.tracking.trials import ENDED, EXPERIMENT, Trial

_MOST_CURVES = 40
_MOST_AXES = 8


def sweep_report(
    name: str, *, storage: str | None = None, out: str | None = None, price: float | None = None
) -> str:
    """Write the report of the sweep ``name`` as one HTML page; returns where it is.

    ``storage``: of its runs (default: KINERAY_STORAGE, or ``./runs``). ``out``: a path or URI; by default
    ``report.html`` in the folder of the sweep. ``price``: of an hour of one trial, for the costs. Raises
    TrackingError if there is no such sweep, and StorageError.
    """
    storage = runs_folder(storage)
    data = SweepData.of(name, storage)
    target = out or join(absolute(storage), name, "report.html")
    write_bytes(target, sweep_page(data, price).encode())
    return target


def sweep_page(data: SweepData, price: float | None = None) -> str:
    """The page."""
    scored = data.scored
    parts = [
        _summary(data, price),
        _best(data),
        _honest(data),
        section(
            "Scores during training",
            svg.curves([data.curve(trial) for trial in scored[:_MOST_CURVES]], "step", _score(data)),
        ),
        section(
            "What matters",
            paragraph(
                "The share of the variance of scores that each key alone explains (adjusted eta squared "
                "over the trials that have it). Trials that were stopped early count with their best score."
            )
            if (found := importance(scored, data.keys))
            else "",
            svg.bars(found, "importance of each key"),
        ),
        *_slices(data),
        section("All keys together", _parallel(data)),
        _types(data),
        _against_time(data),
        _confusion(data),
        _failures(data),
        section("All trials", table([_row(trial) for trial in data.trials])),
    ]
    return page(f"Sweep {data.parent.name}", parts)


def _summary(data: SweepData, price: float | None) -> str:
    settings, states = data.settings, [trial.state for trial in data.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    searcher, scheduler, budget = (settings.get(name) for name in ("searcher", "scheduler", "budget"))
    facts = {
        "question": f"which values of {', '.join(data.keys)} give the highest {_score(data)}",
        "trials": f"{len(states)}: {counts}" if states else "none",
        "search": f"searcher {searcher}, scheduler {scheduler}, budget {budget or 'none'}",
        "status": f"{data.parent.status}{_ended(data)}, started {data.parent.started}",
        "time": f"{duration(data.seconds)} of all trials together",
    }
    if price is not None:
        facts["cost"] = f"{data.seconds / 3600 * price:.2f} at {price:g} an hour of a trial"
    space = [{"key": key, "searched": _domain(domain)} for key, domain in data.space.items()]
    return table([{"": name, " ": fact} for name, fact in facts.items()]) + section("Space", table(space))


def _best(data: SweepData) -> str:
    best = data.trials.best()
    if best is None:
        return section("Best trial", paragraph("No trial has a score.", is_note=True))
    values = " ".join(f"{key}={as_argument(value)}" for key, value in best.params.items())
    return section(
        "Best trial",
        paragraph(f"{_score(data)} {best.score:.4f}: {values}"),
        paragraph("The command that trains it again:"),
        command(f"kineray train {join(data.storage, best.name, EXPERIMENT)} --name best"),
        command(f"kineray promote {best.name}"),
    )


def _honest(data: SweepData) -> str:
    """What the best score is worth."""
    best, floor, parts = data.trials.best(), data.floor, []
    if best is None or best.score is None:
        return ""
    if floor is not None:
        below = sum(1 for trial in data.scored if (trial.score or 0.0) <= floor)
        parts.append(
            paragraph(
                f"A predictor that always says the most frequent class has {floor:.4f}; {below} of "
                f"{len(data.scored)} trials are not above it.",
                is_note=best.score <= floor or below > 0,
            )
        )
    n = len(data.scored)
    parts.append(
        paragraph(
            f"The best of {n} scores is optimistic: it was chosen for being high, on the data that it is "
            "reported for. The scores of the same values with fresh seeds were not chosen."
        )
    )
    groups = dict.fromkeys(rerun.changes for rerun in data.reruns)
    for changes in groups:
        found = [rerun for rerun in data.reruns if rerun.changes == changes and rerun.scores]
        parts.append(paragraph(f"Run again with {changes or 'fresh seeds'}:"))
        parts.append(table([_rerun_row(rerun) for rerun in found]))
        if len(found) > 1:
            tau = rank_agreement(
                [rerun.of.score or 0.0 for rerun in found], [float(np.mean(r.scores)) for r in found]
            )
            parts.append(paragraph(f"The two rankings agree with Kendall's tau {tau:.2f} (1: the same)."))
    if not groups:
        parts.append(paragraph("There are no such runs yet:", is_note=True))
        parts.append(command(f"kineray sweep rerun {data.parent.name} --top 3 --seeds 6"))
    return section("What the best score is worth", *parts)


def _rerun_row(rerun: Rerun) -> dict[str, object]:
    low, high = mean_interval(rerun.scores)
    return {
        "trial": rerun.of.name.rpartition("/")[2],
        "raw": rerun.of.score,
        "corrected (mean)": float(np.mean(rerun.scores)),
        "95 % interval": f"{low:.4f} to {high:.4f}",
        "runs": len(rerun.scores),
    }


def _slices(data: SweepData) -> list[str]:
    """Score over each key that is a number."""
    figures = []
    for key in data.keys:
        found = [
            (float(trial.params[key]), trial.score)
            for trial in data.scored
            if isinstance(trial.params.get(key), float) and trial.score is not None
        ]
        if len(found) > 1:
            figures.append(svg.points(found, key, _score(data)))
    return [section("Score over each range", *figures)]


def _parallel(data: SweepData) -> str:
    domains = _domains(data.space)
    names = list(domains)[: _MOST_AXES - 1]
    rows: list[dict[str, float]] = [{} for _ in data.scored]
    labels: dict[str, Any] = {}
    for name in names:
        domain = domains[name]
        labels[name] = (
            (domain.values[0], domain.values[-1])
            if isinstance(domain, Choice)
            else (f"{domain.low:g}", f"{domain.high:g}")
        )
        for row, share in zip(rows, shares(data.scored, name, domain), strict=True):
            if share is not None:
                row[name] = share
    scores = [trial.score or 0.0 for trial in data.scored]
    if not scores:
        return ""
    low, high = min(scores), max(scores)
    for row, score in zip(rows, scores, strict=True):
        row["score"] = (score - low) / (high - low) if high > low else 0.5
    labels["score"] = (f"{low:.3f}", f"{high:.3f}")
    return svg.parallel(rows, [*names, "score"], labels)


def _domains(space: SearchSpace) -> dict[str, Domain]:
    """The domain of every key; of one that several branches have, a choice of all its values."""
    found: dict[str, Domain] = {}
    for key, domain in _pairs(space):
        known = found.get(key)
        if isinstance(known, Choice) and isinstance(domain, Choice):
            found[key] = Choice(*dict.fromkeys((*known.values, *domain.values)))
        else:
            found[key] = domain
    return found


def _pairs(space: SearchSpace) -> Iterator[tuple[str, Domain]]:
    for key, domain in space.items():
        yield key, domain
        for inner in domain.spaces.values() if isinstance(domain, Choice) else ():
            yield from _pairs(inner)


def _types(data: SweepData) -> str:
    keys = [key for key, domain in data.space.items() if isinstance(domain, Choice)]
    tables = [table(by_value(data.scored, key)) for key in keys if len(data.scored) > 1]
    return section("Score for each choice", *tables)


def _against_time(data: SweepData) -> str:
    finished = [trial for trial in data.scored if trial.state == "finished" and trial.name in data.runs]
    found = [(data.runs[t.name].duration_s or 0.0, t.score or 0.0) for t in finished]
    figure = svg.points(found, "seconds", _score(data), pareto_front(found)) if len(found) > 1 else ""
    return section("Score against the time of a trial, with the Pareto front", figure)


def _confusion(data: SweepData) -> str:
    """The confusion matrix of the best trial, if it has been evaluated."""
    best = data.trials.best()
    run = data.runs.get(best.name) if best else None
    if run is None:
        return ""
    parts = []
    for tag, value in run.tags.items():
        path = json.loads(value).get("predictions") if tag.startswith("eval.") else None
        uri = path if path is None or "://" in path or path.startswith("/") else join(data.storage, path)
        if uri and exists(uri):
            parts += [paragraph(tag.removeprefix("eval.")), *_matrices(read_bytes(uri))]
    if not parts:
        parts = [paragraph("The best trial has not been evaluated:"), command(f"kineray eval {run.name}")]
    return section("Confusion matrix of the best trial", *parts)


def _matrices(content: bytes) -> list[str]:
    found = pq.read_table(io.BytesIO(content))
    figures = []
    for column in found.column_names:
        head, _, kind = column.partition("/")
        if kind != "class":
            continue
        truth, predicted = found[column].to_pylist(), found[f"{head}/predicted"].to_pylist()
        pairs = [
            (t, p) for t, p in zip(truth, predicted, strict=True) if isinstance(t, str) and p is not None
        ]
        classes = sorted({name for pair in pairs for name in pair})
        counts = np.zeros((len(classes), len(classes)))
        for t, p in pairs:
            counts[classes.index(t), classes.index(p)] += 1
        if classes:
            rows = counts / np.maximum(counts.sum(1, keepdims=True), 1)
            figures += [paragraph(f"head {head}"), svg.matrix(rows.tolist(), classes)]
    return figures


def _failures(data: SweepData) -> str:
    bad = [trial for trial in data.trials if trial.state in {"failed", "diverged"}]
    rows: list[dict[str, object]] = [
        {
            "trial": t.name.rpartition("/")[2],
            "state": t.state,
            "problem": data.runs[t.name].tags.get(PROBLEM, ""),
        }
        for t in bad
        if t.name in data.runs
    ]
    return section("Failures", table(rows))


def _row(trial: Trial) -> dict[str, object]:
    return {"best": trial.score, "epoch": trial.epoch, "state": trial.state, **trial.params}


def _score(data: SweepData) -> str:
    return data.parent.score or "score"


def _ended(data: SweepData) -> str:
    reason = data.parent.tags.get(ENDED, "")
    return f" ({reason})" if reason else ""


def _domain(domain: Domain) -> str:
    if not isinstance(domain, Choice):
        return f"{type(domain).__name__} {domain.low:g} to {domain.high:g}"
    inner = {value: ", ".join(domain.spaces.get(value, {})) for value in domain.values}
    return "; ".join(f"{value} ({keys})" if keys else str(value) for value, keys in inner.items())
