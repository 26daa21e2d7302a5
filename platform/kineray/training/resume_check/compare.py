"""Whether two runs made the same steps and ended with the same state."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kineray.training.checkpoint import CheckpointStore, load_training_state
from kineray.training.resume_check.task import StepRecord
from kineray.training.state import TrainingState

TOLERANCE = 1e-2  # of losses and weights, relative, between runs with other numbers of workers
_STATE = ("step", "scores", "undecodable", "last_step", "score")

Lives = Sequence[Sequence[Sequence[StepRecord]]]
"""The steps that were made: by life, by rank, in their order."""


def first_different_step(undisturbed: Lives, resumed: Lives, *, exact: bool) -> str | None:
    """What differs first between the steps of two runs; None if nothing does.

    Every step that all workers of a life have made is compared, also one that was made again later.
    Without ``exact`` the workers may share a step in another way, and losses may differ by ``TOLERANCE``.
    """
    (whole,) = (_by_step(life) for life in undisturbed)
    seen: set[int] = set()
    for life in resumed:
        for step, parts in _by_step(life).items():
            if difference := _difference(whole[step], parts, exact=exact):
                return f"step {step}: {difference}"
            seen.add(step)
    missing = sorted(whole.keys() - seen)
    return f"step {missing[0]} was never made" if missing else None


def _by_step(life: Sequence[Sequence[StepRecord]]) -> dict[int, list[StepRecord]]:
    """The parts of each step that all workers have made, by rank."""
    parts: dict[int, list[StepRecord]] = defaultdict(list)
    for trace in life:
        for made in trace:
            parts[made.step].append(made)
    return {step: found for step, found in parts.items() if len(found) == len(life)}


def _difference(wanted: Sequence[StepRecord], found: Sequence[StepRecord], *, exact: bool) -> str | None:
    ids, others = ([name for part in parts for name in part.ids] for parts in (wanted, found))
    for place, (name, other) in enumerate(zip(ids, others, strict=False)):
        if name != other:
            return f"clip {place} is {other}, not {name}"
    if len(ids) != len(others):
        return f"{len(others)} clips, not {len(ids)}"
    if (lr := wanted[0].lr) != found[0].lr:
        return f"the learning rate is {found[0].lr!r}, not {lr!r}"
    loss, other_loss = wanted[0].loss, found[0].loss
    if loss != other_loss and (exact or abs(loss - other_loss) > TOLERANCE * abs(loss)):
        return f"the loss is {other_loss!r}, not {loss!r}"
    if exact and [part.random for part in wanted] != [part.random for part in found]:
        return "the random state is another one"
    return None


def last_state(folder: str) -> TrainingState:
    """The content of the last checkpoint below ``folder``."""
    uri = CheckpointStore(f"{folder}/checkpoints").last()
    assert uri is not None  # the run has ended, and its last step is saved
    return load_training_state(uri)


def first_different_value(undisturbed: TrainingState, resumed: TrainingState) -> str | None:
    """The name of the first value that is not the same, bit for bit; None if all are."""
    wanted, found = dict(_leaves(undisturbed)), dict(_leaves(resumed))
    for name in [*wanted, *(found.keys() - wanted.keys())]:
        if name not in wanted or name not in found or not _same(wanted[name], found[name]):
            return name
    return None


def distance(undisturbed: TrainingState, resumed: TrainingState) -> float:
    """How far two networks are apart: the norm of the difference of all weights over that of the weights."""
    wanted, found = (
        torch.cat([state.weights[name].double().flatten() for name in sorted(state.weights)])
        for state in (undisturbed, resumed)
    )
    return float((wanted - found).norm() / wanted.norm())


def _leaves(state: TrainingState) -> Iterator[tuple[str, Any]]:
    yield from _flat("weights", state.weights)
    yield from _flat("optimizer", state.optimizer)
    yield from _flat("recipe", state.pieces)
    yield from _flat("state", {name: state.state.get(name) for name in _STATE})


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _flat(f"{name}.{index}", inner)
    else:
        yield name, value


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Tensor) and isinstance(found, Tensor):
        return wanted.dtype == found.dtype and torch.equal(wanted, found)
    return bool(wanted == found)
