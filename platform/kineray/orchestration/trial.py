"""The code that runs in each process of Ray Tune: one trial of a sweep."""

import dataclasses
import os
import socket
from typing import Any

from kineray.config import Experiment, apply_overrides, trial_name
from kineray.errors import NonFiniteLossError
from kineray.orchestration.messages import SystemMetrics, TrialEnded, TrialEvent, TrialStarted, TrialTask
from kineray.orchestration.process import failure_message, set_up_process, shared_manifest
from kineray.orchestration.system_metrics import measured
from kineray.storage import join
from kineray.training import CheckpointEvent, Event, ValidationEvent


def run_trial(params: dict[str, Any], *, task_json: str, mailbox: Any) -> None:
    """Train one point of the search space: the experiment of the task with ``params`` in it.

    Raises only errors that a new process might not meet, so that Ray Tune starts the trial again.
    """
    name = ""
    try:
        task = TrialTask.from_json(task_json)
        base = set_up_process(task, task.cpus)
        name = trial_name(base, params)
        _train(task, base, name, params, mailbox)
    except Exception as error:
        failure = failure_message(0, error)
        mailbox.put.remote(TrialEnded(name, "failed", str(failure.error), failure.traceback))
        if not failure.permanent:
            raise


def _train(task: TrialTask, base: Experiment, name: str, params: dict[str, Any], mailbox: Any) -> None:
    import torch
    from ray import tune

    from kineray.training import CheckpointStore, train

    checkpoints = CheckpointStore(join(task.folder, name, "checkpoints"))
    before = checkpoints.best_score()  # of a trial that continues after an interruption
    mailbox.put.remote(TrialStarted(name, params, before, socket.gethostname(), os.getpid()))
    last_epoch = base.run_epochs
    best, validated, reported = before or 0.0, 0, 0

    def on_event(event: Event) -> None:
        nonlocal best, validated, reported
        mailbox.put.remote(TrialEvent(name, event))
        if isinstance(event, ValidationEvent):
            # Optuna learns the last reported value of a trial that ASHA stops, so report the best one so far.
            best, validated = max(best, event.score), event.epoch
        elif isinstance(event, CheckpointEvent) and validated:
            # Reported only after the checkpoint of the score, since ASHA may end this process in the report.
            epoch, validated, reported = validated, 0, validated
            if epoch == last_epoch:
                mailbox.put.remote(TrialEnded(name, "finished"))
            tune.report({"score": best, "epoch": epoch, "epochs": last_epoch})

    def report_system(values: dict[str, float]) -> None:
        mailbox.put.remote(SystemMetrics(values, socket.gethostname(), trial=name))

    try:
        experiment = apply_overrides(base, params)
        last_epoch = experiment.run_epochs
        manifest = shared_manifest(task)
        with measured(report_system if task.options.system_metrics else None):
            result = train(
                experiment,
                manifest.split("train"),
                manifest.split("val"),
                checkpoints=checkpoints,
                on_event=on_event,
                device="cuda" if torch.cuda.is_available() else "cpu",
                options=dataclasses.replace(task.options, decoders=task.options.decoders or task.cpus),
                resume=True,
            )
        if reported < last_epoch and result.best is not None:
            # Its recipe has stopped it early, or it was interrupted after its last step.
            mailbox.put.remote(TrialEnded(name, "finished"))
            last_epoch = reported or last_epoch
            tune.report({"score": result.best, "epoch": last_epoch, "epochs": last_epoch})
    except NonFiniteLossError as error:
        mailbox.put.remote(TrialEnded(name, "diverged", str(error)))
        tune.report({"score": 0.0, "epoch": last_epoch, "epochs": last_epoch})
