"""What runs in the processes of Ray Train: one worker of a run."""

import dataclasses
import time
from typing import Any

from kineray.cluster import cpus_of_this_node
from kineray.orchestration.messages import WorkerTask
from kineray.orchestration.process import enter, failed, is_echo, shared_manifest, started
from kineray.storage import join
from kineray.training import CheckpointStore, TrainResult, train

_TOGETHER_S = 5.0


def run_worker(task_json: str, mailbox: Any) -> TrainResult | None:
    """One rank. Returns what was trained, or None when the driver has been sent the reason why not.

    Ray starts the whole group anew when a worker raises, which is right when a host was lost. An error
    that would come back is not raised: where every worker has it, all of them return, and where only
    one has it, the others are ended by raising it once, and their new group returns at once.
    """
    import ray
    import ray.train
    from ray.train.torch import get_device

    if ray.get(mailbox.lost.remote()):
        return None
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    try:
        task = WorkerTask.from_json(task_json)
        cpus = max(1, cpus_of_this_node() // context.get_local_world_size())
        experiment = enter(task, cpus)
        manifest = shared_manifest(task)
        mailbox.put.remote(started(rank))
        return train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=CheckpointStore(join(task.folder, "checkpoints")),
            on_event=mailbox.put.remote,
            rank=rank,
            world_size=world_size,
            device=str(get_device()),
            options=dataclasses.replace(task.options, decoders=task.options.decoders or cpus),
            resume=True,  # the folder is this run's own: a worker group that replaces another goes on
        )
    except Exception as error:
        if is_echo(error):
            raise
        failure = failed(rank, error)
        ray.get(mailbox.put.remote(failure))
        if failure.final and _all_lost(mailbox, world_size):
            return None
        raise


def _all_lost(mailbox: Any, world_size: int) -> bool:
    """Whether every worker fails for good at about the same time."""
    import ray

    deadline = time.monotonic() + _TOGETHER_S
    while ray.get(mailbox.lost.remote()) < world_size:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
