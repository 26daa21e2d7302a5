"""How many workers Ray Train starts, and when it starts them again with others."""

import os
import socket
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
from ray.train.v2._internal.execution.scaling_policy import (
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2.api.config import ScalingConfig

from kineray.orchestration.workers import WorkerRange

_POLL_S = 1.0
_SETTLE_S = 5.0  # what a lost or stopped group had is reported as free within this time
_LOOK_S = 10.0  # between two looks for hosts that have joined
_PLACE_S = 30.0  # for workers to get the places that were seen to be free
_ANSWER_S = 2.0


class FixedWorkers(FixedScalingPolicy):
    """A fixed number of workers, without requests to an autoscaler."""

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Around a run."""
        yield

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class ElasticWorkers(FixedWorkers):
    """As many workers as there is room for, within ``workers``.

    A group that has lost a worker is replaced by one of what is left. A larger group replaces one when there
    is room for it, right after a snapshot or checkpoint, so that no more than a moment's work is repeated.
    ``kept``: how many of these there have been.
    """

    def __init__(self, config: ScalingConfig, workers: WorkerRange, kept: Callable[[], int]) -> None:
        super().__init__(config)
        self._workers, self._kept = workers, kept
        self._looked, self._seen = 0.0, 0
        self._kept_before: int | None = None  # while a larger group waits for the next snapshot
        self._members: list[str] = []  # the hosts of the group's workers, whose places it holds until it ends

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Around a run: if places are gone when workers are to start, the number is soon chosen anew."""
        before = os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR]
        os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(_PLACE_S)
        try:
            yield
        finally:
            os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = before

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        self._members = []  # the group ends now

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """The size of a group that starts: as soon as there is room for all, or room does not grow."""
        self._kept_before = None
        room, since = self._places(), time.monotonic()
        while room < self._workers.most and time.monotonic() - since < _SETTLE_S:
            time.sleep(_POLL_S)
            if (now := self._places()) != room:
                room, since = now, time.monotonic()
        return self._resize(room) if room >= self._workers.least else NoopDecision()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Whether a larger group is to replace the one that trains."""
        have, now = worker_group_state.num_workers, time.monotonic()
        self._members = [worker.metadata.node_id for worker in worker_group_state.workers]
        if have >= self._workers.most:
            return NoopDecision()
        if self._kept_before is None:
            if now - max(self._looked, worker_group_state.start_time) < _LOOK_S:
                return NoopDecision()
            seen, self._looked, self._seen = self._seen, now, self._room()
            if 0 < self._seen == seen:  # hosts join one after the other, and every start costs time
                self._kept_before = self._kept()
            return NoopDecision()
        if self._kept() == self._kept_before:
            return NoopDecision()
        self._kept_before, self._seen = None, 0
        room = have + self._room()
        return self._resize(room) if room > have else NoopDecision()

    def _resize(self, room: int) -> ResizeDecision:
        return ResizeDecision(min(room, self._workers.most), self._needs())

    def _needs(self) -> dict[str, float]:
        return dict(self.scaling_config._resources_per_worker_not_none)

    def _places(self) -> int:
        """How many workers find a place if the group ends."""
        # A host that was lost a moment ago is still counted by Ray.
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"] and _answers(node)}
        return self._room(alive) + sum(node in alive for node in self._members)

    def _room(self, nodes: Container[str] | None = None) -> int:
        """How many more workers find a place now, on these nodes, by default on all."""
        return sum(
            int(min(free.get(name, 0.0) // amount for name, amount in self._needs().items() if amount))
            for node, free in ray._private.state.available_resources_per_node().items()
            if nodes is None or node in nodes
        )


def _answers(node: dict[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _ANSWER_S).close()
    except OSError:
        return False
    return True
