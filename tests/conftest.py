"""Fixtures that several kinds of tests share: videos, a small experiment, a Ray cluster, an S3 server."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager

import pytest
from hypothesis import settings

from kineray.config import CosineConfig, DataConfig, Experiment, SgdConfig, SlowFastConfig, TrainConfig

# Tests must not depend on the developer's environment, nor join another Ray cluster than their own.
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("KINERAY_STORAGE", None)
os.environ.pop("KINERAY_WORKERS", None)
os.environ.pop("KINERAY_CACHE_SIZE", None)
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers have it from the process that starts them
    _cache = tempfile.TemporaryDirectory(prefix="kineray-cache-", ignore_cleanup_errors=True)
    os.environ["KINERAY_CACHE"] = _cache.name
os.environ.pop("MLFLOW_TRACKING_URI", None)

# Many tests start processes that import the same packages: let the first one write their bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell has Ctrl-C ignored in what it starts in the background, and tests start programs that inherit this.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # pytest-xdist starts a worker for every core

# How long an example takes says how busy the machine is.
settings.register_profile("kineray", deadline=None)
settings.load_profile("kineray")


@pytest.fixture(autouse=True)
def _ordinary_priority():
    """SVT-AV1 gives threads that encode the highest real-time priority, and all others would wait."""
    _be_ordinary()
    yield
    _be_ordinary()


def _be_ordinary():
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session")
def motion_manifest(tmp_path_factory):
    """Path of a manifest of 48 training and 16 validation videos."""
    from kineray.data.derive.synth import synthesize

    return synthesize(tmp_path_factory.mktemp("motion"), train=48, val=16)


@pytest.fixture(scope="session")
def tiny_experiment(motion_manifest):
    """Trains in seconds: 3 epochs of 3 steps of 16 clips at 32 pixels."""
    return Experiment(
        name="tiny",
        data=DataConfig(
            manifest=str(motion_manifest),
            frames=8,
            stride=2,
            fps=15,
            short_side=(36, 40),
            crop=32,
            eval_short_side=36,
            eval_crop=32,
            flip=False,
        ),
        model=SlowFastConfig(
            stage_blocks=(1, 1, 1, 1), width=8, alpha=4, beta_inv=4, head_pool=1, dropout=0.2
        ),
        optim=SgdConfig(lr=0.1, reference_batch=16),
        schedule=CosineConfig(warmup_epochs=1, warmup_start=0.1),
        train=TrainConfig(epochs=3, global_batch=16, bn_group=4),
    )


@pytest.fixture
def kineray(capsys):
    """Run a command: ``kineray("runs", "--json") -> (exit code, stdout, stderr)``."""
    from kineray.cli import run

    def call(*words):
        with pytest.raises(SystemExit) as stopped:
            run(words)
        return (stopped.value.code, *capsys.readouterr())

    level = logging.getLogger().level
    yield call
    logging.getLogger().setLevel(level)  # as it was before --verbose


@pytest.fixture(scope="session")
def ray_cluster():
    """One local Ray cluster, with the dashboard that Ray Serve needs for deployments."""
    import ray

    from kineray.cluster import connect

    connect(dashboard=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def on_cluster(ray_cluster):
    """The environment of a process that is to join ``ray_cluster``: a Ray of its own takes long to start."""
    import ray

    return os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="session")
def endpoint():
    """The URL of a moto S3 server on a free port of the loopback interface."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch, tmp_path):
    """The URI of an empty bucket, with the environment as a user sets it up and an empty cache."""
    from kineray.storage.s3 import call

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("KINERAY_CACHE", str(tmp_path / "cache"))
    name = f"bucket-{os.urandom(4).hex()}"
    call(f"s3://{name}", "create_bucket", Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def _proxy(endpoint):
    from s3_server import S3Server

    server = S3Server(endpoint)
    yield server
    server.kill()


@pytest.fixture
def s3_server(_proxy, s3, monkeypatch):
    """An S3Server that can be killed, restarted and made to fail, in front of the bucket of ``s3``."""
    _proxy.reset_all()
    monkeypatch.setenv("AWS_ENDPOINT_URL", _proxy.endpoint)
    yield _proxy
    _proxy.reset_all()


@pytest.fixture(scope="module")
def one_thread():
    """torch on one thread, so that equal computations give equal bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, half of which a file called filler takes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        (folder / "filler").write_bytes(bytes(2 * 2**20))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def plugins_of_its_own():
    """Plug-ins that are loaded inside are gone after it; those that were loaded before it."""
    from kineray.config import families, loaded_plugins, variants
    from kineray.config.plugins import _LOADED
    from kineray.config.sources import SOURCES
    from kineray.data import Importer  # noqa: F401 - a family that the configuration does not have

    before = loaded_plugins()
    for family in families():
        variants(family)  # imports kineray's own, which must stay
    modules, sources = dict(_LOADED), dict(SOURCES)
    members = {family: dict(family._members) for family in families()}
    try:
        yield before
    finally:
        for module in SOURCES.keys() - sources.keys():
            del SOURCES[module]
            sys.modules.pop(module, None)
        _LOADED.clear()
        _LOADED.update(modules)
        for family in families():
            family._members.clear()
            family._members.update(members.get(family, {}))


@pytest.fixture
def own_plugins():
    """``plugins_of_its_own`` around a test."""
    with plugins_of_its_own() as before:
        yield before
