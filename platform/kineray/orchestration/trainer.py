"""Ray Train's trainer without the processes that kineray never uses, which would import for seconds.

Its TorchTrainer imports torch on the driver and in its controller, too. Every trainer starts actors for data
sets of Ray Data, for requests to an autoscaler (which sees the waiting workers without them), for the
controller, which the driver has imported anyway and runs here, and for the places of workers whose controller
is lost (they are free when the driver ends).
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from kineray.orchestration.scaling import ElasticWorkers, FixedWorkers
from kineray.orchestration.workers import WorkerRange
from kineray.threads import wait_without_spinning

_TIMEOUT = timedelta(minutes=30)
_LEAVE_S = 5.0


class Trainer(DataParallelTrainer):
    """Runs a function on workers that are one torch.distributed group.

    ``kept``: how many snapshots and checkpoints there have been, for a number of workers that may change.
    """

    def __init__(
        self, run_one_worker: Callable[[], Any], workers: WorkerRange, kept: Callable[[], int], **options: Any
    ) -> None:
        super().__init__(run_one_worker, backend_config=_TorchGroupConfig(), **options)
        self._workers, self._kept = workers, kept

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, unused)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        config, workers = self.scaling_config, self._workers
        is_fixed = workers.least == workers.most
        policy = FixedWorkers(config) if is_fixed else ElasticWorkers(config, workers, self._kept)
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # what ends a run is in the result
        controller = _Controller(**{**options, "scaling_policy": policy})
        with policy.in_charge():
            asyncio.run(controller.run())
        return controller.get_result()


class _WorkerGroup(WorkerGroup):
    """Workers of a controller that is no actor: they cannot ask it for the checkpoints that Ray keeps."""

    def _init_train_context_on_workers(
        self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        tasks = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[rank] for name, values in train_context_args.items()},
            )
            for rank, worker in enumerate(workers)
        ]
        ray.get(tasks)
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup


class _TorchGroupConfig(BackendConfig):
    """Makes workers one group: NCCL if each has a GPU, else gloo."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls when workers start."""
        return _TorchGroup


class _TorchGroup(Backend):
    share_cuda_visible_devices = True  # NCCL reaches other GPUs of the host directly

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        size = len(worker_group)
        if size == 1:
            return
        url = worker_group.execute_single(0, _free_url)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        joins = [
            worker_group.execute_single_async(rank, _join, url, backend, rank, size) for rank in range(size)
        ]
        ray.get(joins)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        with contextlib.suppress(ray.exceptions.GetTimeoutError, ray.exceptions.RayError):
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_S)


def _free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _join(url: str, backend: str, rank: int, size: int) -> None:
    wait_without_spinning()
    import torch.distributed as dist

    dist.init_process_group(backend, init_method=url, rank=rank, world_size=size, timeout=_TIMEOUT)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
