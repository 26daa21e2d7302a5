"""Starting a service, keeping it until it is stopped, and stopping one."""

import contextlib
import logging
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

from kineray import storage as store
from kineray.cluster import connect, import_ray
from kineray.errors import KinerayError, ServingError, StorageError
from kineray.options import DEFAULT_CROPS, DEFAULT_TOP_K, DEFAULT_VIEWS
from kineray.serving import background as behind
from kineray.serving import record
from kineray.serving.limits import Limits
from kineray.serving.lock import one_change
from kineray.serving.service import Service, find_service
from kineray.tracking import CHAMPION, DEFAULT_MODEL, ModelVersion, fetch, get_version

log = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 64 * 2**20

_GPU_SHARE = 0.5  # so that a replica and its successor fit on the same GPU
_STOP_TIMEOUT_S = 240.0  # requests are answered first
_ORIGIN = re.compile(r"\*|https?://[^/\s,]+")


def serve(
    *,
    storage: str | None = None,
    model_name: str = DEFAULT_MODEL,
    host: str = "127.0.0.1",
    port: int = 8000,
    views: int = DEFAULT_VIEWS,
    crops: int = DEFAULT_CROPS,
    top_k: int = DEFAULT_TOP_K,
    max_bytes: int = DEFAULT_MAX_BYTES,
    cors: Sequence[str] = (),
    background: bool = False,
    on_ready: Callable[[str, int], None] | None = None,
) -> None:
    """Serve the champion over HTTP until SIGINT or SIGTERM. Must be called in the main thread.

    ``storage``: of the runs and the registry, KINERAY_STORAGE or ./runs by default. ``model_name``: the
    model's name in the registry. A video is scored in ``views`` clips along time, each cut ``crops`` times
    (1 or 3). ``top_k``: number of classes per head in an answer. ``max_bytes``: size of the largest accepted
    video. ``cors``: web origins, such as ``https://example.org``, whose pages may call the service; ``*`` for
    all. ``background``: return when requests are answered, and leave the service to a process of its own,
    which ``stop_service`` ends; this may be called in any thread. ``on_ready(url, version)`` is called when
    requests are answered. Promotions reach the service without a restart.

    Raises TrackingError if there is no champion, ServingError if the port is in use or the storage is already
    being served, and with ``background`` whatever the other process raises before it is ready.
    """
    for origin in cors:
        _check_origin(origin)
    runs = store.absolute(store.runs_folder(storage))
    options = {"views": views, "crops": crops, "top_k": top_k, "max_bytes": max_bytes}
    if background:
        arguments = {"model_name": model_name, "host": host, "port": port, "cors": list(cors), **options}
        url, number = behind.start(runs, arguments)
        if on_ready is not None:
            on_ready(url, number)
        return
    # What cannot succeed must fail before anything starts.
    _check_not_served(runs)
    fetch(runs, get_version(runs, model_name, CHAMPION))
    with contextlib.ExitStack() as starting:
        # A promotion at the same time waits, and then finds the service; so does another ``serve``.
        starting.enter_context(one_change(runs))
        _check_not_served(runs)
        with _ray(), _until_signal():
            service = _this_service(runs, model_name, host, port)
            _check_cluster(service)
            _check_port(service, host, port)
            http = {"host": host, "port": port, "request_timeout_s": Limits(max_bytes).request_s + 5}
            args = {"service": service.id, "storage": runs, "origins": list(cors), "gpus": _gpus(), **options}
            version = get_version(runs, model_name, CHAMPION)
            fetch(runs, version)
            with _removed_at_the_end(service):
                service.start(version, args, http)
                record.write(service)
                version = _follow(service, version)
                starting.close()
                if on_ready is not None:
                    on_ready(service.url, version.version)
                while True:  # until a signal raises
                    time.sleep(record.BEAT_S)
                    _beat(service)


def stop_service(storage: str | None = None) -> bool:
    """End the service of a storage, when it has answered its requests; whether there was one.

    ``storage``: KINERAY_STORAGE or ./runs by default. Raises ServingError if its process is on another host.
    """
    runs = store.absolute(store.runs_folder(storage))
    service = find_service(runs)
    if service is None:
        return False
    if not service.has_process():  # it was killed, on a Ray cluster that goes on
        service.stop()
        record.delete(service)
        return True
    if not service.is_here:
        raise ServingError(
            f"process {service.pid} on {service.host} keeps it",
            code="other_host",
            key=runs,
            remedy=f"run this on {service.host}",
        )
    log.info("waiting for process %d to end", service.pid)
    os.kill(service.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while service.has_process():
        if time.monotonic() > deadline:
            raise ServingError(
                f"its process has not ended within {_STOP_TIMEOUT_S:.0f} s",
                code="not_stopped",
                key=runs,
                remedy=f"kill process {service.pid}",
            )
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    """Ray, which ends with the body if it starts here."""
    import_ray()
    import ray

    starts_here = not ray.is_initialized()
    try:
        log.info("waiting for Ray")
        connect(dashboard=True)
        yield
    finally:
        if starts_here:
            ray.shutdown()


def _this_service(runs: str, model_name: str, host: str, port: int) -> Service:
    url = f"http://{_reachable(host)}:{port}"
    return Service(**vars(record.here(uuid.uuid4().hex, runs, model_name, url, _dashboard_url())))


def _gpus() -> float:
    import ray

    return _GPU_SHARE if ray.cluster_resources().get("GPU", 0) else 0.0


@contextlib.contextmanager
def _removed_at_the_end(service: Service) -> Iterator[None]:
    """The application and the record that the body makes are removed after it."""
    try:
        yield
    finally:
        with contextlib.suppress(StorageError):
            record.delete(service)
        with contextlib.suppress(ServingError):
            service.stop()


def _follow(service: Service, version: ModelVersion) -> ModelVersion:
    """Serve the champion that a promotion on another host, which shares no lock, has made meanwhile."""
    champion = get_version(service.storage, service.model_name, CHAMPION)
    if champion.version != version.version:
        with service.deployed(champion):
            pass
    return champion


def _beat(service: Service) -> None:
    try:
        if not record.refresh(service):
            log.debug("another service has replaced the record of this one")
    except StorageError:
        log.debug("the record cannot be written", exc_info=True)


def _check_not_served(storage: str) -> None:
    running = find_service(storage)
    # What a killed process has left on a cluster that goes on is replaced.
    if running is not None and running.has_process():
        raise ServingError(
            f"process {running.pid} on {running.host} is already serving it, at {running.url}",
            code="served_already",
            key=storage,
            remedy="stop that service"
            if running.is_here
            else f"stop that service, or wait a minute if {running.host} is gone",
        )


def _check_origin(origin: str) -> None:
    if not _ORIGIN.fullmatch(origin):
        raise ServingError(
            "not a web origin",
            code="bad_origin",
            key="cors",
            value=origin,
            remedy="such as https://example.org",
        )


def _dashboard_url() -> str:
    import ray

    url = ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR").dashboard_url
    if not url:
        raise ServingError(
            "the Ray cluster has no dashboard, which Ray Serve needs",
            code="no_dashboard",
            remedy="start Ray with its dashboard",
        )
    return f"http://{url}"


def _check_cluster(service: Service) -> None:
    """Raise ServingError if the cluster's application belongs to a service of another storage that runs."""
    if service.http_options() is None:
        return
    application = service.application()
    other = application["args"].get("storage") if application else None
    if other is None or other == service.storage:
        return
    try:
        running = find_service(other)
    except KinerayError:  # it cannot be read from here
        running = None
    if running is not None and running.dashboard == service.dashboard:
        raise ServingError(
            f"this Ray cluster already serves {other}",
            code="cluster_in_use",
            key=service.dashboard,
            remedy="stop that service, or use another cluster",
        )


def _check_port(service: Service, host: str, port: int) -> None:
    listening = service.http_options()
    if listening is not None:
        if (listening["host"], listening["port"]) != (host, port):
            raise ServingError(
                f"on this cluster, Ray Serve already listens on {listening['host']}:{listening['port']}",
                code="other_address",
                key=f"{host}:{port}",
                remedy=f"pass `host` {listening['host']} and `port` {listening['port']}",
            )
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                str(error.strerror),
                code="port_in_use",
                key=f"{host}:{port}",
                remedy="pass another `port`, or stop the process that listens there",
            ) from None


def _reachable(host: str) -> str:
    """The address at which clients reach a server that listens on ``host``."""
    if host != "0.0.0.0":
        return host
    import ray

    address: str = ray.util.get_node_ip_address()
    return address


class _Stopped(BaseException):
    """SIGINT or SIGTERM has arrived, before or after the service was ready."""


@contextlib.contextmanager
def _until_signal() -> Iterator[None]:
    """End the body at SIGINT or SIGTERM. Enter it after Ray is connected, which sets its own handlers."""

    def on_signal(_number: int, _frame: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # further signals must not disturb the shutdown
        raise _Stopped

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    except _Stopped:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
