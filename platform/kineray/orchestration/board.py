"""The driver's view of a sweep: its trials, their states, and the writing of their records."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kineray.config import Experiment, apply_overrides, fingerprint, trial_name
from kineray.data import Manifest
from kineray.errors import KinerayError
from kineray.orchestration.mailbox import drain, open_mailbox, record
from kineray.tracking import Run, get_run, resume_run, run_exists, start_run
from kineray.training import Event, ValidationEvent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One point of the search space: its run's name, the values tried, and how far it came.

    ``state`` is ``finished``, ``stopped`` (by ASHA), ``diverged``, ``failed`` or ``interrupted``.
    ``score`` is the best validation score so far, None before the first validation.
    """

    name: str
    params: dict[str, Any]
    state: str
    epoch: int
    score: float | None


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep's name and its trials, best first."""

    name: str
    trials: list[Trial]

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score, None when no trial was validated."""
        return next((trial for trial in self.trials if trial.score is not None), None)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a trial: score, epoch, state, the searched keys, and the run's name."""
        return [
            {"score": t.score, "epoch": t.epoch, "state": t.state} | t.params | {"run": t.name}
            for t in self.trials
        ]


@dataclass
class _Entry:
    run: Run
    params: dict[str, Any]
    state: str = "running"
    epoch: int = 0
    score: float | None = None


@dataclass
class Board:
    """The driver's view of all trials, and the only writer of their records."""

    parent: Run
    experiment: Experiment
    manifest: Manifest
    where: str
    on_event: Callable[[str, Event], None]
    first_problem: str = ""
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)
    _mailbox: Any = None
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def mailbox(self) -> Any:
        """Start listening; the handle that trials write to."""
        self._mailbox = open_mailbox()
        self._thread = threading.Thread(target=self._listen, name="kineray-events", daemon=True)
        self._thread.start()
        return self._mailbox

    def known(self, finished: list[dict[str, Any]]) -> None:
        """Take over the trials that an earlier session of this sweep has ended."""
        for params in finished:
            name = trial_name(self.experiment, params)
            detail = get_run(self.where, f"{self.parent.name}/{name}")
            self._entries[name] = _Entry(
                resume_run(self.where, detail.name),
                params,
                detail.tags.get("trial.state", "interrupted"),
                int(detail.tags.get("trial.epoch", "0")),
                float(detail.tags["trial.score"]) if "trial.score" in detail.tags else None,
            )

    def trials(self) -> list[Trial]:
        """All trials, best first; those without a score last."""
        found = [
            Trial(entry.run.name, entry.params, entry.state, entry.epoch, entry.score)
            for entry in self._entries.values()
        ]
        return sorted(found, key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)

    def failed(self, name: str, problem: str) -> None:
        """A trial's process raised or died."""
        self._problems[name] = _last_line(problem)

    def close(self, status: str) -> None:
        """Stop listening and end every trial's record; ``status`` is how the sweep itself ended."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._move()
        for name, entry in self._entries.items():
            if name in self._problems:
                entry.state = "failed"
                entry.run.set_tags({"problem": self._problems[name]})
                self.first_problem = self.first_problem or self._problems[name]
            if entry.state == "running":
                entry.state = "stopped" if status == "FINISHED" else "interrupted"
            score = {} if entry.score is None else {"trial.score": repr(entry.score)}
            entry.run.set_tags({"trial.state": entry.state, "trial.epoch": str(entry.epoch), **score})
            ends = {"failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}
            entry.run.finish(ends.get(entry.state, "FINISHED"))

    def _listen(self) -> None:
        while not self._done.wait(0.25):
            self._move()

    def _move(self) -> None:
        for name, item in drain(self._mailbox):
            try:
                self._take(name, item)
            except KinerayError as error:  # the record of one trial; the others go on
                self.first_problem = self.first_problem or str(error)
                log.warning("%s: %s", name, error)

    def _take(self, name: str, item: dict[str, Any] | str | Event) -> None:
        """One message of a trial: what it starts with, its state at its end, events between."""
        if isinstance(item, dict):
            self._start(name, item["params"])
            self._entries[name].score = item["score"]
            return
        entry = self._entries.get(name)
        if entry is None:  # its record could not be started, which was told
            return
        if isinstance(item, str):
            entry.state, _, problem = item.partition(": ")
            if problem:
                self.first_problem = self.first_problem or problem
                entry.run.set_tags({"problem": problem})
            return
        record(entry.run, item)
        if isinstance(item, ValidationEvent):
            entry.epoch = item.epoch
            entry.score = max(item.score, entry.score or 0.0)
        self.on_event(name, item)

    def _start(self, name: str, params: dict[str, Any]) -> None:
        full_name = f"{self.parent.name}/{name}"
        if run_exists(self.where, full_name):
            self._entries[name] = _Entry(resume_run(self.where, full_name), params)
            return
        experiment = apply_overrides(self.experiment, params)
        run = start_run(
            self.where,
            name=full_name,
            experiment=experiment,
            fingerprint=fingerprint(experiment, self.manifest.content_hash),
            manifest=self.manifest,
            command=[],
            parent=self.parent.run_id,
        )
        self._entries[name] = _Entry(run, params)


def _last_line(text: str) -> str:
    """Of a traceback, what was raised."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "its process ended"
