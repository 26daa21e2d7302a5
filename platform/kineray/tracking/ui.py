"""MLflow's user interface for a storage folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from kineray.errors import TrackingError
from kineray.network import direct
from kineray.storage import runs_folder
from kineray.tracking.client import check_tracking, tracking_uri, without_password

_LONGEST_START_S = 120.0
_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextlib.contextmanager
def open_ui(storage: str | None = None, port: int | None = None) -> Iterator[str]:
    """Show the runs of ``storage`` in a browser on this host while the body runs; yields the URL.

    If MLFLOW_TRACKING_URI names a server, that is the URL. ``port``: by default a free one. Raises
    TrackingError if MLflow cannot be reached or its server does not start.
    """
    folder = runs_folder(storage)
    check_tracking(folder)
    uri = tracking_uri(folder)
    if uri.startswith("http"):
        yield without_password(uri)
        return
    port = port or _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", uri]
    server = subprocess.Popen(
        command,
        env=os.environ | _ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which ends the server and its workers
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, server)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # the server and its worker
        server.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _LONGEST_START_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            direct.open(f"{url}/health", timeout=2).close()
            return
        time.sleep(0.2)
    raise TrackingError(
        "MLflow's server did not start",
        code="ui_not_started",
        key=url,
        remedy="choose another `port`",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
