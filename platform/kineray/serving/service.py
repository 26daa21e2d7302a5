"""A running service: started by this process, or found through ``<storage>/serve.json``.

Ray Serve runs the application. Its declarative configuration is read and written through the REST API of
the cluster's dashboard.
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kineray import storage as store
from kineray.cluster import connect
from kineray.config import check_main_guard, loaded_plugins
from kineray.errors import ServingError
from kineray.evaluation import DEFAULT_CROPS, DEFAULT_TOP_K, DEFAULT_VIEWS
from kineray.tracking import CHAMPION, DEFAULT_MODEL, ModelVersion, fetch, get_version

log = logging.getLogger(__name__)

APPLICATION = "kineray"
RECORD = "serve.json"
DEFAULT_MAX_BYTES = 64 * 2**20
REQUEST_TIMEOUT_S = 60.0

_IMPORT_PATH = "kineray.serving.app:build"
_DEPLOY_TIMEOUT_S = 600.0
_POLL_S = 0.5
_GPU_SHARE = 0.5  # so that a replica and its successor fit on the same GPU


@dataclass(frozen=True)
class Service:
    """A running service: the content of ``serve.json``."""

    storage: str
    model_name: str
    url: str
    dashboard: str
    host: str
    pid: int
    token_auth: bool

    @contextlib.contextmanager
    def deployed(self, version: ModelVersion) -> Iterator[None]:
        """Replace the served version; the body runs when ``version`` answers every request.

        The old replicas answer until the new ones do. If the new ones cannot start (ServingError) or the
        body raises, the old version is restored; in the first case it has never stopped answering.
        """
        before = self._application()
        try:
            self._put({**before, "args": {**before["args"], **_pin(version)}})
            self._wait_for(version.version)
            yield
        except BaseException:
            self._put(before)
            self._wait_for(before["args"]["version"])
            raise

    def start(self, version: ModelVersion, args: dict[str, Any], http: dict[str, Any]) -> None:
        """Deploy the application on a cluster on which it is not running yet."""
        application = {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": _IMPORT_PATH,
            "args": {**args, **_pin(version)},
        }
        self._put(application, http=http)
        self._wait_for(version.version)

    def stop(self) -> None:
        """Remove the application from the cluster; other applications stay."""
        self._put(None)

    def version(self) -> int | None:
        """The version that answers, or None if none does."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.url}/v1/model", timeout=10) as response:
                answer = json.load(response)
        except (OSError, ValueError):  # refused, timed out, an error status, not JSON
            return None
        return int(answer["version"])

    def http_options(self) -> dict[str, Any] | None:
        """The host and port at which Serve listens on this cluster; None if it is not running."""
        options: dict[str, Any] | None = self._details().get("http_options")
        return options

    def _application(self) -> dict[str, Any]:
        details = self._details()["applications"].get(APPLICATION)
        if details is None or details.get("deployed_app_config") is None:
            raise ServingError(
                f"Ray Serve has no application '{APPLICATION}'",
                code="no_application",
                key=self.dashboard,
                remedy="start the service again",
            )
        config: dict[str, Any] = details["deployed_app_config"]
        return config

    def _put(self, application: dict[str, Any] | None, http: dict[str, Any] | None = None) -> None:
        """Write the whole configuration: this application, and the others unchanged."""
        details = self._details()
        applications = [
            other["deployed_app_config"]
            for name, other in details["applications"].items()
            if name != APPLICATION and other.get("deployed_app_config") is not None
        ]
        if application is not None:
            applications.append(application)
        config: dict[str, Any] = {"applications": applications}
        for key in ("http_options", "grpc_options", "proxy_location"):
            if details.get(key) is not None:
                config[key] = details[key]
        if http is not None:
            config["http_options"] = http
        with self._reaching():
            self._client().deploy_applications(config)

    def _wait_for(self, version: int) -> None:
        deadline = time.monotonic() + _DEPLOY_TIMEOUT_S
        while time.monotonic() < deadline:
            details = self._details()["applications"].get(APPLICATION, {})
            status = details.get("status")
            if status == "DEPLOY_FAILED":
                raise ServingError(
                    f"version {version} cannot be served: {_reason(details)}",
                    code="cannot_be_served",
                    key=self.model_name,
                    remedy="the previous version still answers",
                )
            if status == "RUNNING" and self.version() == version:
                return
            time.sleep(_POLL_S)
        raise ServingError(
            f"version {version} did not answer within {_DEPLOY_TIMEOUT_S:.0f} s",
            code="no_answer",
            key=self.url,
            remedy=f"see {self.dashboard}",
        )

    def _details(self) -> dict[str, Any]:
        with self._reaching():
            details: dict[str, Any] = self._client().get_serve_details()
        return details

    def _client(self) -> Any:
        if self.token_auth and os.environ.get("RAY_AUTH_MODE") != "token":
            from ray._raylet import Config  # type: ignore[attr-defined]

            os.environ["RAY_AUTH_MODE"] = "token"
            Config.initialize("")  # Ray may have been imported, and have read the variable, already
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        return ServeSubmissionClient(self.dashboard)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        from ray.exceptions import RayError
        from requests.exceptions import RequestException

        try:
            yield
        except (RequestException, ConnectionError, RuntimeError, RayError) as error:
            raise ServingError(
                f"the service of process {self.pid} on {self.host} cannot be reached: {_short(str(error))}",
                code="unreachable",
                key=self.dashboard,
                remedy=f"run this on {self.host}, or start the service again",
            ) from None


def find_service(storage: str) -> Service | None:
    """The running service of this storage folder, or None.

    The record that a killed service left behind is ignored. Raises StorageError, and ServingError if
    ``serve.json`` is not the record of a service.
    """
    path = store.join(storage, RECORD)
    if not store.exists(path):
        return None
    try:
        service = Service(**json.loads(store.read_bytes(path)))
    except (ValueError, TypeError):
        raise ServingError(
            "not the record of a service", code="not_a_record", key=path, remedy="delete it"
        ) from None
    if service.host == socket.gethostname() and not _is_alive(service.pid):
        log.info("%s: process %d ended without removing it", path, service.pid)
        return None
    return service


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
    on_ready: Callable[[str, int], None] | None = None,
) -> None:
    """Serve the champion over HTTP until SIGINT or SIGTERM. Must be called in the main thread.

    ``storage``: of the runs and the registry, KINERAY_STORAGE or ./runs by default. ``model_name``: the
    model's name in the registry. A video is scored in ``views`` clips along time, each cut ``crops`` times
    (1 or 3). ``top_k``: number of classes per head in an answer. ``max_bytes``: size of the largest accepted
    video. ``on_ready(url, version)`` is called when requests are answered. Promotions reach the service
    without a restart. Raises TrackingError if there is no champion, ServingError if the port is in use or
    the storage is already being served.
    """
    runs = store.runs_folder(storage)
    version = get_version(runs, model_name, CHAMPION)
    running = find_service(runs)
    if running is not None:
        raise ServingError(
            f"process {running.pid} on {running.host} is already serving it, at {running.url}",
            code="served_already",
            key=runs,
            remedy="stop that process",
        )
    fetch(runs, version)  # a version that cannot be read must fail before anything starts
    import ray

    starts_ray = not ray.is_initialized()
    try:
        connect(dashboard=True)
        gpus = _GPU_SHARE if ray.cluster_resources().get("GPU", 0) else 0.0
        service = Service(
            storage=store.absolute(runs),
            model_name=model_name,
            url=f"http://{_reachable(host)}:{port}",
            dashboard=_dashboard_url(),
            host=socket.gethostname(),
            pid=os.getpid(),
            token_auth=os.environ.get("RAY_AUTH_MODE") == "token",
        )
        http = {"host": host, "port": port, "request_timeout_s": REQUEST_TIMEOUT_S}
        _check_port(service, host, port)
        args = {
            "storage": service.storage,
            "views": views,
            "crops": crops,
            "top_k": top_k,
            "max_bytes": max_bytes,
            "gpus": gpus,
        }
        with _until_signal():
            _run(service, version, args, http, on_ready)
    finally:
        if starts_ray:
            ray.shutdown()


def _run(
    service: Service,
    version: ModelVersion,
    args: dict[str, Any],
    http: dict[str, Any],
    on_ready: Callable[[str, int], None] | None,
) -> None:
    record = store.join(service.storage, RECORD)
    try:
        service.start(version, args, http)
        store.write_bytes(record, json.dumps(dataclasses.asdict(service), indent=2).encode())
        if on_ready is not None:
            on_ready(service.url, version.version)
        threading.Event().wait()  # until a signal raises
    finally:
        store.delete_file(record)
        with contextlib.suppress(ServingError):
            service.stop()


def _pin(version: ModelVersion) -> dict[str, Any]:
    """The arguments of the application that pin the version it serves and the version's plug-ins."""
    check_main_guard("kineray.promote or kineray.serve")
    plugins = [plugin.to_json() for plugin in loaded_plugins()]
    return {**dataclasses.asdict(version), "plugins": plugins}


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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _reason(details: dict[str, Any]) -> str:
    """The error that kept replicas from starting, in one line, extracted from Serve's messages."""
    messages = [details.get("message") or ""]
    messages += [deployment.get("message") or "" for deployment in details.get("deployments", {}).values()]
    text = "\n".join(messages)
    raised = re.findall(r"kineray\.errors\.\w+: (.+)", text) or re.findall(
        r"^\w[\w.]*Error: (.+)$", text, re.M
    )
    return _short(raised[-1] if raised else text)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:300]}..."
