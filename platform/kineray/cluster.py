"""One way to reach Ray: the cluster this process belongs to, or a local one."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from kineray.errors import KinerayError, Terminated
from kineray.network import bypass_proxies
from kineray.threads import wait_without_spinning

log = logging.getLogger(__name__)

_STARTED_HERE = Path("/tmp/ray/ray_current_cluster")  # where ``ray start`` leaves its address
_ANSWER_S = 5.0
_SILENCE = "something else listens there, or nothing"
_ATTEMPTS = 3  # of a local Ray: it gives its own processes 30 s, which no setting changes

# Read by Ray when it is imported or initialised, on the driver; Ray hands them to its workers.
_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # workers keep the driver's directory, so relative paths mean one thing
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also the interval at which its controller polls
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "1800",  # the default is to wait forever for a lost rank
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # 128 workers import torch at once
    # How long a local Ray may take to start; on a busy machine or a cold disk the defaults are too short.
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_worker_niceness": "0",  # by default any other program of the host goes before a worker: 15
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # its controller runs in the driver
}
_LOCAL_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more process; a local Ray loses no hosts
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "kineray.serving.proxy:middlewares",
}


def connect(*, dashboard: bool = False) -> bool:
    """Connect this process to Ray, once; returns whether it joined a cluster that was running already.

    Joins the cluster of ``RAY_ADDRESS``, or one that ``ray start`` (so also ``ray up``) runs on this
    host; otherwise starts a local one that ends with this process. ``dashboard`` is needed by Ray
    Serve's declarative deploys. A local cluster uses token authentication (Ray's default). Raises
    KinerayError if ``RAY_ADDRESS`` names a cluster that does not answer (``unreachable``) and if a
    local one does not start in time (``ray_not_started``).
    """
    bypass_proxies()
    ray = import_ray()
    address = _address()
    if ray.is_initialized():
        return address is not None
    if address is None:
        _start_local(dashboard)
    else:
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # of many kinds: another version, a wrong token, a malformed address
            log.debug("Ray could not be joined", exc_info=True)
            raise _unreachable(address, _first_line(error)) from error
    bypass_proxies(*(node["NodeManagerAddress"] for node in ray.nodes()))
    return address is not None


def may_join() -> bool:
    """Whether ``connect`` would look for a running cluster rather than start a local one."""
    return os.environ.get("RAY_ADDRESS", "local") != "local" or _STARTED_HERE.exists()


def import_ray() -> Any:
    """The module, imported with kineray's settings."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    wait_without_spinning()  # processes of a local Ray inherit it
    # RAY_AUTH_MODE is left to ray.init: set here, it would come too late for a Ray that is imported already.
    import ray

    return ray


def _start_local(dashboard: bool) -> None:
    import ray

    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init("local", include_dashboard=dashboard, log_to_driver=False, logging_level="ERROR")
        except SystemExit:  # Ray's handler of SIGTERM, while it starts
            raise Terminated from None
        except Exception as error:  # Ray raises no narrower class if one of its processes starts late
            log.debug("Ray did not start", exc_info=True)
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise _not_started(error) from error
            log.warning("Ray is slow to start on this machine; trying again")
        else:
            return


def _not_started(error: Exception) -> KinerayError:
    return KinerayError(
        f"a local Ray did not start in {_ATTEMPTS} attempts: {_first_line(error)}",
        code="ray_not_started",
        remedy="try again when the machine is less busy, or start Ray yourself first: ray start --head",
    )


def _unreachable(address: str, reason: str = "") -> KinerayError:
    named = "RAY_ADDRESS" in os.environ
    return KinerayError(
        f"no Ray cluster answers at {address}{f' ({reason})' if reason else ''}",
        code="unreachable",
        key="RAY_ADDRESS" if named else _STARTED_HERE,
        remedy="set it to HOST:6379 of a running cluster's head, or unset it" if named else "ray stop",
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _address() -> str | None:
    """The cluster to join; None to start a local one."""
    asked = os.environ.get("RAY_ADDRESS")
    if asked == "local":
        return None
    if asked:
        # Ray would go on trying for many minutes.
        if (problem := _why_not(asked)) is not None:
            raise _unreachable(asked, problem)
        return asked
    if not _STARTED_HERE.exists():
        return None
    started_here = _STARTED_HERE.read_text().strip()
    return started_here if _why_not(started_here) is None else None  # an ended cluster leaves its address


def _why_not(address: str) -> str | None:
    """Why no Ray can be joined at ``host:port`` or ``ray://host:port``; other forms are left to Ray.

    None if one answers. That something listens says little: it may be any other server.
    """
    if address.startswith(("http://", "https://")):
        return "that is an address of Ray's dashboard or jobs"
    found = re.fullmatch(r"(ray://)?([^/\s]+:\d+)", address)
    if found is None:
        return None
    import grpc
    from ray._private.gcs_utils import create_gcs_channel
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    channel = create_gcs_channel(found[2])
    try:
        if found[1]:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_S)
        else:
            NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=_ANSWER_S)
    except grpc.FutureTimeoutError:
        return _SILENCE
    except grpc.RpcError as error:
        return _meaning(error.code().name, str(error.details()))
    finally:
        channel.close()
    return None


def _meaning(code: str, details: str) -> str | None:
    """What the status of a gRPC call says against joining; None if it comes from a Ray."""
    if code in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:  # Ray itself says what it lacks
        return None
    if code == "UNIMPLEMENTED":
        return "another port of Ray, or another server"
    signs = {"refused": "connection refused", "DNS": "unknown host name"}
    return next((meaning for sign, meaning in signs.items() if sign in details), _SILENCE)


def cpus_of_this_node() -> int:
    """CPUs of the host of this process, as Ray counts them; at least 1."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return max(int(resources.get("CPU", 1)), 1)


def driver_node() -> object:
    """Scheduling strategy that pins an actor to the host of this process."""
    import ray

    return on_node(ray.get_runtime_context().get_node_id())


def on_node(node: str) -> object:
    """Scheduling strategy that pins a task or an actor to the host with this id."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)
