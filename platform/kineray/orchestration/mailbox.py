"""How messages get from workers on any host to the one process that writes the run's record."""

from typing import Any

from kineray.cluster import driver_node
from kineray.orchestration.messages import FromTrial, FromWorker, WorkerFailed, WorkerStarted
from kineray.tracking import BEST_SCORE, SCORE, Run
from kineray.training import (
    CheckpointEvent,
    Event,
    InitialisedEvent,
    ReplacedEvent,
    StepEvent,
    ValidationEvent,
)


def open_mailbox() -> Any:
    """A new mailbox on the host of this process; workers call ``mailbox.put.remote(message)``."""
    import ray

    return ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=driver_node()).remote()


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

    def put(self, message: FromWorker | FromTrial) -> None:
        self._messages.append(message)
        if isinstance(message, WorkerFailed) and message.permanent:
            self._failed_ranks.add(message.rank)

    def drain(self) -> list[FromWorker | FromTrial]:
        messages, self._messages = self._messages, []
        return messages

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
        case StepEvent():
            run.log_metrics(
                {
                    "train/loss": message.loss,
                    "train/lr": message.lr,
                    "train/epoch": message.epoch,
                    "train/clips_per_s": message.clips_per_s,
                    "train/data_wait": message.data_wait,
                    "train/copy": message.copy,
                    "train/compute": message.compute,
                },
                message.step,
            )
        case ValidationEvent():
            run.log_metrics(message.metrics | {SCORE: message.score}, message.step)
        case CheckpointEvent():
            tags = {"checkpoint.last": message.uri, "checkpoint.last_step": str(message.step)}
            if message.best:
                tags |= {"checkpoint.best": message.uri, BEST_SCORE: repr(message.score)}
            run.set_tags(tags)
        case ReplacedEvent():
            run.log_metrics({"train/replaced_clips": float(len(message.failures))}, message.step)
