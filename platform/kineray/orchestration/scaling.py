"""How many workers Ray Train starts, and when it starts them again with others."""

import os
import time
from collections.abc import Callable
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


class FixedWorkers(FixedScalingPolicy):
    """A fixed number of workers, without requests to an autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class ElasticWorkers(FixedWorkers):
    """As many workers as there is room for, within ``workers``; it is asked in the controller's process.

    A group that has lost a worker is replaced by one of what is left. A larger group replaces one when there
    is room for it, right after a snapshot or checkpoint, so that no more than a moment's work is repeated.
    ``kept``: how many of these there have been.
    """

    def __init__(self, config: ScalingConfig, workers: WorkerRange, kept: Callable[[], int]) -> None:
        super().__init__(config)
        self._workers, self._kept = workers, kept
        self._looked, self._seen = 0.0, 0
        self._kept_before: int | None = None  # while a larger group waits for the next snapshot

    def after_controller_start(self, train_run_context: Any) -> None:
        # A host that is lost is still counted for a while: then the number is chosen anew.
        os.environ[WORKER_GROUP_START_TIMEOUT_S_ENV_VAR] = str(_PLACE_S)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """The size of a group that starts: as soon as there is room for all, or room does not grow."""
        self._kept_before = None
        room, since = self._room(), time.monotonic()
        while room < self._workers.most and time.monotonic() - since < _SETTLE_S:
            time.sleep(_POLL_S)
            if (now := self._room()) != room:
                room, since = now, time.monotonic()
        return self._resize(room) if room >= self._workers.least else NoopDecision()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """Whether a larger group is to replace the one that trains."""
        have, now = worker_group_state.num_workers, time.monotonic()
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

    def _room(self) -> int:
        """How many more workers find a place now."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        free = ray._private.state.available_resources_per_node()
        return sum(
            int(min(resources.get(name, 0.0) // amount for name, amount in self._needs().items() if amount))
            for node, resources in free.items()
            if node in alive
        )
