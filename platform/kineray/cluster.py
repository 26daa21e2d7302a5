"""One way to reach Ray: the cluster this process belongs to, or a local one."""

import os
from pathlib import Path

# Read by Ray when it is imported or initialised, on the driver; Ray hands them to its workers.
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers keep the driver's directory, so relative paths mean one thing
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also what one controller poll costs
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",  # the default is to wait for a lost rank for ever
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # 128 workers import torch at once
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}


def connect(*, dashboard: bool = False) -> bool:
    """Connect this process to Ray, once; returns whether it joined a cluster that runs without it.

    Joins the cluster of ``RAY_ADDRESS``, or one that ``ray start`` (so also ``ray up``) runs on this
    host; otherwise starts a local one that ends with this process. ``dashboard`` is needed by Ray
    Serve's declarative deploys. A local cluster uses token authentication (Ray's default).
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    joins = "RAY_ADDRESS" in os.environ or Path("/tmp/ray/ray_current_cluster").exists()
    # RAY_AUTH_MODE is left to ray.init: set here, it would come too late for a Ray that is imported already.
    import ray

    if ray.is_initialized():
        return joins
    if joins:
        ray.init(log_to_driver=False, logging_level="ERROR")
    else:
        ray.init(include_dashboard=dashboard, log_to_driver=False, logging_level="ERROR")
    return joins


def driver_node() -> object:
    """Scheduling strategy that pins an actor to the host of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
