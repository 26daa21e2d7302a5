"""How messages get from workers on any host to the one process that writes the run's record."""

import contextlib
from collections.abc import Callable
from typing import Any

from kineray.cluster import driver_node
from kineray.orchestration.messages import FromTrial, FromWorker, SystemMetrics, WorkerFailed, WorkerStarted
from kineray.orchestration.startup import in_thread
from kineray.storage import relative
from kineray.tracking import BEST_SCORE, GOODPUT, SCORE, SCORE_NAME, Run
from kineray.training import (
    CheckpointEvent,
    Event,
    FeaturesEvent,
    Goodput,
    InitialisedEvent,
    ReplacedEvent,
    StepEvent,
    StragglerEvent,
    ValidationEvent,
    line_of,
)

LOSS = "train/loss"  # the metric that every step logs

_STOP_S = 10.0


def open_mailbox() -> Any:
    """A new mailbox on the host of this process; workers call ``mailbox.put.remote(message)``."""
    import ray

    return ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=driver_node()).remote()


def close_mailbox(mailbox: Any) -> None:
    """End the mailbox's process, when nothing can be in it any more."""
    import ray

    call_in_time(lambda: ray.kill(mailbox))


def stop_workers(mailbox: Any) -> bool:
    """End all workers at once; those that Ray then starts in their place return without training.

    Returns whether Ray has answered.
    """
    import ray

    def stop() -> None:
        for worker in ray.get(mailbox.stop.remote()):
            ray.kill(worker)

    return call_in_time(stop)


def call_in_time(function: Callable[[], None]) -> bool:
    """Wait for ``function`` for at most ten seconds; returns whether Ray has answered.

    A Ray that got the same SIGTERM as this process ends all processes by itself and answers nothing any more;
    it ends this process too, with exit code 1, if it is waited for longer than a minute.
    """
    import ray

    with contextlib.suppress(ray.exceptions.RayError, RuntimeError, TimeoutError):
        in_thread(function).result(timeout=_STOP_S)
        return True
    return False


def drain(mailbox: Any) -> list[Any]:
    """Remove and return all messages, in the order in which they arrived."""
    import ray

    messages: list[Any] = ray.get(mailbox.drain.remote())
    return messages


class _Mailbox:
    """Holds messages between workers and the driver. Runs as an actor on the driver's host."""

    def __init__(self) -> None:
        self._messages: list[FromWorker | FromTrial] = []
        self._failed_ranks: set[int] = set()
        self._workers: list[Any] = []
        self._is_stopped = False

    def put(self, message: FromWorker | FromTrial) -> None:
        self._messages.append(message)
        if isinstance(message, WorkerFailed) and message.permanent:
            self._failed_ranks.add(message.rank)

    def drain(self) -> list[FromWorker | FromTrial]:
        messages, self._messages = self._messages, []
        return messages

    def admit(self, worker: Any) -> bool:
        """Whether ``worker``, an actor's handle, is to train: not if the run has failed or was stopped."""
        self._workers.append(worker)
        return not self._is_stopped and not self._failed_ranks

    def stop(self) -> list[Any]:
        """Admit no more workers; returns the handles of those that were admitted."""
        self._is_stopped = True
        return self._workers

    def failed_workers(self) -> int:
        """How many workers have failed permanently: a new worker would fail in the same way."""
        return len(self._failed_ranks)


def record(run: Run, message: Event | WorkerStarted) -> None:
    """Write one event of the training loop, or the host and process of a worker, to the run's record."""
    match message:
        case WorkerStarted():
            run.set_tags({f"worker.{message.rank}": f"{message.host} pid {message.pid}"})
        case InitialisedEvent():
            run.set_tags({f"initialised.{message.part}".rstrip("."): message.message})
        case FeaturesEvent():
            run.set_tags({"features": message.message})
        case StepEvent():
            goodput = {} if message.goodput is None else {"train/goodput": message.goodput}
            run.log_metrics(
                {
                    LOSS: message.loss,
                    "train/lr": message.lr,
                    "train/epoch": message.epoch,
                    "train/clips_per_s": message.clips_per_s,
                    "train/data_wait": message.data_wait,
                    "train/copy": message.copy,
                    "train/compute": message.compute,
                    **goodput,
                },
                message.step,
            )
        case ValidationEvent():
            run.log_metrics(message.metrics | {SCORE: message.score}, message.step)
            run.set_tags({SCORE_NAME: message.score_name})
        case CheckpointEvent():
            best = message.uri if message.best else None
            record_checkpoints(run, message.step, message.uri, best, message.score)
        case StragglerEvent():
            run.set_tags({f"straggler.{message.rank}": line_of(message) or ""})
        case ReplacedEvent():
            run.log_metrics({"train/replaced_clips": float(len(message.failures))}, message.step)


def record_goodput(run: Run, goodput: Goodput, step: int) -> None:
    """Write what the time of a run was spent on until ``step``."""
    causes = {f"badput/{cause.replace(' ', '_')}": share for cause, share in goodput.badput.items()}
    run.log_metrics({GOODPUT: goodput.effective, "lost_steps": goodput.lost_steps, **causes}, step)


def record_system(run: Run, message: SystemMetrics) -> None:
    """Write how busy a host is to the run's record; those of other hosts than the first have its name."""
    place = f"system/{message.host}" if message.node else "system"
    run.append_metrics({f"{place}/{name}": value for name, value in message.values.items()})


def record_checkpoints(run: Run, step: int, last_uri: str, best_uri: str | None, score: float | None) -> None:
    """Write where a run's last checkpoint is, made at ``step``, and its best one, which has ``score``."""
    tags = {"checkpoint.last": _inside(run, last_uri), "checkpoint.last_step": str(step)}
    if best_uri is not None:
        tags |= {"checkpoint.best": _inside(run, best_uri), BEST_SCORE: repr(score)}
    run.set_tags(tags)


def _inside(run: Run, uri: str) -> str:
    """``uri`` relative to the storage of the run, which may be moved."""
    return relative(uri, run.storage) or uri
