"""What a run would do, with nothing started and nothing written: ``kineray.dry_run``."""

from dataclasses import dataclass
from typing import Any

from kineray.cluster import may_join
from kineray.config import Experiment
from kineray.errors import ConfigError
from kineray.options import WorkerOptions
from kineray.orchestration.preparing import Prepared, prepare
from kineray.orchestration.records import run_fingerprint, run_to_continue
from kineray.orchestration.workers import WorkerCount, WorkerRange, one_for_every
from kineray.storage import absolute, join
from kineray.tracking import free_name, has_tracker, tracking_uri
from kineray.tracking.client import without_password
from kineray.training import RunShape
from kineray.training.kept import kept, last_kept


@dataclass(frozen=True)
class DryRun:
    """What ``kineray.train`` would do with the same arguments.

    ``name``: of the run. ``step``: how many steps it would have behind it at the start, 0 for a new run.
    ``continuation``: in one line, what an extended or a forked run goes on with. ``samples``: {split: number
    of videos}; ``classes``: {head: number of classes}. ``workers``: None if that is for the cluster to say.
    ``parameters`` and ``multiply_adds`` (per training clip): None for a network that only runs with values.
    ``writes``: where, by what. ``experiment``: all values, as plain JSON.
    """

    name: str
    step: int
    continuation: str | None
    fingerprint: str
    manifest: str
    samples: dict[str, int]
    classes: dict[str, int]
    workers: int | None
    shape: RunShape
    parameters: int | None
    multiply_adds: int | None
    writes: dict[str, str]
    experiment: dict[str, Any]


def dry_run(
    experiment: Experiment,
    *,
    storage: str | None = None,
    workers: WorkerCount | None = None,
    name: str | None = None,
    resume: bool = False,
    extend: bool = False,
    fork: str | None = None,
    options: WorkerOptions = WorkerOptions(),
) -> DryRun:
    """What ``kineray.train`` would do with the same arguments, up to its first step.

    Starts no Ray, writes nothing and claims no name. Raises KinerayError for all that ``kineray.train``
    refuses before it starts workers, except for a cluster that is too small.
    """
    prepared = prepare(
        experiment,
        storage=storage,
        workers=workers,
        name=name,
        resume=resume,
        extend=extend,
        fork=fork,
        options=options,
    )
    run_hash = run_fingerprint(prepared.experiment, prepared.manifest)
    taken, step = _place(prepared, run_hash)
    parameters, multiply_adds = _network(prepared)
    asked = prepared.workers or _usual_workers(prepared.experiment)
    count = asked.most if asked and asked.least == asked.most else None
    return DryRun(
        name=taken,
        step=step,
        continuation=prepared.start.line if prepared.start else None,
        fingerprint=run_hash,
        manifest=prepared.experiment.data.manifest or "",
        samples={split: len(prepared.manifest.split(split)) for split in ("train", "val")},
        classes={head: len(names) for head, names in prepared.data.preprocessing.labels.items()},
        workers=count,
        shape=prepared.shape(count),
        parameters=parameters,
        multiply_adds=multiply_adds,
        writes={
            "checkpoints": absolute(join(prepared.storage, taken, "checkpoints")),
            "record": without_password(tracking_uri(prepared.storage)),
        },
        experiment=prepared.experiment.model_dump(mode="json"),
    )


def _place(prepared: Prepared, run_hash: str) -> tuple[str, int]:
    """The name of the run, and how many steps it has behind it."""
    start = prepared.start
    if (prepared.resume or (start and not start.is_fork)) and not has_tracker(prepared.storage):
        raise ConfigError(
            f"there are no runs in {prepared.storage}",
            code="nothing_to_resume",
            key="extend" if start else "resume",
            remedy="pass the `storage` of the run",
        )
    found = run_to_continue(
        prepared.experiment,
        prepared.manifest,
        run_hash,
        storage=prepared.storage,
        name=prepared.name,
        resume=prepared.resume,
        start=start,
    )
    if start is not None or found is None:
        base = prepared.name or prepared.experiment.name
        name = found.name if found else free_name(prepared.storage, base, numbered=prepared.name is None)
        return name, start.checkpoint.step if start else 0
    last = last_kept(join(prepared.storage, found.name, "checkpoints"))
    return found.name, kept(last).step if last else 0


def _network(prepared: Prepared) -> tuple[int | None, int | None]:
    """Parameters, and multiply-adds for one training clip. Raises KinerayError for what does not fit."""
    from kineray.training.probe import costs, probe

    labels = prepared.data.preprocessing.labels
    probe(prepared.experiment, labels, prepared.checkpoint)
    return costs(prepared.experiment, labels)


def _usual_workers(experiment: Experiment) -> WorkerRange | None:
    """How many workers train if nobody says it; None if that depends on a cluster."""
    import torch

    if may_join():
        return None
    return one_for_every(torch.cuda.device_count(), experiment)
