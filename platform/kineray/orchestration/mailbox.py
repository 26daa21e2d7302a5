"""How events get from the workers, on any host, to the one writer of a run's record."""

from typing import Any

from kineray.cluster import driver_node
from kineray.tracking import Run
from kineray.training import (
    CheckpointEvent,
    Event,
    InitialisedEvent,
    ReplacedEvent,
    StepEvent,
    ValidationEvent,
)


def open_mailbox() -> Any:
    """A new mailbox on the host of this process; workers call ``mailbox.put.remote(item)``."""
    import ray

    return ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=driver_node()).remote()


def drain(mailbox: Any) -> list[Any]:
    """Take all items out, in the order in which they came."""
    import ray

    items: list[Any] = ray.get(mailbox.drain.remote())
    return items


class _Mailbox:
    """Holds events between rank 0 and the driver. Runs as an actor on the driver's host."""

    def __init__(self) -> None:
        self._items: list[Any] = []

    def put(self, item: Any) -> None:
        self._items.append(item)

    def drain(self) -> list[Any]:
        items, self._items = self._items, []
        return items


def record(run: Run, event: Event | tuple[str, int, str, int]) -> None:
    """Write one event of the training loop to the run's record."""
    match event:
        case InitialisedEvent():
            run.set_tags({f"initialised.{event.part}".rstrip("."): event.message})
        case StepEvent():
            run.log_metrics(
                {
                    "train/loss": event.loss,
                    "train/lr": event.lr,
                    "train/epoch": event.epoch,
                    "train/clips_per_s": event.clips_per_s,
                    "train/data_wait": event.data_wait,
                    "train/copy": event.copy,
                    "train/compute": event.compute,
                },
                event.step,
            )
        case ValidationEvent():
            run.log_metrics(event.metrics, event.step)
        case CheckpointEvent():
            tags = {"checkpoint.last": event.uri, "checkpoint.last_step": str(event.step)}
            run.set_tags(tags | ({"checkpoint.best": event.uri} if event.best else {}))
        case ReplacedEvent():
            run.log_metrics({"train/replaced_clips": float(len(event.failures))}, event.step)
        case ("worker", rank, host, pid):
            run.set_tags({f"worker.{rank}": f"{host} pid {pid}"})
