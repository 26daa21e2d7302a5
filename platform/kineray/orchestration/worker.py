"""The code that runs in each process of Ray Train: one worker of a run."""

import dataclasses
import socket
import time
from typing import TYPE_CHECKING, Any

from kineray.cluster import cpus_of_this_node
from kineray.orchestration.messages import SystemMetrics, WorkerAlive, WorkerTask
from kineray.orchestration.process import (
    failure_message,
    is_lost_peer,
    set_up_process,
    shared_manifest,
    start_message,
)
from kineray.orchestration.system_metrics import measured, repeated
from kineray.storage import join
from kineray.threads import wait_without_spinning
from kineray.training.snapshot_files import delete_snapshots
from kineray.training.whereabouts import Whereabouts

if TYPE_CHECKING:
    from kineray.training import TrainResult

_FAIL_TOGETHER_S = 5.0  # workers that meet the same error report it within this time


def run_worker(task_json: str, mailbox: Any) -> "TrainResult | None":
    """Train as one rank; returns None if the run has failed (the driver has the reason) or was stopped.

    Ray restarts the whole worker group if a worker raises, which is right if a host was lost, but not for an
    error that would occur again. If every worker has such an error, none raises and all return. If only one
    has it, it raises once to end the others, and the new group returns at once.
    """
    wait_without_spinning()  # before torch is imported; the processes of a cluster inherit nothing
    import ray
    import ray.train
    import torch
    from ray.train.torch import get_device

    from kineray.training import CheckpointStore, Snapshots, train

    if not ray.get(mailbox.admit.remote(ray.get_runtime_context().current_actor)):
        return None
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    try:
        task = WorkerTask.from_json(task_json)
        cpus = max(1, cpus_of_this_node() // context.get_local_world_size())
        experiment = set_up_process(task, cpus)
        manifest = shared_manifest(task)
        device = get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        mailbox.put.remote(start_message(rank, world_size))
        is_measured = task.options.system_metrics and context.get_local_rank() == 0  # once on every host
        takes_snapshots = task.options.snapshot_every != 0 and context.get_local_rank() == 0
        host, node = socket.gethostname(), context.get_node_rank()
        where = Whereabouts()
        with (
            measured(
                (lambda values: mailbox.put.remote(SystemMetrics(values, host, node)))
                if is_measured
                else None
            ),
            repeated(lambda: mailbox.put.remote(WorkerAlive(rank, host, where.step, where.waits))),
        ):
            result = train(
                experiment,
                manifest.split("train"),
                manifest.split("val"),
                checkpoints=CheckpointStore(join(task.folder, "checkpoints")),
                on_event=mailbox.put.remote,
                rank=rank,
                world_size=world_size,
                device=str(device),
                options=dataclasses.replace(task.options, decoders=task.options.decoders or cpus),
                resume=True,  # a worker group that replaces another continues from what it left
                snapshots=Snapshots.of_run(task.run_id) if takes_snapshots else None,
                whereabouts=where,
                changed=task.changed,
            )
        delete_snapshots(task.run_id)
        return result
    except Exception as error:
        if is_lost_peer(error):
            raise
        failure = failure_message(rank, error)
        ray.get(mailbox.put.remote(failure))
        if failure.permanent and _all_failed(mailbox, world_size):
            return None
        raise


def _all_failed(mailbox: Any, world_size: int) -> bool:
    """Whether every worker fails permanently at about the same time."""
    import ray

    deadline = time.monotonic() + _FAIL_TOGETHER_S
    while ray.get(mailbox.failed_workers.remote()) < world_size:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
