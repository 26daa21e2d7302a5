"""Which Ray cluster a process joins."""

import os
import subprocess
import sys

import pytest

CODE = "from kineray.cluster import connect; import ray; print(connect(), ray.is_initialized())"


def connecting(address):
    environment = os.environ | {"RAY_ADDRESS": address}
    return subprocess.run(
        [sys.executable, "-c", CODE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_an_address_joins_that_cluster_and_local_starts_one(ray_cluster):
    import ray

    assert connecting(ray.get_runtime_context().gcs_address).stdout == "True True\n"
    assert connecting("local").stdout == "False True\n"


def test_an_address_where_nothing_answers_is_one_clear_error():
    done = connecting("127.0.0.1:9")
    assert done.returncode == 1
    assert "RAY_ADDRESS: no Ray cluster answers at 127.0.0.1:9" in done.stderr


def test_a_local_ray_that_is_late_is_one_clear_error(monkeypatch):
    """Ray given no time at all: what a machine that is too busy does to it."""
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "0")
    code = (
        "from kineray.cluster import connect\nfrom kineray.errors import KinerayError\n"
        "try: connect()\nexcept KinerayError as error: print(error.code, bool(error.remedy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ray_not_started True\n", done.stderr
