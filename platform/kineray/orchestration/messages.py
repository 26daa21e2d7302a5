"""The messages between processes: one frozen value for each kind.

The driver sends a *task* to each process, as JSON. ``kineray.orchestration.process.set_up_process`` loads
the plug-ins that it names before it parses the experiment in it. All other messages go to the driver,
through the mailbox, and contain only kineray's own types.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Self

from kineray.config import Plugin, space_from_plain
from kineray.errors import KinerayError
from kineray.options import WorkerOptions
from kineray.orchestration.settings import SearchSettings
from kineray.training import Event


@dataclass(frozen=True)
class WorkerTask:
    """What every worker of a run does.

    ``experiment``: YAML. ``manifest`` and ``folder`` (the run's): absolute paths or URIs, which mean the
    same on every host. ``run_id``: of the record. ``plugins``: loaded before the experiment is read.
    ``changed``: dotted keys in which the checkpoint that the run goes on from may differ.
    """

    experiment: str
    manifest: str
    folder: str
    run_id: str
    options: WorkerOptions
    plugins: tuple[Plugin, ...]
    changed: tuple[str, ...] = field(default=(), kw_only=True)

    def to_json(self) -> str:
        """One JSON object, which ``from_json`` of the same class reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The task that ``to_json`` wrote."""
        values = json.loads(text)
        plugins = tuple(map(Plugin.from_json, values["plugins"]))
        typed = {"options": WorkerOptions(**values["options"]), "changed": tuple(values["changed"])}
        return cls(**values | typed | {"plugins": plugins})


@dataclass(frozen=True)
class TrialTask(WorkerTask):
    """What the trials of a sweep do: ``experiment`` is the one that they vary, ``folder`` the sweep's.

    ``cpus``: number of CPU cores that one trial may use.
    """

    cpus: int


@dataclass(frozen=True)
class SweepTask:
    """What the process of a sweep does. ``experiment``: YAML; ``space``: JSON (``space_to_plain``)."""

    experiment: str
    space: str
    storage: str
    settings: SearchSettings
    options: WorkerOptions
    plugins: tuple[Plugin, ...]

    @property
    def number_of_trials(self) -> int:
        """Number of points to try."""
        return self.settings.trials_of(space_from_plain(json.loads(self.space)))

    def to_json(self) -> str:
        """One JSON object, which ``from_json`` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The task that ``to_json`` wrote."""
        values = json.loads(text)
        return cls(
            **values
            | {
                "settings": SearchSettings(**values["settings"]),
                "options": WorkerOptions(**values["options"]),
                "plugins": tuple(map(Plugin.from_json, values["plugins"])),
            }
        )


@dataclass(frozen=True)
class WorkerStarted:
    """The worker ``rank`` of ``workers`` is process ``pid`` on ``host``."""

    rank: int
    workers: int
    host: str
    pid: int


@dataclass(frozen=True)
class WorkerFailed:
    """The worker ``rank`` cannot continue.

    ``traceback``: the worker's, as Python prints it. ``permanent``: a new worker would fail in the same
    way.
    """

    rank: int
    host: str
    error: KinerayError
    traceback: str
    permanent: bool


@dataclass(frozen=True)
class WorkerAlive:
    """A sign of life of the worker ``rank``: it is in ``step`` and ``waits`` for the others, or does not."""

    rank: int
    host: str
    step: int
    waits: bool


@dataclass(frozen=True)
class SystemMetrics:
    """How busy the host of a worker, or of ``trial``, is: {name of MLflow's system metrics: value}.

    ``node``: the number of the host among those of the run.
    """

    values: dict[str, float]
    host: str
    node: int = 0
    trial: str = ""


FromWorker = WorkerStarted | WorkerFailed | WorkerAlive | SystemMetrics | Event


@dataclass(frozen=True)
class TrialStarted:
    """``trial`` starts, or continues, in process ``pid`` on ``host``.

    ``params``: the searched values by dotted key. ``score``: the best validation score so far of a trial
    that continues, else None.
    """

    trial: str
    params: dict[str, Any]
    score: float | None
    host: str
    pid: int


@dataclass(frozen=True)
class TrialEvent:
    """An event of the training loop of ``trial``."""

    trial: str
    event: Event


@dataclass(frozen=True)
class TrialEnded:
    """``trial`` has ended. ``state``: ``finished``, ``diverged`` or ``failed``; ``problem``: in one line.

    ``trial`` is empty if the process failed before it could determine the trial's name.
    """

    trial: str
    state: str
    problem: str = ""
    traceback: str = ""


FromTrial = TrialStarted | TrialEvent | TrialEnded | SystemMetrics
