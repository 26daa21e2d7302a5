"""The driver's view of a sweep: its trials and their states; it writes their records."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kineray.config import Experiment, apply_overrides, trial_name
from kineray.data import Manifest
from kineray.orchestration.mailbox import close_mailbox, drain, open_mailbox, record, record_system
from kineray.orchestration.messages import FromTrial, SystemMetrics, TrialEnded, TrialEvent, TrialStarted
from kineray.orchestration.process import as_kineray_error
from kineray.orchestration.records import run_fingerprint
from kineray.tracking import PROBLEM, Run, get_run, mark_folder, resume_run, run_exists, start_run
from kineray.training import Event, ValidationEvent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One point of the search space: the name of its run, the values tried, and how far it got.

    ``params``: the searched values by dotted key. ``state``: ``finished``, ``stopped`` (by ASHA),
    ``diverged``, ``failed`` or ``interrupted``. ``epoch``: the last validated one. ``score``: the best
    validation score so far (0 to 1), None before the first validation.
    """

    name: str
    params: dict[str, Any]
    state: str
    epoch: int
    score: float | None


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep's name and its trials, best first.

    ``score``: the metric that their scores are values of, such as ``action/top1``.
    """

    name: str
    score: str
    trials: list[Trial]

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score, None when no trial was validated."""
        return next((trial for trial in self.trials if trial.score is not None), None)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per trial: its best score, epoch, state, the searched keys, and the run's name."""
        return [
            {"best": t.score, "epoch": t.epoch, "state": t.state} | t.params | {"run": t.name}
            for t in self.trials
        ]


@dataclass
class _Entry:
    run: Run
    params: dict[str, Any]
    state: str = "running"
    epoch: int = 0
    score: float | None = None
    problem: str = ""


@dataclass
class Board:
    """The driver's view of all trials, and the only writer of their records."""

    parent: Run
    experiment: Experiment
    manifest: Manifest
    storage: str
    on_event: Callable[[str, Event], None]
    tensorboard: bool = False
    first_problem: str = ""
    score: str = ""
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)
    _mailbox: Any = None
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start_listening(self) -> Any:
        """Process the trials' messages in a thread from now on; returns the mailbox that trials write to."""
        self._mailbox = open_mailbox()
        self._thread = threading.Thread(target=self._listen, name="kineray-events", daemon=True)
        self._thread.start()
        return self._mailbox

    def restore(self, finished: list[dict[str, Any]]) -> None:
        """Add the trials that ended before this sweep was resumed, by their params."""
        for params in finished:
            name = trial_name(self.experiment, params)
            detail = get_run(self.storage, f"{self.parent.name}/{name}")
            self.score = detail.score or self.score
            self._entries[name] = _Entry(
                resume_run(self.storage, detail.name),
                params,
                detail.tags.get("trial.state", "interrupted"),
                int(detail.tags.get("trial.epoch", "0")),
                float(detail.tags["trial.score"]) if "trial.score" in detail.tags else None,
            )

    def trials(self) -> list[Trial]:
        """All trials, best first and those without a score last."""
        found = [
            Trial(entry.run.name, entry.params, entry.state, entry.epoch, entry.score)
            for entry in self._entries.values()
        ]
        return sorted(found, key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)

    def failed(self, name: str, problem: str) -> None:
        """Note that a trial's process raised or died; ``problem``: its error or traceback."""
        self._problems[name] = _last_line(problem)
        if name not in self._entries:  # before it could report its start
            self.first_problem = self.first_problem or self._problems[name]

    def close(self, status: str) -> None:
        """Stop listening and end the record of every trial. ``status``: how the sweep itself ended."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._process_messages()
            close_mailbox(self._mailbox)
        for name, entry in self._entries.items():
            if entry.state == "running":
                self._infer_end(name, entry, status)
            if entry.problem:
                self.first_problem = self.first_problem or entry.problem
                entry.run.set_tags({PROBLEM: entry.problem})
            score = {} if entry.score is None else {"trial.score": repr(entry.score)}
            entry.run.set_tags({"trial.state": entry.state, "trial.epoch": str(entry.epoch), **score})
            statuses = {"failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}
            entry.run.finish(statuses.get(entry.state, "FINISHED"))

    def _infer_end(self, name: str, entry: _Entry, status: str) -> None:
        """Set the state of a trial that did not report its end: its process is gone, or ASHA stopped it."""
        if name in self._problems:
            entry.state, entry.problem = "failed", self._problems[name]
        else:
            entry.state = "stopped" if status == "FINISHED" else "interrupted"

    def _listen(self) -> None:
        while not self._done.wait(0.25):
            self._process_messages()

    def _process_messages(self) -> None:
        message: FromTrial
        for message in drain(self._mailbox):
            try:
                self._process(message)
            except Exception as error:  # one trial's record, or the caller's on_event; the others continue
                problem = str(as_kineray_error(error))
                self.first_problem = self.first_problem or problem
                log.warning("%s: %s", message.trial, problem)

    def _process(self, message: FromTrial) -> None:
        entry = self._entries.get(message.trial)
        match message:
            case TrialStarted():
                self._start(message)
            case TrialEnded(problem=problem) if entry is None:  # before it could report its start
                self.first_problem = self.first_problem or problem
            case _ if entry is None:  # its record could not be started, which has been logged
                pass
            case SystemMetrics():
                record_system(entry.run, message)
            case TrialEvent(event=event):
                record(entry.run, event)
                if isinstance(event, ValidationEvent):
                    self.score, entry.epoch = event.score_name, event.epoch
                    entry.score = max(event.score, entry.score or 0.0)
                self.on_event(message.trial, event)
            case TrialEnded():
                entry.state, entry.problem = message.state, message.problem
                if message.traceback:
                    log.debug("%s:\n%s", message.trial, message.traceback)

    def _start(self, message: TrialStarted) -> None:
        """Make the trial's entry; a trial that continues, here or in a resumed sweep, keeps its record."""
        name = message.trial
        if name not in self._entries:
            run = self._open_record(name, message.params)
            if self.tensorboard:
                run.write_tensorboard()
            self._entries[name] = _Entry(run, message.params)
        entry = self._entries[name]
        entry.state, entry.score, entry.problem = "running", message.score, ""
        entry.run.set_tags({"worker.0": f"{message.host} pid {message.pid}"})

    def _open_record(self, name: str, params: dict[str, Any]) -> Run:
        full_name = f"{self.parent.name}/{name}"
        if run_exists(self.storage, full_name):
            return resume_run(self.storage, full_name)
        experiment = apply_overrides(self.experiment, params)
        run = start_run(
            self.storage,
            name=full_name,
            experiment=experiment,
            fingerprint=run_fingerprint(experiment, self.manifest),
            manifest=self.manifest,
            command=[],
            parent=self.parent.run_id,
        )
        mark_folder(self.storage, full_name, run.run_id)
        return run


def _last_line(text: str) -> str:
    """The last line of a traceback, which names the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "its process ended"
