"""The Ray cluster that a process joins."""

import os
import subprocess
import sys

import pytest

CODE = """
import ray
from kineray.cluster import connect
from kineray.errors import KinerayError
try:
    print(connect(), ray.is_initialized())
except KinerayError as error:
    print(error.code, error.key, bool(error.remedy))
"""


def connecting(address, **environment):
    """What a new process prints that connects to ``address``."""
    return subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"RAY_ADDRESS": address} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


@pytest.mark.slow
def test_an_address_joins_that_cluster_and_local_starts_one(ray_cluster):
    import ray

    assert connecting(ray.get_runtime_context().gcs_address) == "True True\n"
    assert connecting("local") == "False True\n"


def test_an_address_where_nothing_answers_is_one_clear_error():
    assert connecting("127.0.0.1:9") == "unreachable RAY_ADDRESS True\n"


def test_a_local_ray_that_starts_too_slowly_is_one_clear_error():
    """Ray is given no time at all, as on a machine that is too busy."""
    assert connecting("local", RAY_gcs_server_port_wait_time_s="0") == "ray_not_started  True\n"
