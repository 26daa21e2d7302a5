"""What is checked and known of a run before anything is started or written."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kineray.config import Experiment
from kineray.data import Manifest
from kineray.errors import ConfigError
from kineray.options import WorkerOptions
from kineray.orchestration.continuing import Continuation, extension, fork_from
from kineray.orchestration.records import OpenRecord, open_manifest, open_record, run_fingerprint
from kineray.orchestration.workers import WorkerCount, WorkerRange, worker_range
from kineray.storage import runs_folder
from kineray.tracking import check_name
from kineray.training import RunShape, check_micro_batch, shape_of
from kineray.training.features.checks import check_cacheable
from kineray.training.inputs import RunData, check_data


@dataclass(frozen=True)
class Prepared:
    """A run that may be started.

    ``experiment`` has absolute paths. ``workers``: None if that is for the cluster to say. ``start``: the
    checkpoint of a run that is extended or forked; None for one that begins anew or is resumed.
    """

    experiment: Experiment
    manifest: Manifest
    data: RunData
    storage: str
    name: str | None
    resume: bool
    options: WorkerOptions
    workers: WorkerRange | None
    start: Continuation | None

    @property
    def checkpoint(self) -> str | None:
        """URI of the checkpoint that a run with other values goes on from."""
        return self.start.checkpoint.uri if self.start else None

    def shape(self, workers: int | None) -> RunShape:
        """What the run will do, with this many workers."""
        return shape_of(
            self.experiment, self.data.samples, micro_batch=self.options.micro_batch, workers=workers
        )


def prepare(
    experiment: Experiment,
    *,
    storage: str | None,
    workers: WorkerCount | None,
    name: str | None,
    resume: bool,
    extend: bool,
    fork: str | None,
    options: WorkerOptions,
) -> Prepared:
    """Check the arguments of ``kineray.train`` as far as that takes neither Ray nor MLflow nor torch.

    Raises KinerayError.
    """
    _check_one_of(resume=resume, extend=extend, fork=fork is not None)
    if name is not None:
        check_name(name)
    asked = worker_range(workers, experiment)
    storage = runs_folder(storage)
    experiment, manifest = open_manifest(experiment, storage)
    data = check_data(experiment, manifest)
    check_micro_batch(options.micro_batch, experiment.train.bn_group)
    if options.cache_features:
        check_cacheable(experiment)
    start: Continuation | None = None
    if extend:
        start = extension(storage, name, experiment, data)
    elif fork is not None:
        start = fork_from(fork, storage, experiment, manifest, data)
    return Prepared(experiment, manifest, data, storage, name, resume, options, asked, start)


def open_run(prepared: Prepared, command: Iterable[str]) -> OpenRecord:
    """Start the record of a run, or continue it. Raises KinerayError."""
    return open_record(
        prepared.experiment,
        prepared.manifest,
        run_fingerprint(prepared.experiment, prepared.manifest),
        storage=prepared.storage,
        name=prepared.name,
        resume=prepared.resume,
        command=command,
        start=prepared.start,
    )


def _check_one_of(**given: Any) -> None:
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise ConfigError(
            f"excludes `{chosen[1]}`",
            code="contradiction",
            key=chosen[0],
            remedy="`resume` goes on with the same experiment, `extend` for more epochs, and `fork` begins a "
            "new run",
        )
