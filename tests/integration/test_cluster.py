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
    assert "RAY_ADDRESS=127.0.0.1:9: no Ray cluster answers there" in done.stderr
