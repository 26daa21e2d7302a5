"""``kineray doctor``: checks that this machine has everything that a run needs."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from kineray.cli.output import json_option, show, storage_option


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``fix``: what to do if not ``ok``; ``needed``: whether runs fail without it."""

    what: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Report:
    """All findings. ``healthy``: whether everything that a run needs is there."""

    healthy: bool
    checks: tuple[Finding, ...]


@click.command(name="doctor", short_help="Check that this machine has everything that a run needs.")
@storage_option
@json_option
def command(storage: str, as_json: bool) -> int:
    """Check everything that a run needs, a line each, with a fix for each problem.

    Exit code 0: a run has all it needs; 1: it does not.
    """
    report = examine(storage)
    lines = [
        f"{'ok  ' if f.ok else 'FAIL' if f.needed else 'warn'} {f.what:<12} {f.detail}"
        + (f"\n     fix: {f.fix}" if not f.ok and f.fix else "")
        for f in report.checks
    ]
    then = ("kineray demo",) if report.healthy else ()
    show(report, "\n".join(lines), as_json=as_json, then=then)
    return 0 if report.healthy else 1


def examine(storage: str) -> Report:
    """Check this machine and ``storage``. Missing or broken parts are findings; nothing is raised."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _torch,
        lambda: _package("torchvision", "torchvision", "pip install torchvision"),
        lambda: _package("Ray", "ray", "pip install 'kineray[ray]'"),
        _pyav,
        lambda: _mlflow(storage),
        lambda: _storage(storage),
        lambda: _s3(storage),
    )
    findings = tuple(_guarded(check) for check in checks)
    return Report(all(finding.ok or not finding.needed for finding in findings), findings)


def _guarded(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a broken installation can raise anything; the report must be complete
        name = getattr(check, "__name__", "check").strip("_")
        return Finding(
            name, False, f"{type(error).__name__}: {' '.join(str(error).split())}", "reinstall kineray"
        )


def _python() -> Finding:
    version = platform.python_version()
    return Finding("Python", sys.version_info >= (3, 11), version, "use Python 3.11 or newer")


def _package(what: str, name: str, fix: str) -> Finding:
    try:
        return Finding(what, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(what, False, "not installed", fix)


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", False, str(error), "pip install torch torchvision")
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return Finding("torch", True, f"{torch.__version__}, {count} x {torch.cuda.get_device_name(0)}")
    return Finding("torch", True, f"{torch.__version__}, no GPU: CPU with {torch.get_num_threads()} threads")


def _pyav() -> Finding:
    import av
    from av.codec import Codec

    missing = []
    for name in ("h264", "hevc", "vp9", "av1"):
        try:
            Codec(name, "r")
        except ValueError:
            missing.append(name)
    decoders = ", ".join(name for name in ("h264", "hevc", "vp9", "av1") if name not in missing)
    return Finding(
        "PyAV",
        "h264" not in missing,
        f"{av.__version__}, decodes {decoders}",
        "pip install --force-reinstall av (its wheel carries the codecs)",
    )


def _mlflow(storage: str) -> Finding:
    try:
        version = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return Finding("MLflow", False, "not installed", "pip install 'kineray[ray]'")
    from kineray.errors import KinerayError
    from kineray.tracking import check_tracking, tracking_uri

    uri = _without_password(tracking_uri(storage))
    try:
        check_tracking(storage)
    except KinerayError as error:
        return Finding(
            "MLflow", False, f"{version}, {error}", f"start the server, or unset MLFLOW_TRACKING_URI ({uri})"
        )
    return Finding("MLflow", True, f"{version}, {uri}")


def _storage(storage: str) -> Finding:
    if "://" in storage:
        return Finding("storage", True, f"{storage} (see S3 below)")
    folder = Path(storage).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            "storage", False, f"{folder}: {error.strerror}", "pass --storage FOLDER that you can write to"
        )
    free = shutil.disk_usage(existing).free / 2**30
    return Finding(
        "storage", free > 1, f"{folder} writable, {free:.1f} GiB free", "free some space, or pass --storage"
    )


def _without_password(uri: str) -> str:
    # Not tracking's function of this name: the check of S3 must work without torch and MLflow.
    return re.sub(r"//[^/@]*@", "//", uri)


def _s3(storage: str) -> Finding:
    needed = "://" in storage
    import boto3

    credentials = boto3.Session().get_credentials()
    endpoint = _without_password(os.environ.get("AWS_ENDPOINT_URL", "AWS"))
    if credentials is None:
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run aws configure"
        return Finding(
            "S3", not needed, "no credentials configured (only needed for s3:// storage)", fix, needed
        )
    if not needed:
        return Finding(
            "S3", True, f"credentials from {credentials.method}, endpoint {endpoint}", needed=False
        )
    from kineray import storage as store
    from kineray.errors import StorageError

    probe = store.join(storage, ".kineray-doctor")
    try:
        with store.retry_for(10):  # do not wait for a server that may be restarting
            store.write_bytes(probe, b"ok")
            store.delete_file(probe)
    except StorageError as error:
        return Finding("S3", False, str(error), "check the bucket's name, its policy and AWS_ENDPOINT_URL")
    return Finding(
        "S3", True, f"credentials from {credentials.method}, endpoint {endpoint}, {storage} writable"
    )
