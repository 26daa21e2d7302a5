"""The driver's view of a sweep: its trials and their states; it writes their records."""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, overload

from kineray.config import Experiment, apply_overrides, to_yaml, trial_name
from kineray.data import Manifest
from kineray.orchestration.mailbox import close_mailbox, drain, open_mailbox, record, record_system
from kineray.orchestration.messages import FromTrial, SystemMetrics, TrialEnded, TrialEvent, TrialStarted
from kineray.orchestration.process import as_kineray_error
from kineray.orchestration.records import run_fingerprint
from kineray.storage import join, write_bytes
from kineray.tracking import (
    PROBLEM,
    Run,
    RunSummary,
    get_run,
    mark_folder,
    resume_run,
    run_exists,
    start_run,
)
from kineray.tracking.trials import EPOCH, EXPERIMENT, PARAMS, STATE, TAKEN, Trial, Trials
from kineray.training import Event, ValidationEvent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep's name and its trials, best first.

    ``score``: the metric that their scores are values of, such as ``action/top1``. ``ended``: why the sweep
    stopped before all trials had been tried; empty if it did not.
    """

    name: str
    score: str
    trials: Trials
    ended: str = ""

    @overload
    def best(self) -> Trial | None: ...
    @overload
    def best(self, n: int) -> list[Trial]: ...
    def best(self, n: int | None = None) -> Trial | list[Trial] | None:
        """The trial with the highest score, None if none was validated; with ``n`` the best ``n``."""
        return self.trials.best() if n is None else self.trials.best(n)


@dataclass
class _Entry:
    run: Run
    params: dict[str, Any]
    state: str = "running"
    epoch: int = 0
    score: float | None = None
    problem: str = ""
    began: float = field(default_factory=time.monotonic)
    is_open: bool = True


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
    _before: list[Trial] = field(default_factory=list)  # that this process did not run
    _taken: list[list[Any]] = field(default_factory=list)
    _problems: dict[str, str] = field(default_factory=dict)
    _ended: list[str] = field(default_factory=list)
    _busy_s: float = 0.0
    _mailbox: Any = None
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start_listening(self) -> Any:
        """Process the trials' messages in a thread from now on; returns the mailbox that trials write to."""
        self._mailbox = open_mailbox()
        self._thread = threading.Thread(target=self._listen, name="kineray-events", daemon=True)
        self._thread.start()
        return self._mailbox

    def restore(self, params: dict[str, Any], state: str) -> None:
        """Add a trial that ended, as ``state``, before this sweep was resumed."""
        name = trial_name(self.experiment, params)
        detail = get_run(self.storage, f"{self.parent.name}/{name}")
        self.score = detail.score or self.score
        epoch = int(detail.tags.get(EPOCH, "0"))
        if detail.status == "RUNNING":  # the driver died before it could end the record
            run = resume_run(self.storage, detail.name)
            self._end_record(name, _Entry(run, params, state, epoch, detail.best), state)
        state = detail.tags.get(STATE, state)
        self._before.append(Trial(detail.name, params, state, epoch, detail.best, self.storage))

    def take(self, run: RunSummary, params: dict[str, Any]) -> None:
        """Add a run of the same experiment that was finished before, in place of a trial."""
        self.score = run.score or self.score
        self._taken.append([run.name, params])
        epoch = int(run.tags.get(EPOCH, "0"))
        self._before.append(Trial(run.name, params, "finished", epoch, run.best, self.storage))
        self.parent.set_tags({TAKEN: json.dumps(self._taken)})

    def trials(self) -> Trials:
        """All trials, best first and those without a score last."""
        running = list(self._entries.values())
        found = [Trial(e.run.name, e.params, e.state, e.epoch, e.score, self.storage) for e in running]
        return Trials(found + self._before)

    def failed(self, name: str, problem: str) -> None:
        """Note that a trial's process raised or died; ``problem``: its error or traceback."""
        self._problems[name] = _last_line(problem)
        if name not in self._entries:  # before it could report its start
            self.first_problem = self.first_problem or self._problems[name]

    def ended(self, name: str, *, has_crashed: bool) -> None:
        """Note that no process will work on a trial any more: its record ends after its last messages."""
        if has_crashed:
            self._problems.setdefault(name, "its process ended")
        self._ended.append(name)

    @property
    def number_of_failed(self) -> int:
        """Trials that failed until now."""
        return sum(entry.state == "failed" for entry in list(self._entries.values()))

    @property
    def busy_s(self) -> float:
        """Seconds that trials have taken until now, all together."""
        now = time.monotonic()
        return self._busy_s + sum(now - e.began for e in list(self._entries.values()) if e.is_open)

    def close(self, status: str, *, is_cut_off: bool = False) -> None:
        """Stop listening and end the record of every trial.

        ``status``: how the sweep itself ended. ``is_cut_off``: trials that are running could go on.
        """
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._process_messages()
            close_mailbox(self._mailbox)
        state = "stopped" if status == "FINISHED" and not is_cut_off else "interrupted"
        for name, entry in self._entries.items():
            self._end_record(name, entry, state)

    def _end_record(self, name: str, entry: _Entry, state: str) -> None:
        """End a trial's record. ``state``: of one that did not report its end and whose process lives."""
        if not entry.is_open:
            return
        entry.is_open = False
        self._busy_s += time.monotonic() - entry.began
        if entry.state == "running":
            entry.state, entry.problem = (
                ("failed", self._problems[name]) if name in self._problems else (state, "")
            )
        if entry.problem:
            self.first_problem = self.first_problem or entry.problem
            entry.run.set_tags({PROBLEM: entry.problem})
        score = {} if entry.score is None else {"trial.score": repr(entry.score)}
        entry.run.set_tags({STATE: entry.state, EPOCH: str(entry.epoch), **score})
        statuses = {"failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}
        entry.run.finish(statuses.get(entry.state, "FINISHED"))

    def _listen(self) -> None:
        while not self._done.wait(0.25):
            ended, self._ended = self._ended, []
            self._process_messages()
            for name in ended:
                if name in self._entries:
                    self._end_record(name, self._entries[name], "stopped")

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
                    entry.run.set_tags({EPOCH: str(event.epoch)})
                self.on_event(message.trial, event)
            case TrialEnded():
                entry.state, entry.problem = message.state, message.problem
                if message.traceback:
                    log.debug("%s:\n%s", message.trial, message.traceback)

    def _start(self, message: TrialStarted) -> None:
        """Make the trial's entry; a trial that continues, here or in a resumed sweep, keeps its record."""
        name = message.trial
        if name not in self._entries or not self._entries[name].is_open:
            run = self._open_record(name, message.params)
            if self.tensorboard:
                run.write_tensorboard()
            self._entries[name] = _Entry(run, message.params)
        entry = self._entries[name]
        entry.state, entry.score, entry.problem = "running", message.score, ""
        entry.run.set_tags({"worker.0": f"{message.host} pid {message.pid}", STATE: "running"})

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
        run.set_tags({PARAMS: json.dumps(params)})
        write_bytes(join(self.storage, full_name, EXPERIMENT), to_yaml(experiment).encode())
        mark_folder(self.storage, full_name, run.run_id)
        return run


def _last_line(text: str) -> str:
    """The last line of a traceback, which names the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "its process ended"
