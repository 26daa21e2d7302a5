"""The Ray cluster that a process joins."""

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CODE = """
import os, sys
import ray
from kineray.cluster import connect
from kineray.errors import KinerayError
for address in sys.argv[1:]:
    os.environ["RAY_ADDRESS"] = address
    try:
        print(connect(), ray.is_initialized())
    except KinerayError as error:
        print(error.code, error.key, bool(error.remedy))
"""


def connecting(*addresses, **environment):
    """What a new process prints that connects to one address after the other."""
    return subprocess.run(
        [sys.executable, "-c", CODE, *addresses],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.mark.slow
def test_an_address_joins_that_cluster_and_local_starts_one(ray_cluster):
    import ray

    assert connecting(ray.get_runtime_context().gcs_address) == "True True\n"
    assert connecting("local") == "False True\n"
    another_port = ray.nodes()[0]["NodeManagerPort"]
    assert connecting(f"127.0.0.1:{another_port}") == "unreachable RAY_ADDRESS True\n"


@pytest.mark.slow
def test_workers_of_a_local_ray_are_not_nicer_than_other_programs(ray_cluster):
    import ray

    assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == 0


@pytest.fixture
def http_port():
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_an_address_where_no_ray_answers_is_one_clear_error_in_seconds(http_port):
    """Nothing listens, a server of another kind, one that says nothing; an address of the dashboard."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_port = silent.getsockname()[1]
        addresses = ("127.0.0.1:9", f"127.0.0.1:{http_port}", f"127.0.0.1:{silent_port}", "http://x:8265")
        assert connecting(*addresses) == 4 * "unreachable RAY_ADDRESS True\n"


def test_a_local_ray_that_starts_too_slowly_is_one_clear_error():
    """Ray is given no time at all, as on a machine that is too busy."""
    assert connecting("local", RAY_gcs_server_port_wait_time_s="0") == "ray_not_started  True\n"
