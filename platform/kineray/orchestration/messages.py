"""What processes tell each other: one frozen value for each kind of message.

A *task* goes down to a process that is to be set up, as JSON: the process reads the text, enters
(``kineray.orchestration.process.enter``), and only then is the experiment in it parsed. Everything else
goes up to the driver, by the mailbox, and holds nothing but kineray's own values.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from kineray.config import Plugin
from kineray.errors import KinerayError
from kineray.options import WorkerOptions
from kineray.training import Event


@dataclass(frozen=True)
class WorkerTask:
    """What every worker of a run does.

    ``experiment`` is YAML; ``manifest`` and ``folder`` (of the run) are locations that mean the same on
    every host. ``plugins``: declared before the experiment is read.
    """

    experiment: str
    manifest: str
    folder: str
    options: WorkerOptions
    plugins: tuple[Plugin, ...]

    def to_json(self) -> str:
        """One JSON object; ``from_json`` of the same class reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The task that ``to_json`` wrote."""
        values = json.loads(text)
        plugins = tuple(map(Plugin.from_json, values["plugins"]))
        return cls(**values | {"options": WorkerOptions(**values["options"]), "plugins": plugins})


@dataclass(frozen=True)
class TrialTask(WorkerTask):
    """What the trials of a sweep do: ``experiment`` is the one they vary, ``folder`` the sweep's.

    ``cpus``: CPU cores that one trial may use.
    """

    cpus: int


@dataclass(frozen=True)
class WorkerStarted:
    """The worker ``rank`` is process ``pid`` on ``host``."""

    rank: int
    host: str
    pid: int


@dataclass(frozen=True)
class WorkerFailed:
    """The worker ``rank`` cannot go on. ``final``: it would fail again if the group were started anew.

    ``traceback`` is the worker's, as Python prints it.
    """

    rank: int
    host: str
    error: KinerayError
    traceback: str
    final: bool


FromWorker = WorkerStarted | WorkerFailed | Event


@dataclass(frozen=True)
class TrialStarted:
    """``trial`` starts, or goes on, in process ``pid`` on ``host``.

    ``params``: the point of the search space, by dotted key; ``score``: the best one so far of a trial
    that goes on.
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
    """``trial`` came to its end: ``finished``, ``diverged`` or ``failed``, with the problem in one line.

    ``trial`` is empty for a process that failed before it could tell which one it was to run.
    """

    trial: str
    state: str
    problem: str = ""
    traceback: str = ""


FromTrial = TrialStarted | TrialEvent | TrialEnded
